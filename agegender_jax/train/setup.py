"""The door of training: `build_setup` checks a recipe, once, and makes of it the objects that a run works with."""

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data.dataset import Dataset, open_dataset
from agegender_jax.data.loader import DeviceLoader, abstract_batches, make_loader
from agegender_jax.data.partition import class_names, contradictions, split_dataset
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.distributed import all_or_none, from_primary, primary_first
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluator import Evaluator, head_distributions
from agegender_jax.evaluate.report import identities
from agegender_jax.labels import DISCLAIMER, class_weights
from agegender_jax.mesh import check_batch, make_mesh
from agegender_jax.models.backbones import find_backbone
from agegender_jax.models.heads import AgeYearsHead, ClassHead, Head, build_heads
from agegender_jax.models.model import ModelDef, backbone_options, define_model
from agegender_jax.recipe_options import data_options
from agegender_jax.run import Run
from agegender_jax.splits import PARTS, Split, is_leaky, marked
from agegender_jax.train.measurement import selection_metric
from agegender_jax.train.optimizer import (
    check_freeze,
    check_optimizer,
    frozen_parameters,
    learning_rate,
    make_optimizer,
)
from agegender_jax.train.options import OptimizerOptions, Schedule, TrainOptions
from agegender_jax.train.pretraining import PretrainedWeights, find_weights, with_normalization
from agegender_jax.train.state import TrainState, abstract_state
from agegender_jax.train.step import check_microbatches


@dataclasses.dataclass(frozen=True)
class Setup:
    """The objects that a run works with; all that can be refused before anything is decoded or compiled has been.

    Attributes:
      recipe: the whole recipe as JSON text, for the record.
      options: how to train and evaluate.
      schedule: how many steps.
      mesh: devices.
      dataset_name: of the recipe.
      dataset: its examples, not decoded yet.
      synthetic: whether the dataset is synthetic.
      preprocessor: what the network sees of an example.
      age_groups: name of the scheme.
      split: which examples are for training, validation and test.
      heads: by name, class weights included.
      labels: of every head, `[n]`.
      model: structure, shapes and initialisation, traced once.
      optimizer: the gradient transformation.
      learning_rates: of every step, float32 `[total]`, to be logged.
      evaluator: of the model.
      state: shapes of the training state, and where each array lies.
      weights: that the run starts from; None starts from fresh ones.
      metadata: what `run.json` holds.
      description: of data, labels and split, lines of text.
      model_description: of the model and the schedule, a line of text.
    """

    recipe: str
    options: TrainOptions
    schedule: Schedule
    mesh: jax.sharding.Mesh
    dataset_name: str
    dataset: Dataset
    synthetic: bool
    preprocessor: Preprocessor
    age_groups: str
    split: Split
    heads: Mapping[str, Head]
    labels: Mapping[str, np.ndarray]
    model: ModelDef
    optimizer: optax.GradientTransformation
    learning_rates: np.ndarray
    evaluator: Evaluator
    state: TrainState
    weights: PretrainedWeights | None
    metadata: Mapping[str, Any]
    description: str
    model_description: str

    def batch_shapes(self) -> tuple[Any, Any]:
        """Computes the shapes of what lies on the devices all the time, and of the batches of a dispatch."""
        return abstract_batches(self.dataset, self.labels, self.mesh, self.options.batch_size, self.schedule.dispatch)

    def make_loader(self, decoded: np.ndarray | None) -> DeviceLoader:
        """Makes the loader of the dataset; `decoded` holds all its examples where it is resident, else None."""
        sampler = BatchSampler(self.split.train, self.options.batch_size, self.options.seed)
        return make_loader(self.dataset, self.mesh, self.labels, sampler, self.schedule.total, decoded=decoded)


