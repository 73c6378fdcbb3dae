"""Peak memory of preparing 1,000 and 20,000 drawn faces, plainly and on Beam's local runner.

`python benchmarks/prepare_memory.py` prepares plainly; with `--beam` also on Apache Beam (the extra `build`), with two
threads and with two processes. One drawn face is written under every name with random bytes behind its end, so that no
two files are the same; 20,000 of them, the spool and the result take 350 MB of disk while it runs.
A process of its own prepares each time, and its largest child is measured as well: Beam's workers.

ArrayRecord's writer has a buffer of its own, of about 16 MiB as measured, which 1,000 files of 5 KiB do not fill. So
1,000 larger files are measured too: between them and 20,000 files lies what memory grows with the number of files.
"""

import argparse
import io
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

_ROOT = Path(__file__).parents[1]
_CASES = ((1_000, 4), (1_000, 18), (20_000, 4))  # files, and KiB of random bytes behind each
_BEAM = {"threads": "multi_threading", "processes": "multi_processing"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", action="store_true", help="also on Apache Beam")
    parser.add_argument("--dir", type=Path, help="where the files are written (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _prepare(*arguments.child)
        return
    ways = ("plain", *(_BEAM if arguments.beam else ()))
    print(f"{'way':10} {'source':8} {'files':>6} {'KiB':>4} {'seconds':>8} {'peak MiB':>9} {'largest child MiB':>18}")
    for source in ("folder", "archive"):
        peaks: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for count, behind in _CASES:
            with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
                _draw(Path(folder, "manual"), count, behind, packed=source == "archive")
                for way in ways:
                    seconds, *peak = _measure(way, Path(folder))
                    peaks[way].append((peak[0], peak[1]))
                    print(
                        f"{way:10} {source:8} {count:6} {behind + 1:4} {seconds:8.1f} {peak[0]:9.1f} {peak[1]:18.1f}",
                        flush=True,
                    )
        for way, (*few, many) in peaks.items():
            for (_, behind), one in zip(_CASES, few, strict=False):
                growth = [f"{100 * (b / a - 1):+.1f} %" for a, b in zip(one, many, strict=True) if a]
                print(
                    f"{way:10} {source:8} from 1,000 of {behind + 1} KiB: {', largest child '.join(growth)}", flush=True
                )


def _draw(manual: Path, count: int, behind: int, packed: bool) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "JPEG")
    chance = random.Random(0)
    (manual / "UTKFace").mkdir(parents=True)
    for number in range(count):
        name = f"{number % 117}_{number % 2}_{number % 5}_2017{number:013d}.jpg.chip.jpg"
        (manual / "UTKFace" / name).write_bytes(buffer.getvalue() + chance.randbytes(behind * 1024))
    if packed:
        with tarfile.open(manual / "UTKFace.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(manual / "UTKFace", "UTKFace")
        shutil.rmtree(manual / "UTKFace")


def _measure(way: str, folder: Path) -> list[float]:
    data = folder / f"data_{way}"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", way, str(folder / "manual"), str(data)],
        env={**os.environ, "PYTHONPATH": str(_ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    seconds = time.perf_counter() - started
    shutil.rmtree(data)
    return [seconds, *map(float, done.stdout.splitlines()[-1].split())]


def _prepare(way: str, manual: str, data: str) -> None:
    from tfds_builders.prepare import prepare

    if way == "plain":
        prepare("utkface", Path(manual), Path(data), progress=False)
    else:
        import tensorflow_datasets as tfds
        from apache_beam.options.pipeline_options import PipelineOptions

        from tfds_builders.utkface.utkface_dataset_builder import Builder

        flags = ["--runner=DirectRunner", "--direct_num_workers=2", f"--direct_running_mode={_BEAM[way]}"]
        config = tfds.download.DownloadConfig(
            manual_dir=manual, try_download_gcs=False, beam_options=PipelineOptions(flags)
        )
        builder = Builder(data_dir=data, file_format="array_record")
        builder.download_and_prepare(download_dir=f"{data}/downloads", download_config=config)
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(*peaks)


if __name__ == "__main__":
    main()
