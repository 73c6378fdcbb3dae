"""Where the figures go: TensorBoard's events, `metrics.jsonl`, and the terminal."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from agegender_jax import atomic
from agegender_jax.progress import progress_bar

_LINE_SECONDS = 30.0


class Writers:
    """Writes every event twice: for TensorBoard and as a line of JSON.

    A resumed run takes back what an interrupted one wrote after its last checkpoint, so each step is there once; of an
    evaluation that is made again TensorBoard keeps both.

    Args:
      directory: of the run; None writes nothing, for processes that are not the primary one.
      step: the step that the run goes on from.
      evaluated: whether the figures on the validation part at that step stand; else they will be written again.
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
        """Time that the run has taken so far, all starts together."""
        return self._before + time.monotonic() - self._begin

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes figures of one step."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        numbers = {name: value if np.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self._jsonl.write(json.dumps({"step": step, "seconds": round(self.seconds, 3), **numbers}) + "\n")

    def text(self, name: str, text: str) -> None:
        """Writes a text (Markdown) for TensorBoard alone."""
        self._events.add_text(name, text, 0)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 `[height, width, 3]`, for TensorBoard alone."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Makes what was written visible to readers."""
        self._jsonl.flush()
        self._events.flush()


def _keep_until(path: Path, step: int, evaluated: bool) -> float:
    """Drops the lines after `step`, and a torn last one; returns the seconds of the last line kept.

    Also drops what ended the run, and where `step` is not `evaluated` its figures: they are written again.
    """
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
        self._total, self._batch_size, self._said, self._shown = total, batch_size, time.monotonic(), shown
        self._bar = progress_bar(total, unit="steps", initial=step) if shown and sys.stderr.isatty() else None

    def update(self, step: int, seconds: float, steps: int, loss: float) -> None:
        """Shows where the run is: `steps` steps ended at `step` and took `seconds`."""
        text = f"loss {loss:.3f}, {steps * self._batch_size / seconds:.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self.line(f"step {step}/{self._total}  {text}")

    def line(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
