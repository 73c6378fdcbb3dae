"""Beginning with pretrained weights: what comes with them into the recipe, and how they get into a fresh model."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.models import pretrained
from agegender_jax.run import Run


def with_normalization(recipe: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """The recipe with the input normalisation of its pretrained weights, where it keeps the default.

    Args:
      recipe: not changed.
      workdir: of a run that may have begun; what it began with is kept, so that the weights are not needed any more.
    """
    source = recipe.model.pretrained
    default = recipes.base().preprocess
    if not source or recipe.preprocess != default:
        return recipe
    recipe = ConfigDict(recipe.to_dict())
    if workdir is not None and (workdir / "recipe.json").exists():
        began = Run.load(workdir).recipe
        if began.model.pretrained == source:
            recipe.preprocess = began.preprocess
            return recipe
    if run := _run(source):
        recipe.preprocess = run.recipe.preprocess
        return recipe
    mean, std = pretrained.normalization(source, recipe.model.backbone)
    recipe.preprocess = {"mean": tuple(mean), "std": tuple(std)}
    return recipe


def load_pretrained(recipe: ConfigDict, params: Any, stats: Any) -> tuple[Any, Any, dict[str, str]]:
    """Puts the recipe's pretrained weights into a fresh model.

    Args:
      recipe: `model` is used.
      params: of the fresh model, see `split_model`.
      stats: likewise.

    Returns:
      Parameters, statistics, and where they came from, with a `description` of one line.

    Raises:
      UserError: the weights are missing, damaged, or not those of this model.
    """
    source, backbone, variant = recipe.model.pretrained, recipe.model.backbone, recipe.model.variant
    run = _run(source)
    if run is None:
        params, stats = pretrained.load(source, backbone, params, stats, variant=variant)
        return params, stats, pretrained.facts(source, backbone)
    summary = run.summary()
    if summary is None:
        raise UserError(f"{source} is not complete; finish that run, or give another config.model.pretrained.")
    step = summary["evaluated_step"]
    checkpoints = run.checkpoints()
    try:
        if step not in checkpoints.steps:
            raise UserError(f"{source} has no checkpoint of step {step}; restore it from a copy.")
        their_params, their_stats = checkpoints.restore(step, "model", None)
    finally:
        checkpoints.close()
    params, stats, said = pretrained.load_tree(their_params, their_stats, params, stats)
    return params, stats, {"source": source, "step": str(step), "description": f"run {run.name}: {said}"}


def _run(source: str) -> Run | None:
    path = Path(source).expanduser()
    return Run.load(path) if (path / "recipe.json").exists() else None
