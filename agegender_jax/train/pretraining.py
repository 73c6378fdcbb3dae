"""Beginning with pretrained weights: what comes with them into the recipe, and how they get into a fresh model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import evaluated_model
from agegender_jax.models import pretrained
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.run import Run


def with_normalization(recipe: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """The recipe with the input normalisation of its pretrained weights, where it keeps the default.

    Args:
      recipe: not changed.
      workdir: of a run that may have begun; what it began with is kept, so that the weights are not needed any more.

    Raises:
      UserError: there are no such weights.
    """
    source = recipe.model.pretrained
    if not source or recipe.preprocess != recipes.base().preprocess:
        return recipe
    recipe = ConfigDict(recipe.to_dict())
    began = Run.load(workdir).recipe if workdir is not None and (workdir / "recipe.json").exists() else None
    if began is not None and began.model.pretrained == source:
        recipe.preprocess = began.preprocess
    elif run := _run(recipe):
        recipe.preprocess = run.recipe.preprocess
    else:
        mean, std = pretrained.normalization(source, recipe.model.backbone)
        recipe.preprocess = {"mean": tuple(mean), "std": tuple(std)}
    return recipe


def load_pretrained(
    recipe: ConfigDict, params: Any, stats: Any, class_names: Sequence[str] = ()
) -> tuple[Any, Any, dict[str, str]]:
    """Puts the recipe's pretrained weights into a fresh model.

    Args:
      recipe: `model` is used.
      params: of the fresh model, see `split_model`; shapes alone show whether the weights are those of the model.
      stats: likewise.
      class_names: the dataset's own classes, in whose order the head `joint` of another run must have been trained.

    Returns:
      Parameters, statistics, and where they came from, with a `description` of one line.

    Raises:
      UserError: the weights are missing, damaged, or not those of this model.
    """
    source, backbone, variant = recipe.model.pretrained, recipe.model.backbone, recipe.model.variant
    run = _run(recipe)
    if run is None:
        loaded, stats = pretrained.load(source, backbone, params, stats, variant=variant)
        return loaded, stats, pretrained.metadata(source, backbone, params, loaded)
    theirs = run.recipe.model
    nets = [(model.backbone, BACKBONES[model.backbone].variant(model.variant)) for model in (theirs, recipe.model)]
    if nets[0] != nets[1]:
        raise UserError(
            f"{source} is a run of {' '.join(nets[0])}".rstrip()
            + f", and this recipe is of {' '.join(nets[1])}".rstrip()
            + "; set config.model.backbone and config.model.variant to those of the run."
        )
    summary = run.summary()
    if summary is None:
        raise UserError(f"{source} is not complete; finish that run, or give another config.model.pretrained.")
    step = summary["evaluated_step"]
    (their_params, their_stats), _ = evaluated_model(run, step)
    others = () if tuple(run.metadata().get("class_names", ())) == tuple(class_names) else ("class_name",)
    params, stats, said = pretrained.load_tree(their_params, their_stats, params, stats, skip=others)
    return params, stats, {"source": source, "step": str(step), "description": f"run {run.name}: {said}"}


def _run(recipe: ConfigDict) -> Run | None:
    weights = pretrained.locate(recipe.model.pretrained, recipe.model.backbone)
    return Run.load(weights.path) if weights.kind == "run" else None
