"""Resolves a recipe: `build_setup` checks it, once, and builds the objects that a run works with."""

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
from agegender_jax.data.resources import device_memory
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.distributed import all_or_none, from_primary, primary_first
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluator import Evaluator, head_distributions
from agegender_jax.evaluate.targets import target_heads
from agegender_jax.labels import class_weights
from agegender_jax.mesh import check_batch, make_mesh
from agegender_jax.metrics import Metric
from agegender_jax.models import pretrained
from agegender_jax.models.backbones import find_backbone
from agegender_jax.models.heads import AgeYearsHead, ClassHead, Head, HeadOptions, build_heads, with_class_weights
from agegender_jax.models.model import ModelDef, define_model
from agegender_jax.recipe_options import StepCounts, TrainOptions, data_options, model_options, train_options
from agegender_jax.run import Run
from agegender_jax.splits import PARTS, Split
from agegender_jax.train.optimizer import check_freeze, check_optimizer, learning_rate, make_optimizer
from agegender_jax.train.pretraining import PretrainedWeights, find_run, find_weights
from agegender_jax.train.state import TrainState, abstract_state
from agegender_jax.train.step import check_microbatches


@dataclasses.dataclass(frozen=True)
class Setup:
    """The objects that a run works with, checked before anything is decoded or compiled.

    Attributes:
      recipe_json: the whole recipe, for the record.
      options: how to train and evaluate.
      step_counts: how many steps.
      mesh: devices.
      dataset_name: of the recipe.
      dataset: its examples, not decoded yet.
      synthetic: whether the dataset is synthetic.
      preprocessor: what the network sees of an example.
      age_groups: name of the scheme.
      split: which examples are for training, validation and test.
      heads: by name, class weights included.
      labels: of every head, `[n]`.
      image_size: edge of the images that the network sees, pixels.
      model_name: backbone and variant.
      model: structure, shapes and initialisation, traced once.
      optimizer: the gradient transformation.
      learning_rates: of every step, float32 `[total]`, to be logged.
      evaluator: of the model.
      state: shapes of the training state, and where each array lies.
      weights: that the run starts from; None starts from fresh ones.
      selection: the metric `options.select`, which the best checkpoint is chosen by.
      metadata: the content of `run.json`.
    """

    recipe_json: str
    options: TrainOptions
    step_counts: StepCounts
    mesh: jax.sharding.Mesh
    dataset_name: str
    dataset: Dataset
    synthetic: bool
    preprocessor: Preprocessor
    age_groups: str
    split: Split
    heads: Mapping[str, Head]
    labels: Mapping[str, np.ndarray]
    image_size: int
    model_name: str
    model: ModelDef
    optimizer: optax.GradientTransformation
    learning_rates: np.ndarray
    evaluator: Evaluator
    state: TrainState
    weights: PretrainedWeights | None
    selection: Metric
    metadata: Mapping[str, Any]

    def batch_shapes(self) -> tuple[Any, Any]:
        """Computes the shapes of the resident data and of the batches of a dispatch."""
        return abstract_batches(
            self.dataset, self.labels, self.mesh, self.options.batch_size, self.step_counts.dispatch
        )

    def make_loader(self, decoded: np.ndarray | None) -> DeviceLoader:
        """Makes the loader of the dataset; `decoded` holds all its examples where it is resident, else None."""
        sampler = BatchSampler(self.split.train, self.options.batch_size, self.options.seed)
        return make_loader(self.dataset, self.mesh, self.labels, sampler, self.step_counts.total, decoded=decoded)


