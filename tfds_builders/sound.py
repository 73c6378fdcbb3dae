"""Encoded recordings: checks of untrusted bytes, and images of spectrograms."""

import dataclasses
import io
import struct
from pathlib import PurePosixPath

import numpy as np
import soundfile
from PIL import Image

from tfds_builders.archive import MAX_FILE_BYTES, DataError

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")  # suffixes of recordings
MIN_RATE, MAX_RATE = 1_000, 192_000  # accepted sample rates, in Hz
MAX_SECONDS = 600.0  # longest accepted recording, in seconds
MAX_VALUES = 60_000_000  # samples of all channels, as in 10 minutes of stereo at 48 kHz; bounds the memory
MAX_CHANNELS = 16  # largest accepted number of channels
SILENCE = 1e-4  # amplitude of a silent recording, at most (-80 dB of full scale, 3 steps of 16 bits)
MIDDLE_SECONDS = 2.0  # in which a recording must not be silent: what recipes take of it by default
IMAGE_SIDE = 224  # height and width of a spectrogram image, in pixels
_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
_UNKNOWN_LENGTH = 0xFFFFFFFF  # in the header of a wav file that was written as a stream
_BLOCK_VALUES = 2**20  # decoded at a time
_UNREADABLE, _TRUNCATED = "not a readable recording", "truncated or damaged"
_ENDLESS = "of unknown length: write them again"
_IMAGE_RATE, _WINDOW, _OVERLAP, _RANGE_DB = 8_000, 455, 420, 80.0


