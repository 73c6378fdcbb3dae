"""Recordings' bytes -> samples of one rate and length, with limits on what is accepted."""

import io
import re

import numpy as np
import soundfile
import soxr

from agegender_jax.errors import UserError
from tfds_builders.archive import DataError
from tfds_builders.sound import check_header

AUDIO_DECODER = re.sub(
    r"[^\w.-]", "_", f"libsndfile-{soundfile.__libsndfile_version__}-soxr-{soxr.__libsoxr_version__}-hq-mono-centre"
)
"""Names what `decode_audio` does; part of the key of every cache of decoded recordings, fit to be a file's name."""

_BLOCK = 65_536  # frames


def decode_audio(content: bytes, rate: int, samples: int, name: str = "recording") -> np.ndarray:
    """Decodes a recording to one channel of a fixed rate and length.

    The file is WAV, FLAC, Ogg (Vorbis, Opus) or MP3, of any sample width; the result int16 `[samples]` at `rate` Hz.
    Channels are averaged. Of a recording that is longer, the centre is kept; one that is shorter gets zeros on both
    sides. What exceeds the range of 16 bits is clipped.

    Raises:
      UserError: the content is none of these, is damaged or empty, or above the limits of `tfds_builders.sound`.
    """
    # libsndfile would go on to guess at two dozen rarer formats, whose readers are the least tested.
    is_mpeg = content[:1] == b"\xff" and content[1:2] >= b"\xe0"  # eleven set bits begin a frame
    if not (is_mpeg or content.startswith((b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3"))):
        raise UserError(f"{name}: is no WAV, FLAC, Ogg or MP3 file; convert or remove it.")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            file_rate = check_header(file).sample_rate
            blocks = [block.mean(axis=1) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True)]
        wave = np.concatenate([*blocks, np.zeros(0, np.float32)])
        if not wave.size:
            raise ValueError("it holds no samples")
        if not np.isfinite(wave).all():
            raise ValueError("it holds samples that are not numbers")
        if file_rate != rate:
            wave = soxr.resample(wave, file_rate, rate, quality="HQ")
    except DataError as error:
        raise UserError(f"{name}: is {error}; repair or remove it.") from error
    except Exception as error:  # libsndfile's errors, and what a lying header makes of the arrays
        reason = str(error).replace("\n", " ").strip(" .")
        raise UserError(f"{name}: is no recording that can be decoded ({reason}); repair or remove it.") from error
    return np.clip(np.rint(_centre(wave, samples) * 32768.0), -32768, 32767).astype(np.int16)


def _centre(wave: np.ndarray, samples: int) -> np.ndarray:
    """Returns the middle of a wave, or the wave in the middle of zeros: `[samples]`."""
    spare = len(wave) - samples
    if spare >= 0:
        return wave[spare // 2 : spare // 2 + samples]
    return np.pad(wave, (-spare // 2, -spare - -spare // 2))
