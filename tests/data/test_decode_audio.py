"""Decoding of recordings: every kind a dataset may hold, and damaged or hostile ones refused with their name."""

import io
import struct

import numpy as np
import pytest
import scipy.signal
import soundfile

from agegender_jax.data.decode_audio import decode_audio
from agegender_jax.errors import UserError
from tfds_builders.archive import DataError
from tfds_builders.sound import MAX_CHANNELS, MAX_SECONDS, check_sound, read_sound

RATE = 16_000


def _tone(seconds: float = 0.5, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def _bytes(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def _as_float(samples: np.ndarray) -> np.ndarray:
    return samples / 32768.0


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_sixteen_bits_arrive_unchanged(kind: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    got = decode_audio(_bytes(samples, kind=kind), RATE, 5000)
    assert (got.shape, got.dtype) == ((5000,), np.int16)
    np.testing.assert_array_equal(got, samples)


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_24", 2e-5),
        ("WAV", "PCM_32", 2e-5),
        ("WAV", "FLOAT", 2e-5),
        ("WAV", "DOUBLE", 2e-5),
        ("WAV", "ULAW", 0.02),
        ("WAVEX", "PCM_16", 4e-5),
        ("FLAC", "PCM_24", 2e-5),
        ("OGG", "VORBIS", 0.02),
        ("OGG", "OPUS", 0.05),
    ],
)
def test_formats_and_widths(kind: str, subtype: str, tolerance: float) -> None:
    got = decode_audio(_bytes(_tone(), kind=kind, subtype=subtype), RATE, 8000)
    np.testing.assert_allclose(_as_float(got)[200:-200], _tone()[200:-200], atol=tolerance)


def test_mp3() -> None:
    got = _as_float(decode_audio(_bytes(_tone(1.0), kind="MP3"), RATE, 8000))
    spectrum = np.abs(np.fft.rfft(got * np.hanning(8000)))
    assert spectrum.argmax() == 220  # 440 Hz in bins of 2 Hz
    assert got.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_channels_are_averaged() -> None:
    sign = np.tile([1, -1], 50)
    channels = np.stack([3000 * sign, -1000 * sign, 1000 * sign], axis=1).astype(np.int16)
    np.testing.assert_array_equal(decode_audio(_bytes(channels), RATE, 100), 1000 * sign)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_what_is_below_the_new_limit(rate: int) -> None:
    got = _as_float(decode_audio(_bytes(_tone(0.5, rate), rate, subtype="FLOAT"), RATE, 8000))
    np.testing.assert_allclose(got[500:-500], _tone()[500:-500], atol=1e-3)
    peer = scipy.signal.resample_poly(_tone(0.5, rate), RATE, rate, window=("kaiser", 14.0))
    np.testing.assert_allclose(got[500:-500], peer[500:7500], atol=1e-3)
    high = decode_audio(_bytes(_tone(0.5, 48_000, hz=11_000), 48_000), RATE, 8000)  # above the new limit
    assert np.abs(_as_float(high)[500:-500]).max() < 1e-3  # else it would be heard at 5 kHz


@pytest.mark.parametrize(
    ("length", "samples", "expected"),
    [
        (9, 5, [3, 4, 5, 6, 7]),
        (10, 5, [3, 4, 5, 6, 7]),
        (3, 7, [0, 0, 1, 2, 3, 0, 0]),
        (3, 6, [0, 1, 2, 3, 0, 0]),
    ],
)
def test_the_centre_is_kept_and_zeros_stand_on_both_sides(length: int, samples: int, expected: list[int]) -> None:
    content = _bytes((100 * np.arange(1, length + 1)).astype(np.int16))
    assert decode_audio(content, RATE, samples).tolist() == [100 * value for value in expected]


def test_too_loud_is_clipped_not_wrapped() -> None:
    wave = np.array([0.5, 1.0, 1.5, 40.0, -1.0, -1.5])
    got = decode_audio(_bytes(wave, subtype="FLOAT"), RATE, 6)
    assert got.tolist() == [16384, 32767, 32767, 32767, -32768, -32768]


def _wav(channels: int, rate: int, data: int = 6400) -> bytes:
    """A square wave, 8 bits a sample, whose header claims what is asked for."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * channels & 0xFFFFFFFF, channels, 8)
    return (
        struct.pack("<4sI4s", b"RIFF", data + 36, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", data)
        + (b"\xc0" * channels + b"\x40" * channels) * (data // channels // 2)
    )


def _flac_claiming(frames: int) -> bytes:
    """A short FLAC whose header lies about its length (the low 36 bits of the 13 bytes after rate and channels)."""
    content = bytearray(_bytes(_tone(), kind="FLAC"))
    content[21] = (content[21] & 0xF0) | (frames >> 32)
    content[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(content)


NOISE_FLAC = _bytes(np.random.default_rng(0).normal(0, 0.1, 50_000), kind="FLAC")


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"age,gender\n31,0\n", b"\x89PNG\r\n\x1a\n", b"FORM\0\0\0\x2eAIFF", b"\xff"],
        *[
            start + b"\x01\x02\x03" * 100
            for start in (b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"RIFF")
        ],
        *[NOISE_FLAC[: int(part * len(NOISE_FLAC))] for part in (0.001, 0.5, 0.9)],
        *[
            _bytes(np.zeros(0)),
            _bytes(np.full(10, np.nan), subtype="FLOAT"),
            _bytes(np.full(10, np.inf), subtype="FLOAT"),
        ],
        _flac_claiming(RATE * 500),  # a length that is claimed but absent
    ],
)
def test_what_cannot_be_decoded_is_named(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^voices/1\.wav: [^\n]+\.$"):
        decode_audio(content, RATE, 100, "voices/1.wav")


@pytest.mark.parametrize(
    "content",
    [
        _wav(MAX_CHANNELS + 1, RATE),
        _wav(1, 999),
        _wav(1, 2_000_000_000),
        _wav(1, 1000, int(MAX_SECONDS) * 1000 + 1),
        _flac_claiming(2**36 - 1),
    ],
)
def test_hostile_headers_are_refused_before_memory_is_taken(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"^voices/1\.wav: "):
        decode_audio(content, RATE, 100, "voices/1.wav")


CODECS = [
    *[("WAV", "PCM_16"), ("WAV", "GSM610"), ("WAV", "G721_32"), ("WAV", "NMS_ADPCM_16"), ("WAV", "MS_ADPCM")],
    *[("WAV", "IMA_ADPCM"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
]


@pytest.mark.parametrize(("kind", "subtype"), CODECS)
def test_what_preparing_accepts_is_decoded_and_nothing_else(kind: str, subtype: str | None) -> None:
    """Whole and with random damage; the same bits each time."""
    name, random = f"voices/1.{kind.lower()}", np.random.default_rng(0)
    content = _bytes(_tone(2.0, 8000), 8000, kind, subtype)
    accepted = 0
    for count in [0] + [1, 8, 64] * 8:
        damaged = bytearray(content)
        damaged[100:] = damaged[100 : len(damaged) - random.integers(2) * count * 16]  # some are cut short
        for place in random.integers(0, len(damaged), count):
            damaged[place] = random.integers(256)
        try:
            check_sound(name, bytes(damaged))
        except DataError:
            with pytest.raises(UserError, match=r"^voices/1\.\w+: "):
                decode_audio(bytes(damaged), RATE, 2 * RATE, name)
            continue
        accepted += 1
        samples = decode_audio(bytes(damaged), RATE, 2 * RATE, name)
        assert (samples.shape, samples.dtype) == ((2 * RATE,), np.int16)
        np.testing.assert_array_equal(decode_audio(bytes(damaged), RATE, 2 * RATE, name), samples)
    assert accepted


def test_an_mp3_whose_length_is_only_estimated_is_read_to_its_end() -> None:
    def frames(level: float, compression: float) -> bytes:
        """Those of two seconds of noise, without the first, which is a table of contents."""
        buffer, noise = io.BytesIO(), level * np.random.default_rng(0).standard_normal(2 * RATE)
        options = {"bitrate_mode": "CONSTANT", "compression_level": compression}
        with soundfile.SoundFile(buffer, "w", RATE, 1, format="MP3", **options) as file:
            file.write(noise)
        content = buffer.getvalue()
        return content[content.index(content[:2], 100) :]

    without = frames(1e-3, 0.99) + frames(0.3, 0.0)
    with soundfile.SoundFile(io.BytesIO(without)) as file:
        estimated = file.frames
    expected, _ = soundfile.read(io.BytesIO(without), dtype="float32")
    assert estimated > 1.2 * len(expected)
    info, wave = read_sound(without)
    assert info.frames == len(wave) == len(expected)
    np.testing.assert_array_equal(wave, expected)
    first = decode_audio(without, RATE, RATE)
    for _ in range(3):
        np.testing.assert_array_equal(decode_audio(without, RATE, RATE), first)


def test_what_is_prepared_is_decoded_though_little_is_left_of_it() -> None:
    tiny = _bytes(np.array([0.5, -0.5]), 192_000)  # nothing remains at the new rate
    paused = _bytes(np.concatenate([_tone(1.0), np.zeros(20_000), _tone(1.0)]))
    for content in (tiny, paused):
        check_sound("a.wav", content)
        assert decode_audio(content, RATE, RATE).shape == (RATE,)


def test_what_is_just_within_the_limits_is_taken() -> None:
    assert decode_audio(_wav(MAX_CHANNELS, RATE), RATE, 200).any()
    assert decode_audio(_wav(1, 1000, int(MAX_SECONDS) * 1000), 1000, 200).any()
