"""Logs a training: TensorBoard's events, `metrics.jsonl`, lines and a progress bar, and where the time goes."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from agegender_jax import atomic
from agegender_jax.checkpoints import Checkpoints
from agegender_jax.distributed import is_primary
from agegender_jax.errors import Diverged
from agegender_jax.progress import progress_bar
from agegender_jax.text import duration
from agegender_jax.train.setup import Setup

_LINE_SECONDS = 30.0
_IMAGES_SECONDS = 30.0  # a confusion matrix takes as long to plot as many steps on a fast device


class Writers:
    """Writes every event twice: for TensorBoard and as a line of JSON.

    A resumed run takes back what an interrupted one wrote after its last checkpoint, so each step is there once; of an
    evaluation that is made again TensorBoard keeps both.

    Args:
      directory: of the run; None writes nothing, for processes that are not the primary one.
      step: the step that the run goes on from.
      evaluated: whether the validation metrics of that step are kept; if not, they will be written again.
    """

    def __init__(self, directory: Path | None, step: int, *, evaluated: bool = True) -> None:
        from tensorboardX import SummaryWriter

        path = Path(os.devnull) if directory is None else directory / "metrics.jsonl"
        self._before = _keep_until(path, step, evaluated) if directory else 0.0
        self._begin = time.monotonic()
        self._jsonl = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  closed in __exit__
        logdir = str(directory / "tensorboard") if directory else None
        self._events = SummaryWriter(
            logdir, write_to_disk=bool(directory), purge_step=step + 1 if step else 0, flush_secs=10
        )

    def __enter__(self) -> "Writers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jsonl.close()
        self._events.close()

    @property
    def seconds(self) -> float:
        """Time of all starts together, each since its `Writers` were opened: compiling and decoding come before."""
        return self._before + time.monotonic() - self._begin

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        numbers = {name: value if np.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self._jsonl.write(json.dumps({"step": step, "seconds": round(self.seconds, 3), **numbers}) + "\n")

    def text(self, name: str, text: str) -> None:
        """Writes a text (Markdown) for TensorBoard alone."""
        self._events.add_text(name, text, 0)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Writes an image, uint8 `[height, width, 3]`, for TensorBoard alone."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Makes what was written visible to readers."""
        self._jsonl.flush()
        self._events.flush()


def _keep_until(path: Path, step: int, evaluated: bool) -> float:
    """Drops lines that will be written again, and a torn last one; returns the seconds of the last line kept."""
    if not path.exists():
        return 0.0
    kept, seconds = [], 0.0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            again = "test/" if evaluated or event["step"] < step else ("test/", "validation/")
            if event["step"] <= step and not any(name.startswith(again) for name in event):
                seconds = float(event["seconds"])
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # not a line that a whole write left
            continue
    atomic.write_text(path, "".join(kept))
    return seconds


