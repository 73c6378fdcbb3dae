"""Decoding of recordings: every kind a dataset may hold, and damaged or hostile ones refused with their name."""

import contextlib
import io
import struct

import numpy as np
import pytest
import scipy.signal
import soundfile

from agegender_jax.data.decode_audio import decode_audio
from agegender_jax.errors import UserError
from tfds_builders.sound import MAX_CHANNELS, MAX_SECONDS

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
    channels = np.stack([np.full(100, 3000), np.full(100, -1000), np.full(100, 1000)], axis=1).astype(np.int16)
    np.testing.assert_array_equal(decode_audio(_bytes(channels), RATE, 100), np.full(100, 1000))


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
        (1, 1, [1]),
    ],
)
def test_the_centre_is_kept_and_zeros_stand_on_both_sides(length: int, samples: int, expected: list[int]) -> None:
    content = _bytes(np.arange(1, length + 1).astype(np.int16))
    assert decode_audio(content, RATE, samples).tolist() == expected


def test_too_loud_is_clipped_not_wrapped() -> None:
    wave = np.array([0.5, 1.0, 1.5, 40.0, -1.0, -1.5])
    got = decode_audio(_bytes(wave, subtype="FLOAT"), RATE, 6)
    assert got.tolist() == [16384, 32767, 32767, 32767, -32768, -32768]


def _wav(channels: int, rate: int, data: int = 6400) -> bytes:
    """A silent WAV, 8 bits a sample, whose header claims what is asked for."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * channels & 0xFFFFFFFF, channels, 8)
    return (
        struct.pack("<4sI4s", b"RIFF", data + 36, b"WAVE") + form + struct.pack("<4sI", b"data", data) + b"\x80" * data
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
    for method in ("blocks", "read"):
        monkeypatch.setattr(soundfile.SoundFile, method, lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"^voices/1\.wav: "):
        decode_audio(content, RATE, 100, "voices/1.wav")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_garbage_inside_gives_samples_or_an_error_with_the_name(kind: str) -> None:
    content = _bytes(_tone(), kind=kind)
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        for place in random.integers(0, len(damaged), 8):
            damaged[place] = random.integers(256)
        with contextlib.suppress(UserError):
            samples = decode_audio(bytes(damaged), RATE, 800, "voices/1.wav")
            assert (samples.shape, samples.dtype) == ((800,), np.int16)


def test_what_is_just_within_the_limits_is_taken() -> None:
    assert not decode_audio(_wav(MAX_CHANNELS, RATE), RATE, 200).any()
    assert not decode_audio(_wav(1, 1000, int(MAX_SECONDS) * 1000), 1000, 200).any()
