"""Beginning with pretrained weights: what comes with them into the recipe, and how they get into a fresh model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.models import pretrained
from agegender_jax.models.backbones import find_backbone
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
    elif run := _run(source, recipe.model.backbone):
        recipe.preprocess = run.recipe.preprocess
    else:
        mean, std = pretrained.normalization(source, recipe.model.backbone)
        recipe.preprocess = {"mean": tuple(mean), "std": tuple(std)}
    return recipe


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """The weights that a run starts from.

    Attributes:
      source: `config.model.pretrained`.
      backbone: `config.model.backbone`.
      variant: `config.model.variant`.
      class_names: the dataset's own classes, in whose order another run must have been trained.
      run: the run that `source` is the directory of; None where it is a file or a name.
    """

    source: str
    backbone: str
    variant: str
    class_names: Sequence[str]
    run: Run | None

    def load(self, params: Any, stats: Any) -> tuple[Any, Any, dict[str, str]]:
        """Puts the weights into a fresh model.

        Args:
          params: of the fresh model, see `split_model`; shapes alone show whether the weights are those of the model.
          stats: likewise.

        Returns:
          Parameters, statistics, and where they came from, with a `description` of one line.

        Raises:
          UserError: the weights are missing, damaged, or not those of this model.
        """
        if self.run is None:
            loaded, stats = pretrained.load(self.source, self.backbone, params, stats, variant=self.variant)
            return loaded, stats, pretrained.metadata(self.source, self.backbone, params, loaded)
        theirs = self.run.recipe.model
        own, other = (_net(self.backbone, self.variant), _net(theirs.backbone, theirs.variant))
        if own != other:
            raise UserError(
                f"{self.source} is a run of {other}, and this recipe is of {own}; set config.model.backbone and "
                "config.model.variant to those of the run."
            )
        if self.run.summary() is None:
            raise UserError(f"{self.source} is not complete; finish that run, or give another config.model.pretrained.")
        parent = LoadedModel.load(self.run.directory)
        step, (their_params, their_stats) = parent.summary["evaluated_step"], parent.model_state
        same_classes = tuple(parent.metadata.get("class_names", ())) == tuple(self.class_names)
        skip = () if same_classes else ("class_name",)
        params, stats, description = pretrained.load_tree(their_params, their_stats, params, stats, skip=skip)
        origin = {"source": self.source, "step": str(step), "description": f"run {self.run.name}: {description}"}
        return params, stats, origin


def find_weights(recipe: ConfigDict, class_names: Sequence[str] = ()) -> PretrainedWeights | None:
    """Finds the weights that a recipe starts from; None where it starts from fresh ones.

    Raises:
      UserError: there are no such weights.
    """
    model = recipe.model
    if not model.pretrained:
        return None
    return PretrainedWeights(
        model.pretrained, model.backbone, model.variant, class_names, _run(model.pretrained, model.backbone)
    )


def _net(backbone: str, variant: str) -> str:
    return f"{backbone} {find_backbone(backbone).variant(variant)}".rstrip()


def _run(source: str, backbone: str) -> Run | None:
    weights = pretrained.locate(source, backbone)
    return Run.load(weights.path) if weights.kind == "run" else None
