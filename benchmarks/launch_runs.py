"""Runs of `launch.py`, and what they leave: its summary and its `metrics.jsonl`."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agegender_jax.errors import EXIT_PREEMPTED, UserError
from benchmarks.pipe_rpc import ROOT

LAUNCH = ROOT / "launch.py"
SETTINGS = {"evaluate.report": False}
"""Settings of every run: its report is not looked at."""


def add_options(parser: argparse.ArgumentParser, config: str) -> None:
    """Adds the options that choose a run: `--config`, `--set`, `--manual_dir`, `--data_dir`."""
    parser.add_argument("--config", default=config, help=f"recipe, FILE.py or FILE.py:ARGUMENT [{config}]")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="values of the recipe, such as train.batch_size=32"
    )
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="where the downloaded dataset lies")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [a temporary folder]")


@contextmanager
def folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yields a temporary folder for runs; `--data_dir` is in it unless given, and paths are made absolute."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        arguments.data_dir = arguments.data_dir.resolve() if arguments.data_dir else Path(name, "data")
        arguments.manual_dir = arguments.manual_dir.resolve() if arguments.manual_dir else None
        yield Path(name)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that is complete.

    Attributes:
      summary: of `summary.json`.
      lines: of `metrics.jsonl`.
      seconds: from starting the command to its end.
    """

    summary: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def dispatches(self) -> list[Mapping[str, Any]]:
        """The lines that training wrote, one a dispatch."""
        return [line for line in self.lines if "train/loss" in line]


def command(arguments: argparse.Namespace, workdir: Path, settings: Sequence[str] = (), *more: str) -> list[str]:
    """Returns the command of a run.

    Args:
      arguments: see `add_options`.
      workdir: of the run.
      settings: further ones, `KEY=VALUE`.
      *more: further flags.
    """
    defaults = [f"{key}={value}" for key, value in SETTINGS.items()]
    given = [f"--config.{setting}" for setting in (*defaults, *arguments.set, *settings)]
    place = [f"--workdir={workdir}", f"--data_dir={arguments.data_dir}"]
    if arguments.manual_dir:
        place.append(f"--manual_dir={arguments.manual_dir}")
    return [sys.executable, str(LAUNCH), f"--config={arguments.config}", *given, *place, *more]


def run(
    command: Sequence[str], workdir: Path, *, processes: int = 1, stop_at: int | None = None, **environment: str
) -> Finished:
    """Runs a command of `command` to its end, or stops it at a step.

    Args:
      command: of the run.
      workdir: of the run.
      processes: the number of processes, which compute together.
      stop_at: the step from which on they are sent SIGTERM; the summary is then empty.
      **environment: variables to set.

    Raises:
      UserError: it failed (the message is its own last line), or ended before that step.
    """
    commands = [list(command)]
    if processes > 1:
        address = f"--coordinator=127.0.0.1:{_free_port()}"
        commands = [[*command, address, f"--processes={processes}", f"--process={i}"] for i in range(processes)]
    began = time.monotonic()
    with contextlib.ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        started = [
            subprocess.Popen(one, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=file)
            for one, file in zip(commands, errors, strict=True)
        ]
        try:
            if stop_at is not None:
                _stop(started, workdir, stop_at)
            # One that fails leaves the others waiting for it.
            while any(process.poll() is None for process in started):
                if any(process.poll() not in (None, 0, EXIT_PREEMPTED) for process in started):
                    break
                time.sleep(0.01)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()
        seconds = time.monotonic() - began
        wanted = 0 if stop_at is None else EXIT_PREEMPTED
        for process, file in zip(started, errors, strict=True):
            if process.returncode not in (wanted, -signal.SIGKILL):
                file.seek(0)
                lines = file.read().strip().splitlines()
                raise UserError(lines[-1] if process.returncode and lines else f"It ended with {process.returncode}.")
    if stop_at is not None:
        return Finished({}, read_lines(workdir), seconds)
    return read(workdir, seconds)


def _stop(processes: Sequence[subprocess.Popen], workdir: Path, step: int) -> None:
    """Sends SIGTERM once the run has come so far, by a step of this start: before, it might not be heard."""
    step = max([step, *(line["step"] + 1 for line in read_lines(workdir))])
    while all(process.poll() is None for process in processes):
        if any(line["step"] >= step for line in read_lines(workdir)):
            for process in processes:
                process.send_signal(signal.SIGTERM)
            return
        time.sleep(0.005)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read(workdir: Path, seconds: float = 0.0) -> Finished:
    """Reads what a run left in its directory."""
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return Finished(summary, read_lines(workdir), seconds)


def read_lines(workdir: Path) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl`, also of a run that has not ended; none before there is a file."""
    path = workdir / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def about(finished: Finished) -> dict[str, Any]:
    """Returns `versions` and `hardware` of a run, as rows have them."""
    return {"versions": finished.summary["versions"], "hardware": hardware(finished.summary["hardware"])}


def hardware(metadata: Mapping[str, Any]) -> str:
    """Describes the device and the processor in a line, from a run's summary.

    >>> hardware({"backend": "cpu", "devices": 8, "device": "cpu", "processor": "Z80", "cores": 2})
    'cpu cpu x8, Z80, 2 cores'
    """
    device = f"{metadata['backend']} {metadata['device']} x{metadata['devices']}"
    return f"{device}, {metadata['processor']}, {metadata['cores']} cores"