class Progress:
    """A progress bar on a terminal; elsewhere plain lines, one every `_LINE_SECONDS`.

    Args:
      total: steps of the whole run.
      step: where it begins.
      batch_size: examples a step.
      shown: whether anything is printed.
    """

    def __init__(self, total: int, step: int, batch_size: int, *, shown: bool = True) -> None:
        self._total, self._batch_size, self._printed, self._shown = total, batch_size, time.monotonic(), shown
        self._bar = progress_bar(total, unit="steps", initial=step) if shown and sys.stderr.isatty() else None

    def update(self, step: int, seconds: float, steps: int, loss: float) -> None:
        """Shows where the run is: `steps` steps ended at `step` and took `seconds`."""
        text = f"loss {loss:.3f}, {steps * self._batch_size / seconds:.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._printed > _LINE_SECONDS:
            self.line(f"Step {step:,} of {self._total:,}: {text}")

    def line(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._printed = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


class TimeBreakdown:
    """Seconds of a training by what they went to, since this was made, before the compilation.

    `compilation` of the step; `input`, the host's wait for examples; `step`, its wait for the devices; `evaluation` of
    the validation part; `checkpoint`, what saving keeps the host from; `idle`, all else, such as the first state and
    logging: the devices have nothing to do then, unless a dispatch is under way.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds = dict.fromkeys(("compilation", "input", "step", "evaluation", "checkpoint"), 0.0)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts the time inside; these do not nest."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - begin

    @property
    def seconds(self) -> dict[str, float]:
        """All of them until now; their sum is the time since the beginning."""
        whole = time.monotonic() - self._begin
        return self._seconds | {"idle": whole - sum(self._seconds.values())}


class TrainingLog:
    """Reports a training as it goes: metrics of dispatches and validations, a progress bar, and where the time goes.

    Args:
      setup: of the run.
      writers: of the run.
      checkpoints: of the run; the last good one is named where the loss diverges.
      spent: where the time goes.
      step: that the run begins or resumes at.
      started: `time.monotonic()` at the start of the command.
      cut_short: whether the run is too short to have learned anything, so that its metrics are not printed.
    """

    def __init__(
        self,
        setup: Setup,
        writers: Writers,
        checkpoints: Checkpoints,
        spent: TimeBreakdown,
        *,
        step: int,
        started: float,
        cut_short: bool,
    ) -> None:
        self.writers, self.spent = writers, spent
        self.first_step_seconds: float | None = None
        self._setup, self._checkpoints, self._started, self._cut_short = setup, checkpoints, started, cut_short
        self._bar = Progress(setup.step_counts.total, step, setup.options.batch_size, shown=is_primary())
        self._dispatch_seconds: list[float] = []
        self._last_dispatch, self._last_images = time.monotonic(), -math.inf
        self._pending: tuple[int, Any] | None = None

    def begin_dispatch(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keeps the metrics of the dispatch under way, which ends at `step`, and logs the one before."""
        self.collect()
        self._pending = (step, metrics)

    def collect(self) -> None:
        """Waits for the dispatch that is under way, and logs it.

        Raises:
          Diverged: its loss or its gradient is not finite.
        """
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        with self.spent.on("step"):
            metrics = jax.device_get(pending)
        seconds = time.monotonic() - self._last_dispatch
        self.restart()
        _check_finite(metrics, step, self._checkpoints)
        dispatch = self._setup.step_counts.dispatch
        if self.first_step_seconds is None:
            self.first_step_seconds = time.monotonic() - self._started
            self._bar.line(f"First {dispatch} steps done {self.first_step_seconds:.1f} s after the start")
        else:  # the first also waits for what is used for the first time
            self._dispatch_seconds.append(seconds)
        values = {f"train/{name}": float(value.mean()) for name, value in metrics.items()}
        values["learning_rate"] = float(self._setup.learning_rates[step - 1])
        values["images_per_second"] = dispatch * self._setup.options.batch_size / seconds
        self.writers.scalars(step, values)
        self._bar.update(step, seconds, dispatch, values["train/loss"])

    def restart(self) -> None:
        """Begins to time dispatches anew."""
        self._last_dispatch = time.monotonic()

    def images_due(self) -> bool:
        """Returns whether images are to be written again."""
        if not is_primary() or time.monotonic() - self._last_images < _IMAGES_SECONDS:
            return False
        self._last_images = time.monotonic()
        return True

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints the main metrics of a validation, and the time left."""
        if self._cut_short:
            return
        counts = self._setup.step_counts
        names = [f"{name}/{head.metrics[0].name}" for name, head in self._setup.heads.items()]
        line = f"Step {step:,} of {counts.total:,}, epoch {step / counts.steps_per_epoch:.1f}: validation "
        line += ", ".join(f"{name} {metrics[name]:.3f}" for name in names)
        if self._dispatch_seconds:
            left = (counts.total - step) / counts.dispatch * float(np.median(self._dispatch_seconds))
            line += f"; {self.images_per_second:.0f} images/s, {duration(left)} left"
        self._bar.line(line)

    @property
    def images_per_second(self) -> float | None:
        """Median over dispatches; None before there were two."""
        if not self._dispatch_seconds:
            return None
        images = self._setup.options.batch_size * self._setup.step_counts.dispatch
        return images / float(np.median(self._dispatch_seconds))

    def close(self) -> None:
        """Ends the progress bar."""
        self._bar.close()


def _check_finite(metrics: Mapping[str, np.ndarray], step: int, checkpoints: Checkpoints) -> None:
    # The gradient too: a loss is of the parameters before its step, and these are saved after it.
    losses, norms = metrics["loss"], metrics["gradient_norm"]
    bad = np.flatnonzero(~np.isfinite(losses) | ~np.isfinite(norms))
    if len(bad):
        checkpoints.wait()
        good = checkpoints.steps
        where = f"the last good checkpoint is that of step {good[-1]}" if good else "there is no checkpoint yet"
        raise Diverged(
            f"The loss of step {step - len(losses) + int(bad[0]) + 1} is {losses[bad[0]]}, the norm of its gradient "
            f"{norms[bad[0]]}; {where}. Lower config.optimizer.learning_rate or set config.optimizer.clip_norm, in a "
            "new --workdir."
        )