def build_setup(
    recipe: ConfigDict,
    *,
    manual_dir: Path | None,
    data_dir: Path,
    workdir: Path | None = None,
    progress: bool = True,
    dispatches: int | None = None,
) -> Setup:
    """Checks a recipe and builds the objects of its run; writes nothing into the run, and decodes nothing.

    The recipe itself is checked first, so that a bad one is refused before a dataset is prepared.

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
        options, data, net = train_options(recipe), data_options(recipe), model_options(recipe)
        dataset_name = data.dataset.name
        mesh = make_mesh(data.loading.devices_per_copy)
        check_batch(mesh, options.batch_size)
        check_microbatches(options.batch_size, options.microbatches, mesh.shape["data"])
    memory = from_primary(device_memory())  # the processes' memories may differ, and all must load in the same way
    with primary_first():
        run = Run.find(workdir, recipe) if workdir else None
        dataset = open_dataset(data, manual_dir=manual_dir, data_dir=data_dir, memory=memory, progress=progress)
        prepared, preprocessor = dataset.prepared, dataset.preprocessor
        split, conflicts = _make_split(options.split, net.heads.age_groups, dataset_name, run, dataset)
    with all_or_none():
        _check_same_data(dataset_name, dataset, split)
        fresh = from_primary(run is None or not run.has_checkpoint())
        if fresh and options.batch_size > len(split.train):
            raise UserError(
                f"config.train.batch_size={options.batch_size} is larger than the training set of {len(split.train):,} "
                "examples; choose a smaller one."
            )
        names = class_names(dataset.columns)
        heads, labels = _build_heads(net.heads, names, dataset_name, dataset, split)
        selection = selection_metric(options.select, heads)
        counts = options.step_counts(len(split.train)).at_most(dispatches)
        rates = learning_rate(options.optimizer, counts.total)
        optimizer = make_optimizer(options.optimizer, counts.total, counts.steps_per_epoch)
        with jax.set_mesh(mesh):
            model = define_model(net, heads)
        check_freeze(options.optimizer, model.params)
        state = abstract_state(model, optimizer, mesh, average=bool(options.ema_decay), fsdp=options.fsdp)
        spread = any("model" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
        if mesh.shape["model"] > 1 and not spread:
            raise UserError(
                f"config.compute.model={mesh.shape['model']} would do nothing: the backbone {net.backbone} has no "
                "dense layer that can be split; set it to 1."
            )
        weights = find_weights(net, names) if fresh else None  # a run with a checkpoint needs none
        if net.pretrained_leaky and fresh and not (weights and weights.run):
            raise UserError(
                "config.model.pretrained_leaky=True is for a run that starts from the weights of another run; set "
                "config.model.pretrained to the directory of one, or leave it out."
            )
        if weights:
            weights.load(model.params, model.stats)
            split = _check_inherited(net.pretrained_leaky, weights, dataset_name, dataset, split)
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
    return Setup(
        recipe_json=recipes.to_json(recipe),
        options=options,
        step_counts=counts,
        mesh=mesh,
        dataset_name=dataset_name,
        dataset=dataset,
        synthetic=prepared.synthetic,
        preprocessor=preprocessor,
        age_groups=net.heads.age_groups,
        split=split,
        heads=heads,
        labels=labels,
        image_size=net.backbone_options.image_size,
        model_name=" ".join(filter(None, (net.backbone, net.backbone_options.variant))),
        model=model,
        optimizer=optimizer,
        learning_rates=np.asarray(jax.vmap(rates)(np.arange(counts.total))),
        evaluator=Evaluator(model.graphdef, head_distributions(heads), data.loading.eval_batch, preprocessor, mesh),
        state=state,
        weights=weights,
        selection=selection,
        metadata=metadata,
    )


def check_recipe(recipe: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Checks all of a recipe that needs neither data nor devices.

    Args:
      recipe: not changed.
      workdir: of a run that may have begun: its normalisation is kept, and the weights are not needed any more.

    Returns:
      The recipe, with the input normalisation of its pretrained weights where it keeps the default.

    Raises:
      UserError: a value is out of range, or the weights are missing.
    """
    recipes.check(recipe)
    check_optimizer(train_options(recipe).optimizer)
    net = model_options(recipe)
    find_backbone(net.backbone).check(net.backbone_options)
    if not net.pretrained:
        return recipe
    began = Run.load(workdir).recipe if workdir is not None and (workdir / "recipe.json").exists() else None
    if began is not None and began.model.pretrained != net.pretrained:
        began = None
    parent = None if began else find_run(net.pretrained, net.backbone)
    if recipe.preprocess != recipes.base().preprocess:
        return recipe
    resolved = ConfigDict(recipe.to_dict())
    if began:
        resolved.preprocess = began.preprocess
    elif parent:
        resolved.preprocess = parent.recipe.preprocess
    else:
        mean, std = pretrained.normalization(net.pretrained, net.backbone)
        resolved.preprocess = {"mean": tuple(mean), "std": tuple(std)}
    return resolved


def _make_split(
    options: Mapping[str, Any], age_groups: str, dataset_name: str, run: Run | None, dataset: Dataset
) -> tuple[Split, dict[str, int]]:
    """Returns the split, which is read back where the run has begun, and the counts of identical files."""
    columns = dataset.columns
    split = run.split(columns["key"]) if run else None
    if run and split and run.metadata().get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"The files of {dataset_name} are not those that {run.directory} began with, though named alike; "
            "restore them, or choose another --workdir."
        )
    if split is None:
        split, conflicts = split_dataset(columns, age_groups, **options)
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


def _check_inherited(
    accepted: bool, weights: PretrainedWeights, dataset_name: str, dataset: Dataset, split: Split
) -> Split:
    """Checks that the run whose weights are taken has seen nothing of validation and test.

    Returns:
      The split; where the recipe accepts that it leaks, its report counts the examples that were seen.
    """
    if weights.run is None:
        return split
    held_out = np.concatenate([split.validation, split.test])
    seen = int(weights.run.has_seen(dataset_name, dataset.columns)[held_out].sum())
    if not seen:
        return split
    if not accepted:
        raise UserError(
            f"{weights.source}, or a run that it started from, was trained or chosen with {seen} of the "
            f"{len(held_out)} validation and test examples of this run (the same files, subjects or groups), so its "
            "metrics would be too good: choose other weights in config.model.pretrained or other data, or set "
            "config.model.pretrained_leaky=True, which marks the run as leaky."
        )
    return dataclasses.replace(split, report=split.report | {"seen_by_pretrained": seen})


def _build_heads(
    options: HeadOptions, names: Sequence[str], dataset_name: str, dataset: Dataset, split: Split
) -> tuple[dict[str, Head], dict[str, np.ndarray]]:
    """Returns the heads with their class weights, and the label of every example for each, `[n]`."""
    if options.heads["class_name"]["weight"] and not names:
        raise UserError(f"{dataset_name} names no classes of its own; set config.heads.class_name.weight=0.")
    heads = build_heads(options, names)
    labels = {name: head.column(dataset.columns) for name, head in heads.items()}
    weights = {
        name: class_weights(head.classes(labels[name][split.train]), head.class_count)
        for name, head in heads.items()
        if isinstance(head, ClassHead | AgeYearsHead) and options.heads[head.name]["class_weights"]
    }
    return with_class_weights(heads, weights), labels


def selection_metric(name: str, heads: Mapping[str, Head]) -> Metric:
    """Returns the metric `head/metric` that `config.evaluate.select` names.

    Raises:
      UserError: there is no such metric, or neither more nor less of it is better.
    """
    selectable = {
        f"{head_name}/{metric.name}": metric
        for head_name, head in target_heads(heads).items()
        for metric in head.metrics
        if metric.higher_is_better is not None
    }
    if name not in selectable:
        raise UserError(
            f"config.evaluate.select={name!r} cannot choose a checkpoint; choose one of: {', '.join(selectable)}."
        )
    return selectable[name]


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