def build_setup(
    recipe: ConfigDict,
    *,
    manual_dir: Path | None,
    data_dir: Path,
    workdir: Path | None = None,
    progress: bool = True,
    dispatches: int | None = None,
) -> Setup:
    """Checks a recipe and makes of it what a run works with; writes nothing into the run, and decodes nothing.

    What needs no data is checked first, so that a bad recipe is refused before a dataset is prepared.

    Args:
      recipe: from `configs/`.
      manual_dir: where the downloaded archive lies, or None.
      data_dir: where prepared datasets and caches lie.
      workdir: of the run, whose split is read back where it has begun; None is a dry run.
      progress: whether to draw progress bars.
      dispatches: end after so many, before the recipe does.

    Raises:
      UserError: bad recipe; the data are missing or bad, or are not those that the run began with.
      Refused: the split that the recipe asks for cannot be made.
    """
    with all_or_none():
        recipe = check_recipe(recipe, workdir)
        mesh = make_mesh(recipe.compute.model)
        check_batch(mesh, recipe.train.batch_size)
        check_microbatches(recipe.train.batch_size, recipe.train.microbatches, mesh.shape["data"])
    with primary_first():
        run = Run.find(workdir, recipe) if workdir else None
        dataset = open_dataset(data_options(recipe), manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        prepared, preprocessor = dataset.prepared, dataset.preprocessor
        split, conflicts = _make_split(recipe, run, dataset)
        _check_same_data(recipe.dataset.name, dataset, split)
    with all_or_none():
        names = class_names(dataset.columns)
        heads, labels = _build_heads(recipe, names, dataset, split)
        selection_metric(recipe.evaluate.select, heads)
        options, optimizer_options = TrainOptions.from_recipe(recipe), OptimizerOptions.from_recipe(recipe)
        schedule = Schedule.from_recipe(recipe, len(split.train)).at_most(dispatches)
        rates = learning_rate(optimizer_options, schedule.total)
        optimizer = make_optimizer(optimizer_options, schedule.total, schedule.steps_per_epoch)
        with jax.set_mesh(mesh):
            model = define_model(recipe, heads)
        check_freeze(optimizer_options, model.params)
        state = abstract_state(model, optimizer, mesh, average=bool(options.ema_decay), fsdp=options.fsdp)
        weights = find_weights(recipe, names) if run is None else None  # a run that has begun needs them no more
        if recipe.model.pretrained_leaky and run is None and not (weights and weights.run):
            raise UserError(
                "config.model.pretrained_leaky=True is for a run that starts from the weights of another run; set "
                "config.model.pretrained to the directory of one, or leave it out."
            )
        if weights:
            weights.load(model.params, model.stats)
            split = _check_inherited(recipe, weights, dataset, split)
    metadata = {
        "manual_dir": str(manual_dir.resolve()) if manual_dir else None,
        "data_dir": str(data_dir.resolve()),
        "dataset_version": prepared.version,
        "kind": prepared.kind,
        "synthetic": prepared.synthetic,
        "data_sha256": dataset.sha256,
        "terms": dataset.terms,
        "identical_files": conflicts,
        "subjects": _subjects(dataset.columns, split),
        "class_names": list(names),
        "class_weights": {
            name: head.class_weights.tolist()
            for name, head in heads.items()
            if isinstance(head, ClassHead | AgeYearsHead) and head.class_weights is not None
        },
        "split_sha256": split.sha256,
        "command": sys.argv,
    }
    metadata |= preprocessor.metadata | environment()
    model_name = " ".join(filter(None, (recipe.model.backbone, recipe.model.variant)))
    return Setup(
        recipe=recipes.to_json(recipe),
        options=options,
        schedule=schedule,
        mesh=mesh,
        dataset_name=recipe.dataset.name,
        dataset=dataset,
        synthetic=prepared.synthetic,
        preprocessor=preprocessor,
        age_groups=recipe.age_groups,
        split=split,
        heads=heads,
        labels=labels,
        model=model,
        optimizer=optimizer,
        learning_rates=np.asarray(jax.vmap(rates)(np.arange(schedule.total))),
        evaluator=Evaluator(model.graphdef, head_distributions(heads), recipe.evaluate.batch_size, preprocessor, mesh),
        state=state,
        weights=weights,
        metadata=metadata,
        description=_describe(recipe, metadata, dataset, split, heads),
        model_description=_describe_model(model_name, model.params, options, optimizer_options, schedule),
    )


def check_recipe(recipe: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Checks all of a recipe that needs neither data nor devices.

    Returns:
      The recipe with the normalisation that its pretrained weights expect, see `with_normalization`.

    Raises:
      UserError: a value is out of range, or the weights are missing.
    """
    recipes.check(recipe)
    check_optimizer(OptimizerOptions.from_recipe(recipe))
    find_backbone(recipe.model.backbone).check(backbone_options(recipe, outputs=0))
    return with_normalization(recipe, workdir)


def _make_split(recipe: ConfigDict, run: Run | None, dataset: Dataset) -> tuple[Split, dict[str, int]]:
    """Returns the split, which is read back where the run has begun, and the counts of identical files."""
    columns = dataset.columns
    split = run.split(columns["key"]) if run else None
    if run and split and run.metadata().get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"The files of {recipe.dataset.name} are not those that {run.directory} began with, though named alike; "
            "restore them, or choose another --workdir."
        )
    if split is None:
        split, conflicts = split_dataset(columns, recipe.age_groups, **recipe.split.to_dict())
    else:
        conflicts = contradictions(columns)[1]
    for part in PARTS:
        if not len(getattr(split, part)):
            raise UserError(
                f"The {part} part of the split is empty ({len(dataset)} examples in all); "
                "use more data or other fractions."
            )
    return split, conflicts


def _check_same_data(dataset_name: str, dataset: Dataset, split: Split) -> None:
    """Checks that this process has the examples and the split of the primary one."""
    for mine, what in ((dataset.sha256, "other files"), (split.sha256, "another split")):
        if mine != (theirs := from_primary(mine)):
            raise UserError(
                f"Process {jax.process_index()} has {what} of {dataset_name} than process 0 "
                f"(sha256 {mine[:12]}, not {theirs[:12]}); give all of them the same data and versions."
            )


def _check_inherited(recipe: ConfigDict, weights: PretrainedWeights, dataset: Dataset, split: Split) -> Split:
    """Checks that the run whose weights are taken has seen nothing of validation and test.

    Returns:
      The split; where the recipe accepts that it leaks, its report counts the examples that were seen.
    """
    accepted = recipe.model.pretrained_leaky
    if weights.run is None:
        return split
    held_out = np.concatenate([split.validation, split.test])
    seen = int(weights.run.has_seen(recipe.dataset.name, dataset.columns)[held_out].sum())
    if not seen:
        return split
    if not accepted:
        raise UserError(
            f"{weights.source}, or a run that it started from, was trained or chosen with {seen} of the "
            f"{len(held_out)} validation and test examples of this run (the same files or subjects), so its metrics "
            "would be too good: choose other weights in config.model.pretrained or other data, or set "
            "config.model.pretrained_leaky=True, which marks the run as leaky."
        )
    return dataclasses.replace(split, report=split.report | {"seen_by_pretrained": seen})


def _build_heads(
    recipe: ConfigDict, names: Sequence[str], dataset: Dataset, split: Split
) -> tuple[dict[str, Head], dict[str, np.ndarray]]:
    """Returns the heads with their class weights, and the label of every example for each, `[n]`."""
    if recipe.heads.class_name.weight and not names:
        raise UserError(f"{recipe.dataset.name} names no classes of its own; set config.heads.class_name.weight=0.")
    heads = build_heads(recipe, names)
    labels = {name: head.column(dataset.columns) for name, head in heads.items()}
    for name, head in heads.items():
        if isinstance(head, ClassHead | AgeYearsHead) and recipe.heads[head.name].class_weights:
            weights = class_weights(head.classes(labels[name][split.train]), head.class_count)
            heads[name] = dataclasses.replace(head, class_weights=weights)
    return heads, labels


def _describe(
    recipe: ConfigDict, metadata: Mapping[str, Any], dataset: Dataset, split: Split, heads: Mapping[str, Head]
) -> str:
    """Describes data, labels and split in lines of text."""
    counts = metadata["identical_files"]
    synthetic = f" ({DISCLAIMER})" if metadata["synthetic"] else ""
    fold = f", fold {split.fold} of {split.folds}" if split.folds else ""
    what = "recordings" if metadata["kind"] == "audio" else "pictures"
    lines = [
        f"dataset  {recipe.dataset.name} {metadata['dataset_version']}: {len(dataset)} {what}{synthetic} "
        f"at {recipe.dataset.image_size}x{recipe.dataset.image_size}",
        f"feed     {dataset.placement}",
        f"labels   perceived age and gender as annotated; age groups: {recipe.age_groups}",
        f"split    {marked(split.protocol, is_leaky(split))}{fold}: {len(split.train)} train, "
        f"{len(split.validation)} validation, {len(split.test)} test; sha256 {split.sha256[:16]}",
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
    lines.append(f"         {identities(metadata['subjects'])}")
    if leaks := split.report["groups_in_several_parts"]:
        lines.append(f"         leaky: {leaks} groups that belong together lie in several parts")
    if seen := split.report.get("seen_by_pretrained"):
        lines.append(f"         leaky: {seen} validation and test examples were seen by the pretrained run")
    if spectrogram := metadata.get("spectrogram"):
        lines.append("sound    " + ", ".join(f"{key} {value}" for key, value in spectrogram.items()))
    for name, head in heads.items():
        if isinstance(head, ClassHead) and head.class_weights is not None:
            pairs = zip(head.names, head.class_weights, strict=True)
            lines.append(f"weights  {name}: " + ", ".join(f"{label} {weight:.2f}" for label, weight in pairs))
        elif isinstance(head, AgeYearsHead) and head.class_weights is not None:
            present = head.class_weights[head.class_weights > 0]
            lines.append(f"weights  {name}: {present.min():.2f} to {present.max():.2f} for {len(present)} years")
    if not metadata["synthetic"]:
        lines.append(f"terms    {dataset.terms}")
    return "\n".join(lines)


def _describe_model(
    name: str, params: Any, options: TrainOptions, optimizer: OptimizerOptions, schedule: Schedule
) -> str:
    """Describes the model and its training in a line: parameters, steps and epochs."""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    until = f" until epoch {optimizer.unfreeze_epoch:g}" if optimizer.unfreeze_epoch else ""
    frozen = f", {frozen_parameters(optimizer, params):,} of them frozen{until}" if optimizer.freeze else ""
    steps = f"{schedule.total} steps of {options.batch_size} ({_epochs(options.epochs, schedule)})"
    return f"model    {name}, {count:,} parameters{frozen}; {steps}"


def _epochs(asked: float, schedule: Schedule) -> str:
    """Says how many epochs a run has; where whole dispatches make it many more or fewer than was asked for, why."""
    epochs = schedule.total / schedule.steps_per_epoch
    text = f"{epochs:.1f} epochs"
    # By more than a dispatch it was cut short on purpose.
    rounded = abs(schedule.total - asked * schedule.steps_per_epoch) <= schedule.dispatch
    if rounded and abs(epochs - asked) > 0.25 * asked:
        text += (
            f", not {asked:g}: steps come in blocks of {schedule.dispatch}; "
            "--config.train.steps_per_dispatch=1 comes closest"
        )
    return text


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