@dataclasses.dataclass(frozen=True)
class SoundInfo:
    """Verified properties of a recording."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples of one channel
    seconds: float


def is_sound(name: str) -> bool:
    """Returns whether a file is a recording by its name.

    >>> is_sound("male_31/A.WAV"), is_sound("README.txt")
    (True, False)
    """
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def check_sound(name: str, content: bytes, max_seconds: float = MAX_SECONDS) -> SoundInfo:
    """Checks a recording as `read_sound` does, and that its middle, which networks are given, is not silent.

    Raises:
      DataError: the recording cannot be used. The message is a short reason without the file's name, for
        `Rejected.add`.
    """
    info, wave = read_sound(content, name, max_seconds)
    check_audible(middle(wave, round(MIDDLE_SECONDS * info.sample_rate)), f" in its middle {MIDDLE_SECONDS:g} s")
    return info


def read_sound(content: bytes, name: str = "", max_seconds: float = MAX_SECONDS) -> tuple[SoundInfo, np.ndarray]:
    """Checks and decodes a recording; whatever reads recordings, reads them by this function.

    It may be wav, flac, ogg (Vorbis or Opus) or mp3 of any rate and width. What begins with a frame of MPEG audio is
    refused if it is named as another kind of recording, because the eleven bits that mark a frame occur in any file.

    Returns:
      Its properties, and the mean of its channels, float32 `[frames]`.

    Raises:
      DataError: it is damaged, truncated, empty, silent or above a limit; the message is a short reason.
    """
    if not content:
        raise DataError("empty")
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
    _check_container(name, content)
    blocks: list[np.ndarray] = []
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            info = _check_header(file, max_seconds)
            # Until nothing comes: the length of an mp3 without a table of contents is an estimate of libsndfile (where
            # it is too short, nothing beyond it is read), and some codecs cannot tell their position, which
            # `file.blocks` asks for.
            buffer = np.empty((_BLOCK_VALUES // info.channels, info.channels), np.float32)
            while len(block := file.read(out=buffer)):
                blocks.append(block.mean(axis=1))
    except DataError:
        raise
    except soundfile.LibsndfileError as error:
        # libsndfile accepted the header but not the blocks: codecs lose their synchronisation where a file is cut.
        raise DataError(_UNREADABLE if "Error opening" in str(error) else _TRUNCATED) from error
    except Exception as error:  # hostile bytes raise exceptions of any kind
        raise DataError(_UNREADABLE) from error
    wave = np.concatenate([*blocks, np.zeros(0, np.float32)])
    if len(wave) < info.frames and (file.format != "MP3" or _has_length(content)):
        raise DataError(_TRUNCATED)
    if not len(wave):
        raise DataError("empty")
    if not np.isfinite(wave).all():
        raise DataError("without finite samples")
    check_audible(wave)
    return dataclasses.replace(info, frames=len(wave), seconds=len(wave) / info.sample_rate), wave


def check_audible(wave: np.ndarray, where: str = "") -> None:
    """Raises DataError where all samples are equal but for `SILENCE`: silence, or a constant offset."""
    if wave.max() - wave.min() < 2 * SILENCE:
        raise DataError(f"silent{where}")


def middle(wave: np.ndarray, samples: int) -> np.ndarray:
    """Returns the middle of a longer wave, or a shorter one as it is.

    >>> middle(np.arange(6), 3).tolist(), middle(np.arange(2), 3).tolist()
    ([1, 2, 3], [0, 1])
    """
    start = max(len(wave) - samples, 0) // 2
    return wave[start : start + samples]


def spectrogram_png(content: bytes) -> bytes:
    """Renders the spectrogram of a checked recording as PNG: time to the right, frequency upwards, level as colour.

    Two papers on voices train on such images and publish no parameters. These are the ones of AudioMNIST (Becker et
    al., 2018): at 8 kHz a short-time Fourier transform with a Hann window of 455 samples and an overlap of 420, in dB
    below its own maximum, clipped at 80 dB. Chosen here: the mean of the channels, the whole recording instead of one
    second, the colour map viridis, 224x224 pixels.

    Raises:
      DataError: the recording is silent below 4 kHz; the message is a short reason.
    """
    import matplotlib  # slow to import, and needed here alone
    import scipy.signal
    import soxr

    info, wave = read_sound(content)
    mono = soxr.resample(wave, info.sample_rate, _IMAGE_RATE)
    mono = np.pad(mono, (0, max(0, _WINDOW - len(mono))))
    _, _, transform = scipy.signal.stft(mono, _IMAGE_RATE, "hann", nperseg=_WINDOW, noverlap=_OVERLAP)
    magnitude = np.abs(transform)
    peak = magnitude.max()
    if not peak > 0:
        raise DataError("silent below 4 kHz")
    floor = 10 ** (-_RANGE_DB / 20)
    level = 1 + 20 * np.log10(np.maximum(magnitude / peak, floor)) / _RANGE_DB  # 0 to 1
    colours = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    pixels = colours[np.rint(255 * level[::-1]).astype(np.uint8)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def _check_header(file: soundfile.SoundFile, max_seconds: float = MAX_SECONDS) -> SoundInfo:
    """Returns what the header of an opened recording claims.

    Raises:
      DataError: it is out of the limits; the message is a short reason.
    """
    rate, channels, frames = file.samplerate, file.channels, file.frames
    if file.format not in _FORMATS:
        raise DataError(_UNREADABLE)
    if rate < MIN_RATE:
        raise DataError(f"of a sample rate under {MIN_RATE} Hz")
    if rate > MAX_RATE:
        raise DataError(f"of a sample rate over {MAX_RATE} Hz")
    if channels > MAX_CHANNELS:
        raise DataError(f"of more than {MAX_CHANNELS} channels")
    if frames == 2**63 - 1:  # libsndfile's value for a flac without a length
        raise DataError(_ENDLESS)
    if frames > max_seconds * rate:
        raise DataError(f"longer than {max_seconds:g} s")
    if frames * channels > MAX_VALUES:
        raise DataError(f"of more than {MAX_VALUES} samples")
    if frames < 1:
        raise DataError("empty")
    return SoundInfo(rate, channels, frames, frames / rate)


def _check_container(name: str, content: bytes) -> None:
    """Recognises the format by its first bytes, and checks what libsndfile silently accepts."""
    if content.startswith((b"RIFF", b"RF64")):
        _check_wav(content)
    elif content.startswith(b"OggS"):
        _check_ogg(content)
    elif content.startswith(b"fLaC"):
        # RFC 9639, 8.2: the rate takes the 20 bits that begin 10 bytes into the first block's content.
        if len(content) >= 21 and int.from_bytes(content[18:21], "big") >> 4 == 0:
            raise DataError("of a sample rate of 0")
    else:
        is_mpeg = (
            content[0] == 0xFF and content[1:2] >= b"\xe0" and (name.lower().endswith(".mp3") or not is_sound(name))
        )
        if not (is_mpeg or content.startswith(b"ID3")):
            raise DataError(_UNREADABLE)


def _check_wav(content: bytes) -> None:
    """Compares the size in the header of a wav file with its content; libsndfile silently shortens the size instead."""
    position, long_size = 12, None
    while position + 8 <= len(content):
        tag, size = struct.unpack_from("<4sI", content, position)
        position += 8
        if tag == b"fmt " and len(content) >= position + 8:
            channels, rate = struct.unpack_from("<HI", content, position + 2)
            if rate == 0:
                raise DataError("of a sample rate of 0")
            if channels > MAX_CHANNELS:
                raise DataError(f"of more than {MAX_CHANNELS} channels")
        elif tag == b"ds64" and len(content) >= position + 16:  # EBU Tech 3306: the sizes of an RF64 file, in 64 bits
            (long_size,) = struct.unpack_from("<Q", content, position + 8)
        elif tag == b"data":
            if size == _UNKNOWN_LENGTH and long_size is None:
                raise DataError(_ENDLESS)
            expected = size if long_size is None else long_size
            if expected > len(content) - position:
                raise DataError(_TRUNCATED)
            return
        position += size + size % 2
    # No chunk of samples: truncated within the header, or another kind of file.
    raise DataError(_TRUNCATED if content[8:12] in (b"WAVE", b"") else _UNREADABLE)


def _check_ogg(content: bytes) -> None:
    """Follows the pages of an Ogg file (RFC 3533, section 6) and checks that the last one is complete."""
    position = 0
    while content.startswith(b"OggS", position):
        segments = content[position + 26] if position + 27 <= len(content) else 255
        position += 27 + segments + sum(content[position + 27 : position + 27 + segments])
    if position > len(content):
        raise DataError(_TRUNCATED)


def _has_length(content: bytes) -> bool:
    """Returns whether the first frame of an mp3 is a table of contents, which holds the number of frames."""
    start = 0
    if content.startswith(b"ID3") and len(content) >= 10:  # its size: four bytes of seven bits
        start = 10 + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    return any(tag in content[start : start + 200] for tag in (b"Xing", b"Info"))
