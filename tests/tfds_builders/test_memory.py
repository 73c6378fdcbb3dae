"""Preparing keeps no file's content in memory: four times as many files take next to no more of it."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PEAK = """
import resource, sys
from pathlib import Path
from tfds_builders.prepare import prepare
prepare("utkface", Path(sys.argv[1]), Path(sys.argv[2]), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _peak(folder: Path, files: int) -> float:
    """MiB held at most while so many files of 20 KiB are prepared, in a process of its own."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "JPEG")
    chance = random.Random(0)
    (folder / "UTKFace").mkdir(parents=True)
    for number in range(files):  # random bytes behind the image, so that no two files are the same
        name = f"{number % 117}_{number % 2}_{number % 5}_2017{number:013d}.jpg.chip.jpg"
        (folder / "UTKFace" / name).write_bytes(buffer.getvalue() + chance.randbytes(19 * 1024))
    command = [sys.executable, "-c", PEAK, str(folder), str(folder / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has other units")
def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    # The first 1,000 fill the buffer of ArrayRecord's writer; the content of 3,000 more is 60 MiB.
    assert _peak(tmp_path / "many", 4000) - _peak(tmp_path / "few", 1000) < 20
