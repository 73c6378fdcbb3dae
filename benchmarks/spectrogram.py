"""Speed of the spectrogram pictures, beside librosa and Pillow on the same clips in the same run.

Every window makes the same pictures both ways, one way after the other, and gives one ratio. What is compiled, loaded
or cached at the first call is done before the first window.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import librosa
import numpy as np
from PIL import Image

from agegender_jax import atomic
from agegender_jax.data.spectrogram import RECIPES, SpectrogramRecipe, spectrogram_image

EXAMPLES = """examples:
  python benchmarks/spectrogram.py
  python benchmarks/spectrogram.py --windows 9 --json spectrogram.json
  python benchmarks/spectrogram.py --batch 256 --size 224 --clips 1024
"""
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "librosa", "pillow")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=7, help="paired windows of a row [7]")
    parser.add_argument("--clips", type=int, default=256, help="clips of 2 s in a window, at least a batch [256]")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256], help="clips a call of ours [32 256]")
    parser.add_argument("--size", type=int, nargs="+", default=[224, 64], help="edges of the picture [224 64]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too; must not exist")
    arguments = parser.parse_args()
    if min(arguments.windows, arguments.clips, *arguments.batch, *arguments.size) < 1:
        parser.error("--windows, --clips, --batch and --size are 1 or more")
    if arguments.json and (arguments.json.exists() or not arguments.json.resolve().parent.is_dir()):
        print(f"{arguments.json} exists, or its folder does not; choose another --json.", file=sys.stderr)
        return 2
    rows = []
    print(f"{'clips per second':34}{'ours':>9}{'peer':>9}{'ratio':>8}   range of the ratio", flush=True)
    for size in arguments.size:
        for batch in arguments.batch:
            row = measure(size, batch, arguments.clips, arguments.windows)
            rows.append(row)
            print(
                f"{row['name']:34}{row['ours']:9.0f}{row['peer']:9.0f}{row['ratio_median']:8.2f}   "
                f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}",
                flush=True,
            )
    print(f"Medians of {arguments.windows} windows; {hardware()}.")
    print("The peer: librosa's stft, mel filters made once, power_to_db, Pillow's resize; one clip after another.")
    if arguments.json:
        atomic.write_text(arguments.json, json.dumps(rows, indent=1) + "\n")
    return 0


def measure(size: int, batch: int, clips: int, windows: int) -> dict[str, Any]:
    """One row of the table.

    Raises:
      RuntimeError: the pictures of the two ways differ by a grey level or more.
    """
    recipe = RECIPES["log_mel"]
    waves = drawn_clips(max(1, clips // batch) * batch, recipe)
    batches = [jax.device_put(part) for part in np.split(waves, len(waves) // batch)]
    picture = jax.jit(functools.partial(spectrogram_image, recipe=recipe, size=size))
    mel = librosa.filters.mel(sr=recipe.sample_rate, n_fft=recipe.fft, n_mels=recipe.mels)

    def ours() -> list[jax.Array]:
        return jax.block_until_ready([picture(part) for part in batches])

    def peer() -> list[np.ndarray]:
        return [peer_picture(wave, recipe, mel, size) for wave in waves]

    difference = np.abs(np.concatenate(ours()) - np.stack(peer())).max()
    if difference >= 1.0:
        raise RuntimeError(f"The pictures differ by {difference:.2f} of 255 grey levels.")
    seconds = np.array([(timed(ours), timed(peer)) for _ in range(windows)])
    ratios = seconds[:, 1] / seconds[:, 0]
    return {
        "name": f"log_mel, 2 s to {size}x{size}x3, batch {batch}",
        "ours": float(np.median(len(waves) / seconds[:, 0])),
        "peer": float(np.median(len(waves) / seconds[:, 1])),
        "ratio_median": float(np.median(ratios)),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
        "unit": "clips/s",
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "hardware": hardware(),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def drawn_clips(clips: int, recipe: SpectrogramRecipe) -> np.ndarray:
    """Harmonic tones of different pitch in some noise: float32 `[clips, samples]`."""
    random = np.random.default_rng(0)
    phase = 2 * np.pi * np.arange(recipe.samples) / recipe.sample_rate
    pitch = random.uniform(80, 300, (clips, 1))
    waves = sum(0.2 / harmonic * np.sin(harmonic * pitch * phase) for harmonic in range(1, 6))
    return (waves + random.normal(0, 0.01, waves.shape)).astype(np.float32)


def peer_picture(wave: np.ndarray, recipe: SpectrogramRecipe, mel: np.ndarray, size: int) -> np.ndarray:
    """What `spectrogram_image` makes, of one clip: float32 `[size, size, 3]`."""
    transform = librosa.stft(wave, n_fft=recipe.fft, hop_length=recipe.hop, win_length=recipe.window)
    level = librosa.power_to_db(mel @ np.abs(transform) ** 2, ref=np.max, top_db=recipe.range_db)
    grey = Image.fromarray((level[::-1] + recipe.range_db) * np.float32(255.0 / recipe.range_db))
    resized = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
    return np.repeat(resized[:, :, None], 3, axis=-1)


def hardware() -> str:
    """The device ours runs on, and the processor the peer runs on."""
    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind} x{jax.device_count()}, {platform.machine()} {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
