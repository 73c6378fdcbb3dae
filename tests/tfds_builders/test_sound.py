"""Recordings that must be read, those that must be refused and why, and their spectrograms."""

import io
import struct
import warnings

import numpy as np
import pytest
import scipy.signal
import soundfile
from PIL import Image

from tfds_builders.archive import DataError
from tfds_builders.sound import SoundInfo, check_sound, spectrogram_png

NOISE = 0.1 * np.random.default_rng(0).standard_normal(16_000).clip(-3, 3)


def encoded(samples: np.ndarray = NOISE, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def patched(offset: int, form: str, value: int, content: bytes | None = None) -> bytes:
    """A wav file with a number of its header rewritten: 22 channels, 24 rate, 40 size of the samples."""
    changed = bytearray(content or encoded())
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def flac(rate: int, frames: int) -> bytes:
    """A flac file whose header claims this: 20 bits of rate, 3 and 5 for others, 36 of length (RFC 9639, 8.2)."""
    content = bytearray(encoded(kind="FLAC"))
    others = (int.from_bytes(content[18:26], "big") >> 36) & 0xFF
    content[18:26] = ((rate << 44) | (others << 36) | frames).to_bytes(8, "big")
    return bytes(content)


DAMAGED_FLAC = bytes(flac(16_000, 16_000)[:4000]) + bytes(400) + flac(16_000, 16_000)[4400:]


@pytest.mark.parametrize("rate", [1_000, 11_025, 192_000])
def test_every_rate_is_accepted(rate: int) -> None:
    assert check_sound("a.wav", encoded(NOISE[:400], rate)) == SoundInfo(rate, 1, 400, 400 / rate)
    with pytest.raises(DataError, match=r"^longer than"):
        check_sound("a.wav", encoded(NOISE[:400], rate), max_seconds=399 / rate)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *[("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW")],
        *[("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
        *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_and_width_is_measured(kind: str, subtype: str | None, channels: int) -> None:
    content = encoded(np.stack([NOISE] * channels, axis=1), 16_000, kind, subtype)
    assert check_sound(f"a.{kind.lower()}", content, max_seconds=1.0) == SoundInfo(16_000, channels, 16_000, 1.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (encoded(kind="MP3"), "not a readable recording"),  # as it is not named so
        (DAMAGED_FLAC, "truncated or damaged"),
        (encoded(NOISE[:0]), "empty"),
        (encoded(NOISE[:0], kind="FLAC"), "empty|not a readable recording|of unknown length"),
        *[(encoded(0 * NOISE, kind=kind), "silent") for kind in ("WAV", "FLAC", "OGG")],
        (encoded(0 * NOISE, subtype="PCM_U8"), "silent"),
        (encoded(0 * NOISE + 0.3), "silent"),  # a constant offset
        (encoded(np.stack([NOISE, -NOISE], axis=1)), "silent"),  # the mean of the channels
        (encoded(np.concatenate([NOISE, np.zeros(32_000), NOISE])), "silent in its middle 2 s"),
        (encoded(9e-5 * np.sign(NOISE), subtype="FLOAT"), "silent"),
        (encoded(np.where(NOISE > 0.2, np.nan, NOISE), subtype="FLOAT"), "without finite samples"),
        (encoded(np.where(NOISE > 0.2, np.inf, NOISE), subtype="FLOAT"), "without finite samples"),
        (b"RIFF", "truncated or damaged"),
        (encoded()[:30], "truncated or damaged"),
        *[
            (start + bytes(2000), "not a readable recording")
            for start in (b"<html>", b"\xff\xd8\xff\xe0", b"RIFF\x00\x10\x00\x00AVI LIST", b"ID3", b"OggS")
        ],
        (b"fLaC" + bytes(3), "not a readable recording"),
        (encoded(kind="AIFF"), "not a readable recording"),
        (patched(24, "<I", 0), "of a sample rate of 0"),
        (flac(0, 16_000), "of a sample rate of 0"),
        (patched(24, "<I", 192_001), "of a sample rate over 192000 Hz"),
        (patched(24, "<I", 999), "of a sample rate under 1000 Hz"),
        (patched(24, "<I", 2**31 - 1), "of a sample rate over 192000 Hz"),
        (patched(22, "<H", 0), "not a readable recording"),
        (patched(22, "<H", 17), "of more than 16 channels"),
        (patched(22, "<H", 65_535), "of more than 16 channels"),
        (patched(40, "<I", 32_001), "truncated or damaged"),
        (patched(40, "<I", 2**31), "truncated or damaged"),
        (patched(40, "<I", 2**32 - 1), "of unknown length: write them again"),
        (patched(40, "<I", 0), "empty"),
        (flac(16_000, 0), "of unknown length: write them again"),
        (flac(16_000, 2**36 - 1), "longer than 600 s"),
        (flac(16_000, 16_001), "truncated or damaged"),
        (encoded(np.zeros(601 * 1000), 1000), "longer than 600 s"),
        (encoded(np.zeros(3 * 3600 * 1000, np.float32), 1000, "FLAC"), "longer than 600 s"),  # three hours
    ],
)
def test_an_unusable_recording_has_a_short_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"^({reason})$"):
        check_sound("a.wav", content)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("FLAC", None), ("MP3", None)],
)
@pytest.mark.parametrize("share", [0.97, 0.5, 0.1])
def test_a_file_cut_short_is_noticed(kind: str, subtype: str | None, share: float) -> None:
    content = encoded(NOISE, 16_000, kind, subtype)
    with pytest.raises(DataError, match=r"^(truncated or damaged|not a readable recording)$"):
        check_sound(f"a.{kind.lower()}", content[: int(len(content) * share)])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_within_a_page_is_noticed(subtype: str) -> None:
    content = encoded(np.tile(NOISE, 5), 16_000, "OGG", subtype)
    for cut in range(10, len(content), 997):
        with pytest.raises(DataError, match=r"^truncated or damaged$"):
            check_sound("a.ogg", content[:cut])


