"""Kills a run again and again and checks that it ends in the same bits as a run that was left alone."""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from agegender_jax.checkpoints import Checkpoints
from agegender_jax.errors import UserError
from agegender_jax.run import Run

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = """examples:
  python benchmarks/resume.py
  python benchmarks/resume.py --kills 10 --seed 1 --folder /tmp/resume
  python benchmarks/resume.py --config configs/utkface_small.py:cpu --manual_dir DIR --epochs 4
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=3, help="how often the run is killed (SIGKILL) [3]")
    parser.add_argument("--epochs", type=float, default=6.0, help="length of the run [6]")
    parser.add_argument("--drawn", type=int, default=600, help="drawn faces, without --manual_dir [600]")
    parser.add_argument("--config", default="configs/quickstart.py", help="recipe [configs/quickstart.py]")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="train on the archive there, not on drawings")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [in the folder]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed [0]")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep both runs there [a temporary folder]")
    arguments = parser.parse_args()
    if arguments.folder:
        return compare(arguments, arguments.folder.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, folder: Path) -> int:
    """Runs both, prints the verdict and returns the exit code: 0 where they are equal, 1 where not, 2 on bad input."""
    whole, killed = folder / "uninterrupted", folder / "killed"
    if any((directory / "recipe.json").exists() for directory in (whole, killed)):
        print(f"{folder} holds runs already; choose another --folder.", file=sys.stderr)
        return 2
    command = [sys.executable, str(ROOT / "launch.py"), f"--config={arguments.config}"]
    command += [f"--data_dir={arguments.data_dir.resolve() if arguments.data_dir else folder / 'data'}"]
    command += [f"--config.train.epochs={arguments.epochs}", "--config.evaluate.every_epochs=0.5"]
    if arguments.manual_dir:
        command += [f"--manual_dir={arguments.manual_dir.resolve()}"]
    else:
        command += [f"--config.dataset.synthetic={arguments.drawn}", "--config.train.steps_per_dispatch=2"]
    try:
        seconds = run_whole([*command, f"--workdir={whole}"])
        print(f"uninterrupted: {seconds:.0f} s", flush=True)
        run_killed([*command, f"--workdir={killed}"], killed, arguments.kills, random.Random(arguments.seed), seconds)
        return verdict(whole, killed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def run_whole(command: list[str]) -> float:
    """Runs a command to its end; returns how many seconds it took.

    Raises:
      UserError: it failed.
    """
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"launch.py ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return time.monotonic() - began


def run_killed(command: list[str], workdir: Path, kills: int, moments: random.Random, whole: float) -> None:
    """Runs a command, killing it so many times at random moments after a new checkpoint began to be there.

    Half of the kills come within a tenth of a second of a checkpoint's first file, that is, mostly while it is saved.

    Raises:
      UserError: a start failed, or the run ended before it could be killed so often.
    """
    checkpoints = workdir / "checkpoints"
    for kill in range(kills):
        before = entries(checkpoints)
        complete = kill == 0  # the first time there must be something to go on from
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
            while process.poll() is None:
                new = entries(checkpoints) - before
                if any(name.isdigit() for name in new) if complete else new:
                    break
                time.sleep(0.002)
            during = moments.random() < 0.5
            time.sleep(moments.uniform(0, 0.1) if during else moments.uniform(0, min(2.0, whole / (4 * kills))))
            if process.poll() == 0:
                raise UserError(f"The run ended before kill {kill + 1}; give it more --epochs or fewer --kills.")
            if process.returncode:
                said.seek(0)
                raise UserError(f"launch.py ended with {process.returncode}: {said.read().strip()[-2000:]}")
            process.send_signal(signal.SIGKILL)
            process.wait()
        left = sorted(entries(checkpoints), key=lambda name: (len(name), name))
        print(f"kill {kill + 1} of {kills}: the checkpoints' folder holds {', '.join(left)}", flush=True)
    run_whole(command)


def entries(folder: Path) -> set[str]:
    """Names in a folder, whole checkpoints (a number) and those being written."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def final_arrays(workdir: Path) -> tuple[int, dict[str, np.ndarray]]:
    """The last checkpoint's step, and every array in it by path: parameters, optimizer, statistics, average."""
    warnings.filterwarnings("ignore", "Sharding info not provided")  # it is read from the checkpoint, as wanted
    run = Run.load(workdir)
    checkpoints: Checkpoints = run.checkpoints()
    try:
        step = checkpoints.steps[-1]
        items = {item: checkpoints.restore(step, item, None) for item in ("model", "training")}
    finally:
        checkpoints.close()
    return step, {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(items)}


def verdict(whole: Path, killed: Path) -> int:
    """Compares bit for bit, says what it found, and returns the exit code."""
    (step, expected), (killed_step, found) = final_arrays(whole), final_arrays(killed)
    different = [
        name
        for name in sorted(expected.keys() | found.keys())
        if name not in expected
        or name not in found
        or expected[name].dtype != found[name].dtype
        or expected[name].tobytes() != found[name].tobytes()
    ]
    if step != killed_step or different:
        print(f"DIFFERENT: steps {step} and {killed_step}; {len(different)} of {len(expected)} arrays differ:")
        for name in different[:10]:
            both = name in expected and name in found and expected[name].shape == found[name].shape
            size = f"{np.abs(expected[name] - found[name]).max():.3g}" if both else "in one run only"
            print(f"  {name}: {size}")
        return 1
    values = sum(array.size for array in expected.values())
    print(f"EQUAL: step {step}, all {len(expected)} arrays ({values:,} values) are the same bit for bit.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
