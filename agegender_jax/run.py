"""A run's directory: all that resuming, evaluating and predicting need.

recipe.json     the recipe, whole
run.json        dataset, class weights, counts, versions: what is known before the first step
split.json      who is in train, validation and test, with a hash
seen_sha256.txt content hashes of the files that the run, or one that it starts from, learns from and chooses by
seen_subjects.txt who is shown or heard in them, as far as it is known: dataset and number
checkpoints/    a folder a step (and damaged_checkpoints/, where one was set aside)
metrics.jsonl   a line an event; the same metrics as TensorBoard's
tensorboard/    events
predictions.npz predictions for every example of the validation and the test part
summary.json    the final metrics; there once the run is complete
report/         index.html, where the run explains itself, and its numbers
"""

import dataclasses
import fcntl
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from agegender_jax import atomic
from agegender_jax import recipe as recipes
from agegender_jax.checkpoints import Checkpoints
from agegender_jax.errors import UserError
from agegender_jax.grouping import connected
from agegender_jax.splits import Split

REPORT = "report/index.html"
"""The page, in a run's directory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run: its directory, and its recipe."""

    directory: Path
    recipe: ConfigDict

    @classmethod
    def find(cls, directory: Path, recipe: ConfigDict) -> "Run | None":
        """Returns the run of this recipe that has begun in a directory; None where none has.

        A run has begun once its split is saved, and a complete one has even where that is lost. How it is computed
        (`compute.*`) may change on the way; `recipe.json` keeps what it began with.

        Raises:
          UserError: the directory holds a run of another recipe, or other files.
        """
        if not any((directory / name).exists() for name in ("split.json", "summary.json")):
            others = [path for path in directory.iterdir() if path.name[0] != "."] if directory.is_dir() else []
            if others and not (directory / "recipe.json").exists():
                raise UserError(f"{directory} is not empty and holds no run; choose another --workdir.")
            return None
        differences = recipes.differences(cls.load(directory).recipe, recipe)
        if changes := [change for change in differences if not change.startswith("compute.")]:
            raise UserError(
                f"{directory} holds a run of another recipe ({'; '.join(changes)}); "
                "choose another --workdir, or start this one with the recipe it began with."
            )
        return cls(directory, recipe)

    @classmethod
    def start(cls, directory: Path, recipe: ConfigDict) -> "Run":
        """Begins a run, or goes on with the one that lies in the directory.

        Raises:
          UserError: the directory holds a run of another recipe, or other files, or cannot be written.
        """
        if run := cls.find(directory, recipe):
            return run
        path = directory / "recipe.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Where there is a recipe and no split, nothing has been learned: the recipe may be corrected.
            atomic.write_text(path, recipes.to_json(recipe))
        except OSError as error:
            raise UserError(f"{directory}: cannot be written ({error.strerror}); choose another --workdir.") from error
        return cls(directory, recipe)

    @classmethod
    def load(cls, directory: Path) -> "Run":
        """Opens the run that lies in a directory.

        Raises:
          UserError: there is none, or its recipe is damaged or of another version.
        """
        try:
            return cls(directory, recipes.from_json((directory / "recipe.json").read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"{directory} holds no run (no recipe.json); give the --workdir of one.") from error
        except ValueError as error:
            raise UserError(
                f"{directory / 'recipe.json'} is no recipe of this version ({error}); restore the file, or use the "
                "version that wrote it."
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process from training in the directory at the same time; the lock ends with the process.

        Creates the directory where it is missing.

        Raises:
          UserError: another process holds it, or the directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = open(self.directory / ".lock", "w")  # noqa: SIM115  closed below
        except OSError as error:
            raise UserError(
                f"{self.directory}: cannot be written ({error.strerror}); choose another --workdir."
            ) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.directory} is being trained by another process; wait for it, or choose another --workdir."
                ) from error
            yield

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.resolve().name

    def metadata(self) -> dict[str, Any]:
        """Returns what `run.json` holds; empty before the data was first read."""
        return self._json("run.json") or {}

    def summary(self) -> dict[str, Any] | None:
        """Returns the final metrics; None while the run is not complete."""
        return self._json("summary.json")

    def require_summary(self) -> dict[str, Any]:
        """Returns the final metrics.

        Raises:
          UserError: the run is not complete.
        """
        summary = self.summary()
        if summary is None or not self.metadata():
            raise UserError(f"{self.directory} is not complete; run its launch.py command again to finish it.")
        return summary

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file of the run, whole or not at all.

        Raises:
          UserError: it cannot be written.
        """
        path = self.directory / name
        try:
            atomic.write_text(path, json.dumps(without_nan(content), indent=1, allow_nan=False))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); free some space or check it.") from error

    def split(self, keys: np.ndarray, *, others: bool = False) -> Split | None:
        """Returns the saved split for a dataset with these keys, str `[n]`; None before there is one.

        With `others`, None and not an error where these are not the split's keys.
        """
        path = self.directory / "split.json"
        if not path.exists():
            return None
        split = Split.load(path)
        if others and set(split.keys.tolist()) != set(keys.tolist()):
            return None
        return split.for_keys(keys)

    def seen(self) -> set[str]:
        """Returns the SHA-256 of the files that the run learned from (training) or chose by (validation).

        With those of the run that it started from, and so of all its ancestors.
        """
        try:
            return set((self.directory / "seen_sha256.txt").read_text(encoding="utf-8").split())
        except OSError as error:
            raise UserError(f"{self.directory} has no seen_sha256.txt ({error.strerror}); restore the file.") from error

    def seen_subjects(self) -> set[tuple[str, int]]:
        """Returns who is shown or heard in those files: dataset and number; empty where nobody is identified."""
        path = self.directory / "seen_subjects.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return {(dataset, int(number)) for dataset, _, number in (line.partition(" ") for line in lines)}
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); restore the file.") from error

    def has_seen(self, dataset: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns which examples are of files or subjects that the run, or an ancestor, has seen, bool `[n]`.

        With those that a `disjoint` split never separates from one of them, such as all of one recording.
        """
        subjects = [number for name, number in self.seen_subjects() if name == dataset]
        seen = np.isin(columns["sha256"], list(self.seen())) | np.isin(columns["subject"], subjects)
        group = connected(columns["subject"], columns["group"], columns["sha256"])
        return np.isin(group, group[seen])

    def write_seen(self, dataset: str, columns: Mapping[str, np.ndarray], split: Split, parent: "Run | None") -> None:
        """Writes `seen_sha256.txt` and `seen_subjects.txt`.

        What the `parent`, whose weights the run starts from, has seen is inherited.
        """
        rows = np.concatenate([split.train, split.validation])
        files = set(columns["sha256"][rows].tolist())
        subjects = {(dataset, number) for number in columns["subject"][rows].tolist() if number >= 0}
        if parent:
            files, subjects = files | parent.seen(), subjects | parent.seen_subjects()
        atomic.write_text(self.directory / "seen_sha256.txt", "".join(f"{digest}\n" for digest in sorted(files)))
        lines = "".join(f"{name} {number}\n" for name, number in sorted(subjects))
        atomic.write_text(self.directory / "seen_subjects.txt", lines)

    def has_checkpoint(self) -> bool:
        """Returns whether a checkpoint was saved, which the run resumes from."""
        return any(path.name.isdecimal() for path in (self.directory / "checkpoints").glob("*"))

    def checkpoints(self) -> Checkpoints:
        """Opens the checkpoints to train; close them when done."""
        return Checkpoints(self.directory / "checkpoints", self.recipe.checkpoint.keep)

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.directory / name
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no JSON object")
            return content
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); restore the file.") from error


def without_nan(value: Any) -> Any:
    """Returns a JSON value with None in place of NaN, which JSON lacks: a metric of no examples."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
