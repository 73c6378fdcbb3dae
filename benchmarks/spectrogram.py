"""Spectrogram images on the device, beside librosa and Pillow on the same clips.

A window makes the same images both ways, one after the other; what is compiled, loaded or cached at the first call is
done before. The peer is librosa's stft, mel filters made once, power_to_db and Pillow's resize, one clip after another.
Both must give the same images, to a grey level.
"""

import argparse
import functools
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image

from agegender_jax.data.spectrogram import SPECTROGRAMS, spectrogram_image
from agegender_jax.errors import UserError
from benchmarks import bench_rows, jax_side
from benchmarks.bench_rows import Row, make_row, paired

EXAMPLES = """examples:
  python -m benchmarks.spectrogram
  python -m benchmarks.spectrogram --batch_size 256 --image_size 224 --clips 1024 --json spectrogram.json
"""
_SPEC = SPECTROGRAMS["log_mel"]


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.spectrogram", __doc__, EXAMPLES)
    whole = bench_rows.at_least(1)
    parser.add_argument("--clips", type=whole, default=256, help="clips of 2 s in a window [256]")
    parser.add_argument("--batch_size", type=whole, nargs="+", default=[32, 256], help="clips a call of ours [32 256]")
    parser.add_argument("--image_size", type=whole, nargs="+", default=[224, 64], help="pixels [224 64]")
    bench_rows.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows, one for each size and batch.

    Raises:
      UserError: librosa is missing, or the images differ.
    """
    try:
        import librosa
    except ImportError as error:
        raise UserError("The peer is librosa, which is not installed: pip install -e '.[test]'.") from error
    if arguments.smoke:
        arguments.clips, arguments.batch_size, arguments.image_size = 2, [2], [16]
        arguments.windows = bench_rows.LEAST_WINDOWS
    jax_side.prepare()
    about = jax_side.about()
    about["versions"] |= {package: importlib.metadata.version(package) for package in ("librosa", "pillow")}
    mel = librosa.filters.mel(sr=_SPEC.sample_rate, n_fft=_SPEC.fft, n_mels=_SPEC.mels)

    def peer_image(wave: np.ndarray, size: int) -> np.ndarray:
        transform = librosa.stft(wave, n_fft=_SPEC.fft, hop_length=_SPEC.hop, win_length=_SPEC.window)
        level = librosa.power_to_db(mel @ np.abs(transform) ** 2, ref=np.max, top_db=_SPEC.range_db)
        grey = Image.fromarray((level[::-1] + _SPEC.range_db) * np.float32(255.0 / _SPEC.range_db))
        resized = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
        return np.repeat(resized[:, :, None], 3, axis=-1)

    rows = []
    for size in arguments.image_size:
        image = jax.jit(functools.partial(spectrogram_image, spec=_SPEC, size=size))
        for batch in arguments.batch_size:
            waves = synthetic_clips(max(1, arguments.clips // batch) * batch)
            batches = [jax.device_put(clips) for clips in np.split(waves, len(waves) // batch)]
            ours = functools.partial(_each, image, batches)
            peer = functools.partial(_each, functools.partial(peer_image, size=size), waves)
            difference = np.abs(np.concatenate(ours()) - np.stack(peer())).max()
            if difference >= 1.0:
                raise UserError(f"The images differ by {difference:.2f} of 255 grey levels: a bug; please report it.")
            rates = paired(*(functools.partial(_rate, len(waves), side) for side in (ours, peer)), arguments.windows)
            rows.append(make_row(f"log_mel, 2 s to {size}x{size}x3, batch {batch}", *rates, "clips/s", about))
    return rows


def _each(function: Callable, inputs: Sequence) -> list:
    return jax.block_until_ready([function(one) for one in inputs])


def _rate(clips: int, work: Callable[[], object]) -> float:
    """Clips a second."""
    began = time.perf_counter()
    work()
    return clips / (time.perf_counter() - began)


def synthetic_clips(clips: int) -> np.ndarray:
    """Harmonic tones of different pitch in some noise: float32 `[clips, samples]`."""
    random = np.random.default_rng(0)
    phase = 2 * np.pi * np.arange(_SPEC.samples) / _SPEC.sample_rate
    pitch = random.uniform(80, 300, (clips, 1))
    waves = sum(0.2 / harmonic * np.sin(harmonic * pitch * phase) for harmonic in range(1, 6))
    return (waves + random.normal(0, 0.01, waves.shape)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
