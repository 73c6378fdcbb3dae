"""What a run works on, put together before the first step: data, split, labels and heads."""

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from agegender_jax import atomic
from agegender_jax.data.dataset import open_dataset
from agegender_jax.data.examples import Dataset
from agegender_jax.data.partition import class_names, contradictions, split_dataset
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.source import Prepared
from agegender_jax.errors import UserError
from agegender_jax.evaluate.report import identities
from agegender_jax.labels import DISCLAIMER, class_weights
from agegender_jax.models.heads import AgeYearsHead, ClassHead, Head
from agegender_jax.models.model import build_heads
from agegender_jax.run import Run
from agegender_jax.splits import PARTS, Split, marked


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Data, split, labels and heads of a run.

    Attributes:
      recipe: the run's.
      prepared: where the dataset lies.
      data: the examples, decoded or to be streamed.
      inputs: how it becomes what the network sees.
      split: who is in which part.
      heads: by name, class weights included.
      labels: of every head, `[n]`.
      metadata: what `run.json` holds.
    """

    recipe: ConfigDict
    prepared: Prepared
    data: Dataset
    inputs: Preprocessor
    split: Split
    heads: dict[str, Head]
    labels: dict[str, np.ndarray]
    metadata: dict[str, Any]

    def begin(self, run: Run | None) -> "Experiment":
        """The same, its examples decoded where they have to be, and then kept in the run where that is new.

        Args:
          run: where split and metadata are kept, or None to keep nothing.

        Raises:
          UserError: an example cannot be decoded, or nothing can be written.
        """
        data, split, columns = self.data.ready(), self.split, self.data.columns
        if run is not None and not (run.directory / "split.json").exists():
            # Content hashes of what the run learns and chooses from, so that other archives can be checked for it.
            seen = columns["sha256"][np.concatenate([split.train, split.validation])]
            atomic.write_text(run.directory / "seen_sha256.txt", "\n".join(sorted(set(seen.tolist()))) + "\n")
            people = np.unique(columns["subject"][np.concatenate([split.train, split.validation])])
            atomic.write_text(
                run.directory / "seen_subjects.txt", "".join(f"{n}\n" for n in people[people >= 0].tolist())
            )
            run.write("run.json", self.metadata)
            split.save(run.directory / "split.json")  # last: where it is, the others are
        return dataclasses.replace(self, data=data)

    def describe(self) -> str:
        """The experiment in a few lines of text."""
        recipe, split, counts = self.recipe, self.split, self.metadata["identical_files"]
        drawn = f" ({DISCLAIMER})" if self.prepared.synthetic else ""
        fold = f", fold {split.fold} of {split.folds}" if split.folds else ""
        what = "recordings" if self.prepared.kind == "audio" else "pictures"
        lines = [
            f"dataset  {recipe.dataset.name} {self.prepared.version}: {len(self.data)} {what}{drawn} "
            f"at {recipe.dataset.image_size}x{recipe.dataset.image_size}",
            f"feed     {self.data.feed}",
            f"labels   perceived age and gender as annotated; age groups: {recipe.age_groups}",
            f"split    {marked(split.protocol)}{fold}: {len(split.train)} train, {len(split.validation)} validation, "
            f"{len(split.test)} test; sha256 {split.sha256[:16]}",
        ]
        if counts["groups"]:
            lines.append(
                f"         {counts['groups']} groups of identical files ({counts['files']} files), "
                f"{counts['conflicting_groups']} of them with conflicting labels: these {counts['conflicting_files']} "
                "files are kept out of validation and test"
            )
        for name in ("validation", "test"):
            got, wanted = split.report[name], split.report[f"wanted_{name}"]
            if abs(got - wanted) > 0.25 * wanted:
                lines.append(f"         {name} has {got} examples where {wanted} were wanted: groups stay whole")
        if recipe.heads.gender.undefined:
            lines.insert(3, '         the gender "undefined" means "infant, not annotated": it is no third gender')
        lines.append(f"         {identities(self.metadata['subjects'])}")
        if leaks := split.report["groups_in_several_parts"]:
            lines.append(f"         leaky: {leaks} groups that belong together lie in several parts")
        if spectrogram := self.metadata.get("spectrogram"):
            lines.append("sound    " + ", ".join(f"{key} {value}" for key, value in spectrogram.items()))
        for name, head in self.heads.items():
            if isinstance(head, ClassHead) and head.class_weights is not None:
                pairs = zip(head.names, head.class_weights, strict=True)
                lines.append(f"weights  {name}: " + ", ".join(f"{label} {weight:.2f}" for label, weight in pairs))
            elif isinstance(head, AgeYearsHead) and head.class_weights is not None:
                present = head.class_weights[head.class_weights > 0]
                lines.append(f"weights  {name}: {present.min():.2f} to {present.max():.2f} for {len(present)} years")
        if not self.prepared.synthetic:
            lines.append(f"terms    {self.data.terms}")
        return "\n".join(lines)


def build_setup(
    recipe: ConfigDict, *, manual_dir: Path | None, data_dir: Path, run: Run | None, progress: bool = True
) -> Experiment:
    """Reads what is known of the data and makes, or reads back, the split; see `Experiment.begin` for the rest.

    Args:
      recipe: of the run.
      manual_dir: where the downloaded archive lies, or None.
      data_dir: where prepared datasets and caches lie.
      run: whose split is read back where it has one, or None (a dry run).
      progress: whether to draw progress bars.

    Raises:
      UserError: the data are missing or bad, or are not those that the run began with.
    """
    prepared, data, inputs = open_dataset(recipe, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
    columns = data.columns
    names = class_names(columns)
    if recipe.heads.class_name.weight and not names:
        raise UserError(f"{recipe.dataset.name} names no classes of its own; set config.heads.class_name.weight=0.")
    heads = build_heads(recipe, names)
    split = run.split(columns["key"]) if run else None
    if run and split and run.metadata().get("data_sha256") not in (None, data.sha256):
        raise UserError(
            f"The files of {recipe.dataset.name} are not those that {run.directory} began with, though named alike; "
            "restore them, or choose another --workdir."
        )
    if split is None:
        split, conflicts = split_dataset(columns, recipe)
    else:
        conflicts = contradictions(columns)[1]
    labels = {name: head.column(columns) for name, head in heads.items()}
    for part in ("train", "validation", "test"):
        if not len(getattr(split, part)):
            raise UserError(
                f"The {part} part of the split is empty ({len(data)} examples in all); "
                "use more data or other fractions."
            )
    weights = {
        name: class_weights(head.classes(labels[name][split.train]), head.class_count)
        for name, head in heads.items()
        if isinstance(head, ClassHead | AgeYearsHead) and recipe.heads[name].class_weights
    }
    heads = build_heads(recipe, names, weights)
    metadata = {
        "manual_dir": str(manual_dir.resolve()) if manual_dir else None,
        "data_dir": str(data_dir.resolve()),
        "dataset_version": prepared.version,
        "kind": prepared.kind,
        "synthetic": prepared.synthetic,
        "data_sha256": data.sha256,
        "terms": data.terms,
        "identical_files": conflicts,
        "subjects": _subjects(columns, split),
        "class_names": list(names),
        "class_weights": {name: [float(w) for w in values] for name, values in weights.items()},
        "split_sha256": split.sha256,
        "command": sys.argv,
    }
    metadata |= inputs.metadata | environment()
    return Experiment(recipe, prepared, data, inputs, split, heads, labels, metadata)


def _subjects(columns: Mapping[str, np.ndarray], split: Split) -> dict[str, int]:
    """How many subjects are known and are in more than one part, and how many examples are of nobody known."""
    subject = columns["subject"]
    part = np.empty(len(subject), np.int64)
    for index, name in enumerate(PARTS):
        part[getattr(split, name)] = index
    known = subject >= 0
    pairs = np.unique(np.stack([subject[known], part[known]]), axis=1)
    counts = np.unique(pairs[0], return_counts=True)[1]
    return {
        "known": len(counts),
        "in_several_parts": int((counts > 1).sum()),
        "unidentified_examples": int((~known).sum()),
    }


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "agegender_jax")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "hardware": {
            "backend": jax.default_backend(),
            "devices": jax.device_count(),
            "device": device.device_kind,
            "processor": _processor(),
            "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count(),
        },
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
