"""Recordings' bytes -> samples of one rate and length, with limits on what is accepted."""

import re

import numpy as np
import soundfile
import soxr

from agegender_jax.errors import UserError
from tfds_builders.archive import DataError
from tfds_builders.sound import middle, read_sound

AUDIO_DECODER = re.sub(
    r"[^\w.-]",
    "_",
    f"libsndfile-{soundfile.__libsndfile_version__}-soxr-{soxr.__libsoxr_version__}-hq-mono-centre-whole",
)
"""Names what `decode_audio` does; part of the key of every cache of decoded recordings, fit to be a file's name."""


def decode_audio(content: bytes, rate: int, samples: int, name: str = "recording") -> np.ndarray:
    """Decodes a recording to one channel of a fixed rate and length.

    The file is WAV, FLAC, Ogg (Vorbis, Opus) or MP3, of any sample width; the result int16 `[samples]` at `rate` Hz.
    Channels are averaged. Of a recording that is longer, the centre is kept; one that is shorter gets zeros on both
    sides. What exceeds the range of 16 bits is clipped.

    Raises:
      UserError: the content is none of these, is damaged, empty, silent or above the limits of `tfds_builders.sound`.
    """
    try:
        info, wave = read_sound(content, name)
        if info.sample_rate != rate:
            wave = soxr.resample(wave, info.sample_rate, rate, quality="HQ")
        wave = middle(wave, samples)  # which may be silent, or empty after resampling: training takes what was prepared
    except DataError as error:
        raise UserError(f"{name}: is {error}; convert it to wav, repair it or remove it.") from error
    spare = samples - len(wave)
    wave = np.pad(wave, (spare // 2, spare - spare // 2))
    return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
