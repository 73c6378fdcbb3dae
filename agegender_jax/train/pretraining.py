"""Pretrained weights that a run starts from: a file, a published name, or another run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from agegender_jax.errors import UserError
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.models import pretrained
from agegender_jax.models.backbones import find_backbone
from agegender_jax.models.model import ModelOptions
from agegender_jax.run import Run


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
            loaded, stats, prefix = pretrained.load(self.source, self.backbone, params, stats, variant=self.variant)
            return loaded, stats, pretrained.metadata(self.source, self.backbone, params, loaded, prefix)
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


def find_weights(options: ModelOptions, class_names: Sequence[str] = ()) -> PretrainedWeights | None:
    """Finds the weights that a model starts from; None where it starts from fresh ones.

    Raises:
      UserError: there are no such weights.
    """
    source, backbone = options.pretrained, options.backbone
    if not source:
        return None
    return PretrainedWeights(
        source, backbone, options.backbone_options.variant, class_names, find_run(source, backbone)
    )


def find_run(source: str, backbone: str) -> Run | None:
    """Returns the run that pretrained weights are of; None where they are a file or a name."""
    weights = pretrained.locate(source, backbone)
    return Run.load(weights.path) if weights.kind == "run" else None


def _net(backbone: str, variant: str) -> str:
    return f"{backbone} {find_backbone(backbone).variant(variant)}".rstrip()
