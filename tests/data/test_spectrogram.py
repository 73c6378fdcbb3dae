"""Spectrograms against SciPy, librosa and Pillow; augmentation against what it promises."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from PIL import Image

from agegender_jax.data import spectrogram
from agegender_jax.data.spectrogram import (
    SPECTROGRAMS,
    SpectrogramSpec,
    augment_waves,
    decibels,
    find_spectrogram,
    mask,
    mel_filters,
    power,
    resizing_matrix,
    spectrogram_image,
)
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, make_mesh

LOG_MEL, AUDIOMNIST = SPECTROGRAMS["log_mel"], SPECTROGRAMS["audiomnist"]
ROWS = np.arange(100, 108, dtype=np.int32)


@pytest.fixture(params=["fft", "matrix"])
def _form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both formulations of the Fourier transform; eight simulated devices alone would only ever choose one."""
    monkeypatch.setattr(spectrogram, "_one_cpu", lambda: request.param == "fft")


both_forms = pytest.mark.usefixtures("_form")


def _run(function: Callable[..., jax.Array], waves: np.ndarray, *arguments: object) -> np.ndarray:
    """Traced anew at each call, so that it takes the formulation of the moment."""
    return np.asarray(jax.jit(lambda waves: function(waves, *arguments))(waves))


def _clips(spec: SpectrogramSpec) -> np.ndarray:
    """Noise, a chirp, a tone, a click."""
    time = np.arange(spec.samples) / spec.sample_rate
    click = np.zeros(spec.samples)
    click[spec.samples // 3] = 0.9
    chirp = 0.5 * scipy.signal.chirp(time, 50, spec.seconds, 0.49 * spec.sample_rate)
    noise = np.random.default_rng(0).normal(0, 0.1, spec.samples)
    return np.stack([noise, chirp, np.sin(2 * np.pi * 440 * time), click]).astype(np.float32)


def _scipy_power(wave: np.ndarray, spec: SpectrogramSpec) -> np.ndarray:
    """As AudioMNIST's own preparation has it."""
    _, _, transform = scipy.signal.stft(
        wave.astype(np.float64), spec.sample_rate, nperseg=455, noverlap=420, window="hann"
    )
    return np.abs(transform[0:227, 2:-1]) ** 2


def _librosa_power(wave: np.ndarray, spec: SpectrogramSpec) -> np.ndarray:
    import librosa

    return librosa.feature.melspectrogram(
        y=wave.astype(np.float64), sr=spec.sample_rate, n_fft=512, hop_length=160, win_length=400, n_mels=128
    )


PEERS = {"log_mel": _librosa_power, "audiomnist": _scipy_power}


def _assert_equal_to_peer(waves: np.ndarray, spec: SpectrogramSpec) -> None:
    import librosa

    expected = np.stack([PEERS[spec.name](wave, spec) for wave in waves])
    got = _run(power, waves, spec)
    assert (got.shape, got.dtype) == (expected.shape, np.float32)
    # Within 1e-4 of every value, down to where single precision ends: 95 dB below the clip's maximum.
    peak = expected.max((1, 2), keepdims=True)
    np.testing.assert_array_less(np.abs(got - expected), 1e-4 * expected + 3e-10 * peak)
    expected = np.stack([librosa.power_to_db(clip, ref=np.max, top_db=80.0) for clip in expected])
    got = _run(decibels, waves, spec)
    np.testing.assert_allclose(got, expected, atol=1e-4 * 80.0)


@both_forms
@pytest.mark.parametrize("name", sorted(SPECTROGRAMS))
def test_power_and_decibels_equal_scipy_and_librosa(name: str) -> None:
    _assert_equal_to_peer(_clips(SPECTROGRAMS[name]), SPECTROGRAMS[name])
    odd = _clips(SPECTROGRAMS[name])[:1, :-81]  # no whole number of hops
    np.testing.assert_allclose(
        _run(power, odd, SPECTROGRAMS[name])[0], PEERS[name](odd[0], SPECTROGRAMS[name]), rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize("fft", [512, 513])
def test_an_odd_window_is_centred_in_the_transform_as_librosa_has_it(fft: int) -> None:
    import librosa

    spec = dataclasses.replace(LOG_MEL, window=333, hop=100, fft=fft, scale="linear")
    wave = np.random.default_rng(1).normal(0, 0.1, (1, 5050)).astype(np.float32)
    expected = np.abs(librosa.stft(wave[0].astype(np.float64), n_fft=fft, hop_length=100, win_length=333)) ** 2
    np.testing.assert_allclose(_run(power, wave, spec)[0], expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    ("fft", "mels", "low", "high"), [(512, 128, 0, 8000), (512, 40, 300, 3400), (1024, 20, 0, 900)]
)
def test_mel_filters_equal_librosa(fft: int, mels: int, low: float, high: float) -> None:
    import librosa

    expected = librosa.filters.mel(sr=16_000, n_fft=fft, n_mels=mels, fmin=low, fmax=high)
    np.testing.assert_allclose(mel_filters(16_000, fft, mels, low, high), expected, atol=1e-6 * expected.max())
    assert mel_filters(16_000, 512, 128, 0, 8000).max(1).min() > 0  # no band of the default is empty


@pytest.mark.parametrize("name", sorted(SPECTROGRAMS))
def test_silence_is_all_floor_and_sixteen_bits_are_the_same_clip(name: str) -> None:
    spec = SPECTROGRAMS[name]
    silence = np.zeros((2, spec.samples), np.int16)
    assert (_run(decibels, silence, spec) == -80.0).all()
    assert (_run(power, silence, spec) == 0.0).all()
    assert (_run(spectrogram_image, silence, spec, 16) == 0.0).all()
    waves = (_clips(spec) * 32767).astype(np.int16)  # the same clips in sixteen bits
    np.testing.assert_array_equal(_run(power, waves, spec), _run(power, waves / np.float32(32768), spec))


@both_forms
@pytest.mark.parametrize(("name", "size"), [("log_mel", 224), ("audiomnist", 48)])
def test_image_equals_pillows_resize_of_the_peers_decibels(name: str, size: int) -> None:
    import librosa

    spec = SPECTROGRAMS[name]
    waves = np.tile(_clips(spec), (3, 1))[:11]  # more than one chunk, and a rest
    got = _run(spectrogram_image, waves, spec, size)
    assert (got.shape, got.dtype) == ((11, size, size, 3), np.float32)
    np.testing.assert_array_equal(got, np.repeat(got[..., :1], 3, axis=-1))
    for index in range(4):
        level = librosa.power_to_db(PEERS[name](waves[index], spec), ref=np.max, top_db=80.0)
        grey = Image.fromarray(((level[::-1] + 80.0) / 80.0 * 255.0).astype(np.float32))
        expected = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(got[index, :, :, 0], expected, atol=0.05)


@pytest.mark.parametrize(("size", "new_size"), [(201, 224), (201, 64), (128, 64), (5, 17), (7, 1), (9, 9)])
def test_resizing_matrix_equals_pillow_and_jax(size: int, new_size: int) -> None:
    line = np.random.default_rng(0).uniform(0, 255, (1, size)).astype(np.float32)
    got = line @ resizing_matrix(size, new_size).T
    expected = Image.fromarray(line).resize((new_size, 1), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(got, np.asarray(expected), atol=1e-3)
    np.testing.assert_allclose(got, jax.image.resize(line, (1, new_size), "linear"), atol=5e-3)


def test_a_batch_that_is_spread_over_devices_stays_where_it_is() -> None:
    waves = jax.device_put(np.tile(_clips(AUDIOMNIST), (2, 1)), by_batch(make_mesh()))

    @jax.jit
    def front_end(waves: jax.Array, rows: jax.Array) -> jax.Array:
        waves = augment_waves(waves, rows, jax.random.key(0), time_shift=0.1, gain=3.0, noise=0.1)
        images = spectrogram_image(waves, AUDIOMNIST, 32)
        return mask(images, rows, jax.random.key(0), time_mask=0.2, frequency_mask=0.2)

    compiled = front_end.lower(waves, jax.device_put(ROWS, by_batch(make_mesh()))).compile().as_text()
    assert not any(word in compiled for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))
    alone = front_end(np.asarray(waves), ROWS)
    np.testing.assert_allclose(front_end(waves, ROWS), alone, atol=0.05)


def test_find_spectrogram() -> None:
    assert (LOG_MEL.samples, AUDIOMNIST.samples) == (32_000, 8_000)
    assert find_spectrogram("log_mel") is LOG_MEL
    assert find_spectrogram("log_mel", 3.5) == dataclasses.replace(LOG_MEL, seconds=3.5)
    with pytest.raises(UserError, match="'mel'"):
        find_spectrogram("mel")
    for seconds in (0.01, -1.0, 601.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="'log_mel'"):
            find_spectrogram("log_mel", seconds)
    shortest = find_spectrogram("audiomnist", 0.08)
    assert jax.eval_shape(lambda w: power(w, shortest), np.ones((1, shortest.samples), np.float32)).shape[2] > 0


WAVES = np.random.default_rng(3).uniform(-0.5, 0.5, (8, 1000)).astype(np.float32)
EVERYTHING = {"time_shift": 0.2, "gain": 6.0, "noise": 0.3}
_augment = jax.jit(augment_waves, static_argnames=tuple(EVERYTHING))
_mask = jax.jit(mask, static_argnames=("time_mask", "frequency_mask"))


def test_nothing_asked_for_changes_nothing() -> None:
    waves = jnp.asarray(WAVES)
    assert augment_waves(waves, ROWS, None) is waves  # not even the key is used
    images = jnp.ones((8, 4, 4, 3))
    assert mask(images, ROWS, None) is images


def test_shifts_are_filled_with_zeros_and_stay_within_their_limit() -> None:
    waves = np.repeat(WAVES[:1], 300, axis=0)
    got = np.asarray(_augment(waves, np.arange(300), jax.random.key(0), time_shift=0.05))
    shifts = []
    for clip in got:
        shift = next(
            s
            for s in range(-50, 51)
            if (clip[max(s, 0) : 1000 + min(s, 0)] == WAVES[0, max(-s, 0) : 1000 - max(s, 0)]).all()
        )
        assert (clip[:shift] == 0).all() if shift > 0 else (clip[1000 + shift :] == 0).all()
        shifts.append(shift)
    assert min(shifts) < -45
    assert max(shifts) > 45
    assert abs(np.mean(shifts)) < 7  # 4 standard deviations of the mean of even samples


def test_gain_by_arithmetic() -> None:
    waves = np.repeat(WAVES[:1], 300, axis=0)
    got = np.asarray(_augment(waves, np.arange(300), jax.random.key(0), gain=6.0))
    factor = got / waves
    np.testing.assert_allclose(factor, factor[:, :1] + np.zeros_like(factor), rtol=1e-4)
    level = 20 * np.log10(factor[:, 0])
    assert -6.0 - 1e-3 <= level.min() < -5.5
    assert 5.5 < level.max() <= 6.0 + 1e-3


def test_noise_is_white_and_relative_to_the_clips_level() -> None:
    quiet = np.repeat(WAVES[:1] / 100, 300, axis=0)
    noise = np.asarray(_augment(quiet, np.arange(300), jax.random.key(0), noise=0.5)) - quiet
    relative = noise.std(1) / np.sqrt((quiet[0] ** 2).mean())
    assert relative.min() < 0.03
    assert 0.45 < relative.max() < 0.53
    loudest = noise[relative.argmax()]
    assert abs(np.corrcoef(loudest[1:], loudest[:-1])[0, 1]) < 0.13  # 4 / sqrt(1000)
    silent = np.asarray(_augment(np.zeros((1, 1000), np.float32), ROWS[:1], jax.random.key(0), noise=0.5))
    assert (silent == 0).all()


def test_a_variant_depends_on_key_and_row_alone() -> None:
    key = jax.random.key(7)
    whole = np.asarray(_augment(WAVES, ROWS, key, **EVERYTHING))
    np.testing.assert_allclose(_augment(WAVES[::-1], ROWS[::-1], key, **EVERYTHING)[::-1], whole, atol=1e-6)
    np.testing.assert_allclose(_augment(WAVES[5:7], ROWS[5:7], key, **EVERYTHING), whole[5:7], atol=1e-6)
    assert (np.abs(_augment(WAVES, ROWS, jax.random.key(8), **EVERYTHING) - whole).max(1) > 0.01).all()
    assert (np.abs(_augment(WAVES, ROWS + 8, key, **EVERYTHING) - whole).max(1) > 0.01).all()


def test_masks_are_a_stretch_of_time_and_a_band_within_their_limits() -> None:
    images = np.full((400, 20, 30, 3), 200.0, np.float32)
    got = np.asarray(_mask(images, np.arange(400), jax.random.key(1), time_mask=0.3, frequency_mask=0.25))
    black = (got == 0).all(-1)
    assert set(np.unique(got)) == {0.0, 200.0}
    columns, lines = black.all(1), black.all(2)
    np.testing.assert_array_equal(black, columns[:, None, :] | lines[:, :, None])
    for struck, largest in ((columns, 9), (lines, 5)):  # 0.3 * 30, 0.25 * 20
        assert set(struck.sum(1)) == set(range(largest + 1))
        assert (np.abs(np.diff(struck, axis=1)).sum(1) <= 2).all()  # in one piece
        assert struck.any(0).all()  # anywhere


def test_masks_depend_on_key_and_row_alone_and_the_axes_are_independent() -> None:
    images, key = np.full((8, 20, 30, 3), 200.0, np.float32), jax.random.key(2)
    whole = np.asarray(_mask(images, ROWS, key, time_mask=0.5, frequency_mask=0.5))
    np.testing.assert_array_equal(_mask(images, ROWS[::-1], key, time_mask=0.5, frequency_mask=0.5)[::-1], whole)
    each = [np.asarray(_mask(images, ROWS, key, **{axis: 0.5})) for axis in ("time_mask", "frequency_mask")]
    np.testing.assert_array_equal(np.minimum(*each), whole)
    assert len({image.tobytes() for image in whole}) > 4
