"""`agegender predict` on all examples of a run's own dataset, beside the evaluator, which reads them prepared.

`predict` opens and decodes a file an example, checks each, and makes predictions of the outputs. The evaluator
streams the same examples from array_record and decodes them; where the dataset is resident they were decoded before,
and it does nothing but compute. A window is all examples once by each way, one right after another, in one process; who
begins changes. All must give the same bits. The files are the prepared ones, written to a temporary
folder, and are read from the system's cache.
`whole command` is run once in a process of its own, from its start to a CSV. The memory is the sum of what each of its
processes ever held at once, pages that they share counted twice.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from agegender_jax.data.dataset import Dataset, ResidentDataset, StreamedDataset
from agegender_jax.data.loader import make_loader
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import EvaluationData, open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.predictor import Predictor
from benchmarks import bench_rows, jax_side, launch_runs
from benchmarks.bench_rows import Row, make_row, say
from benchmarks.pipe_rpc import ROOT

EXAMPLES = """examples:
  python -m benchmarks.predict runs/cpu
  python -m benchmarks.predict runs/cpu --examples 6000 --json predict.json
"""
_WARM_UP = 200  # examples, once by each way: compiling, and starting the processes that decode

Distributions = Mapping[str, np.ndarray]


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.predict", __doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a complete run's directory")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="where the dataset lies [as the run had it]")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [as the run had them]")
    parser.add_argument("--examples", type=bench_rows.at_least(1), metavar="N", help="only the first so many [all]")
    bench_rows.add_options(parser, windows=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: beside the streamed and the resident evaluator, the command, and its memory."""
    if arguments.smoke:
        arguments.windows, arguments.examples = 1, 20
    jax_side.prepare(share=True)  # with the command
    model = LoadedModel.load(arguments.run)
    run, opened = model.run, open_data(model, manual_dir=arguments.manual_dir, data_dir=arguments.data_dir)
    count = min(arguments.examples or len(opened.data), len(opened.data))
    about, name = jax_side.about(), f"{run.recipe.dataset.name}, {count} files"
    with launch_runs.folder(arguments) as folder:
        files = _write(folder / "files", opened, count)
        rates = _windows(opened, files, arguments.windows)
        result = [
            make_row(f"{name}: {way} evaluator", rates["predict"], rates[way], "images/s", about)
            for way in rates
            if way != "predict"
        ]
        say("the command ...")
        seconds, mebibytes = _command(run.directory, run.recipe.dataset.crop, files, folder)
        result.append(make_row(f"{name}: whole command", [count / seconds], None, "images/s", about))
        if mebibytes:
            result.append(make_row(f"{name}: whole command, memory", [mebibytes], None, "MiB", about))
    return result


def _loaders(data: Dataset) -> dict[str, Dataset]:
    """The dataset streamed, and where it is not streamed anyway also resident."""
    streamed: Dataset = StreamedDataset(data.prepared, data.preprocessor, data.columns, data.terms)
    return {"streamed": streamed} | ({"resident": data} if isinstance(data, ResidentDataset) else {})


def _write(folder: Path, opened: EvaluationData, count: int) -> list[Path]:
    """The prepared examples as files, named by their rows."""
    say("writing the files ...")
    folder.mkdir()
    source, files = opened.prepared.open(), []
    for row in range(count):
        files.append(folder / f"{row:07d}{Path(str(opened.data.columns['key'][row])).suffix}")
        files[-1].write_bytes(source[row]["content"])
    return files


def _evaluator(
    stack: ExitStack, opened: EvaluationData, data: Dataset, batch_size: Callable[[int], int]
) -> Callable[[int], Distributions]:
    """What evaluates the first rows; the examples stay where they are until the stack is left."""
    loader = stack.enter_context(closing(make_loader(data, opened.model.mesh)))

    def evaluate(count: int) -> Distributions:
        return opened.model.distributions(loader, np.arange(count), batch_size=batch_size(count))

    return evaluate


def _windows(opened: EvaluationData, files: Sequence[Path], windows: int) -> dict[str, list[float]]:
    """Measures the examples a second of each way, a number a window.

    Raises:
      UserError: two ways differ.
    """
    with ExitStack() as stack:
        predictor = stack.enter_context(Predictor(opened.model))
        ways: dict[str, Callable[[int], Distributions]] = {
            "predict": lambda count: _predicted(predictor, files[:count])
        }
        for name, data in _loaders(opened.data).items():
            ways[name] = _evaluator(stack, opened, data, predictor.batch_size_for)
        for way in ways.values():
            way(min(len(files), _WARM_UP))
        names, rates = list(ways), {name: [] for name in ways}
        for window in range(windows):
            outputs: dict[str, Distributions] = {}
            turn = window % len(names)
            for name in names[turn:] + names[:turn]:
                began = time.perf_counter()
                outputs[name] = ways[name](len(files))
                rates[name].append(len(files) / (time.perf_counter() - began))
            _check_same(outputs)
            paces = ", ".join(f"{name} {rates[name][-1]:.0f}" for name in names)
            say(f"window {window + 1} of {windows}: {paces}; the same bits")
    return rates


def _predicted(predictor: Predictor, files: Sequence[Path]) -> Distributions:
    return predictor.predict(files, detect=False).distributions  # prepared files are cut already


def _check_same(outputs: Mapping[str, Distributions]) -> None:
    first, *others = outputs
    for name in others:
        for head, values in outputs[first].items():
            if not np.array_equal(values, outputs[name][head]):
                raise UserError(f"{first} and {name} differ in {head}: a bug; please report it.")


def _command(run: Path, crop: bool, files: Sequence[Path], folder: Path) -> tuple[float, float]:
    """Seconds of the whole command, and its processes' memory in MiB (0 where the system does not say).

    Raises:
      UserError: it failed.
    """
    listed, out = folder / "list", folder / "predictions.csv"
    listed.write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    command = [sys.executable, "-m", "agegender_jax.cli", "predict", str(run.resolve()), f"--list={listed}"]
    if crop:
        command.append("--no_detect")
    peaks: dict[int, int] = {}
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen([*command, f"--out={out}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        while process.poll() is None:
            peaks |= _peaks(process.pid)
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    if process.returncode:
        raise UserError(lines[-1] if lines else f"agegender predict ended with {process.returncode}.")
    return seconds, sum(peaks.values()) / 1024


def _peaks(process: int) -> dict[int, int]:
    """The most KiB that a process and its children have held so far, by process."""
    peaks = {}
    try:
        threads = Path(f"/proc/{process}/task").iterdir()
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
        for number in (process, *map(int, children)):
            for line in Path(f"/proc/{number}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peaks[number] = int(line.split()[1])
    except OSError:  # it just ended, or this is not Linux
        pass
    return peaks


if __name__ == "__main__":
    sys.exit(main())