def test_chunks_beside_the_samples_are_ignored() -> None:
    wav = encoded()
    assert check_sound("a.wav", wav + b"LIST" + struct.pack("<I", 4) + b"INFO").frames == 16_000
    odd = wav[:12] + b"note" + struct.pack("<I", 3) + b"abc\0" + wav[12:]  # chunks begin at even positions
    assert check_sound("a.wav", odd).frames == 16_000
    mp3 = encoded(kind="MP3")
    assert check_sound("a.mp3", b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + mp3 + b"TAG" + bytes(125)).frames == 16_000


def test_an_mp3_without_a_table_of_contents_is_not_taken_for_a_cut_one() -> None:
    parts = []
    for level in (0.95, 0.0):  # 16 and 160 kbit/s: judged by the first frames, the file is ten times as long as it is
        buffer = io.BytesIO()
        options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": level}
        soundfile.write(buffer, NOISE, 16_000, **options)
        parts.append(buffer.getvalue())
    info = check_sound("a.mp3", b"".join(parts))
    assert 2 * 16_000 <= info.frames <= 2 * (16_000 + 4 * 576)  # with what the encoder adds at both ends


def test_random_bytes_behind_each_beginning_raise_nothing_else() -> None:
    random = np.random.default_rng(1)
    for start in (encoded()[:44], encoded(kind="FLAC")[:60], encoded(kind="OGG")[:80], b"ID3", b"\xff\xfb\x90\x64"):
        for _ in range(10):
            content = bytearray(start + random.bytes(2_000))
            content[int(random.integers(3, len(start) + 1))] ^= 0xFF
            try:
                check_sound("a.mp3", bytes(content))
            except DataError as error:
                assert len(str(error)) < 60  # noqa: PT017 - either way is right


def test_a_spectrogram_shows_what_scipy_computes() -> None:
    # 1 kHz for half a second, then 3 kHz 40 dB below: at 8 kHz and 224 rows for 4 kHz, rows 168 and 56 from the top.
    time = np.arange(16_000) / 16_000
    tones = np.where(time < 0.5, np.sin(2e3 * np.pi * time), 0.01 * np.sin(6e3 * np.pi * time))
    image = Image.open(io.BytesIO(spectrogram_png(encoded(np.stack([tones, tones], axis=1), subtype="FLOAT"))))
    assert (image.size, image.mode, image.format) == ((224, 224), "RGB", "PNG")
    pixels = np.asarray(image).astype(int)
    brightness = pixels.sum(axis=2)
    assert abs(int(brightness[:, 56].argmax()) - 168) <= 1
    assert abs(int(brightness[:, 168].argmax()) - 56) <= 1
    # Viridis: (253, 231, 37) at its top, (68, 1, 84) at its bottom, (33, 145, 140) in the middle.
    assert np.abs(pixels[168, 56] - (253, 231, 37)).max() <= 45
    assert np.abs(pixels[10, 56] - (68, 1, 84)).max() <= 3
    assert np.abs(pixels[56, 168] - (33, 145, 140)).max() <= 25


def test_a_spectrogram_has_the_levels_of_the_published_transform() -> None:
    samples = NOISE[:8_000].astype(np.float32)
    transform = np.abs(scipy.signal.stft(samples, 8_000, "hann", nperseg=455, noverlap=420)[2])
    level = np.clip(1 + 20 * np.log10(transform / transform.max()) / 80, 0, 1)[::-1]
    import matplotlib

    coloured = (matplotlib.colormaps["viridis"](level)[..., :3] * 255).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(coloured).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    image = np.asarray(Image.open(io.BytesIO(spectrogram_png(encoded(samples, 8_000, subtype="FLOAT"))))).astype(int)
    assert np.abs(image - expected).max() <= 6  # two ways of rounding to 256 colours


def test_a_spectrogram_of_little_or_of_nothing_below_4_khz() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spectrogram_png(encoded(NOISE[:20])).startswith(b"\x89PNG")
    with pytest.raises(DataError, match=r"^silent below 4 kHz$"):
        spectrogram_png(encoded(np.array([0.5, -0.5]), 192_000))  # of which no sample remains at 8 kHz
