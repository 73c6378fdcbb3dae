"""The state that training starts from: how it lies on the devices, and its values, restored or else fresh."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from agegender_jax.checkpoints import Checkpoints
from agegender_jax.distributed import all_or_none, from_primary, is_primary, log_primary
from agegender_jax.errors import UserError
from agegender_jax.models.heads import Head
from agegender_jax.models.model import build_model, split_model
from agegender_jax.run import Run
from agegender_jax.sharding import state_shardings
from agegender_jax.train.experiment import Experiment
from agegender_jax.train.pretraining import load_pretrained
from agegender_jax.train.state import TrainState, initial_state


def abstract_state(
    recipe: ConfigDict, heads: Mapping[str, Head], optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """The shapes of the training state, and where each array lies (`compute.fsdp`, `compute.model`).

    Returns:
      A state of `jax.ShapeDtypeStruct` with shardings; nothing is computed.
    """
    shapes = jax.eval_shape(lambda: _begin(recipe, optimizer)(*_fresh(recipe, heads)))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, fsdp=recipe.compute.fsdp),
    )


def first_state(
    run: Run,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    checkpoints: Checkpoints,
) -> tuple[int, TrainState]:
    """The newest checkpoint, wherever it was saved, or else the state before the first step.

    Args:
      run: the run.
      experiment: what it works on.
      optimizer: from `make_optimizer`.
      abstract: from `abstract_state`: what is restored or initialised is laid out like that from the start.
      checkpoints: of the run.

    Returns:
      Steps done, and the state.

    Raises:
      UserError: no checkpoint can be read, or the pretrained weights cannot.
    """
    if restored := checkpoints.restore_newest("training", abstract):
        return restored
    recipe = run.recipe
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    pretrained = recipe.model.pretrained
    # Weights are put into a model that every process has whole.
    where = shardings.step if pretrained else (shardings.params, shardings.stats)
    params, stats = jax.jit(partial(_fresh, recipe, experiment.heads), out_shardings=where)()
    if pretrained:
        with all_or_none():
            params, stats, origin = load_pretrained(recipe, params, stats, experiment.metadata["class_names"])
        if is_primary():
            run.write("run.json", run.metadata() | {"pretrained": origin})
        log_primary(f"weights  {origin['description']}")
    return 0, jax.jit(_begin(recipe, optimizer), out_shardings=shardings)(params, stats)


def check_same(experiment: Experiment) -> None:
    """Checks that this process has the examples and the split of the primary one.

    Raises:
      UserError: it has others.
    """
    for name, what in (("data_sha256", "other files"), ("split_sha256", "another split")):
        mine = experiment.metadata[name]
        if mine != (theirs := from_primary(mine)):
            raise UserError(
                f"Process {jax.process_index()} has {what} of {experiment.recipe.dataset.name} than process 0 "
                f"(sha256 {mine[:12]}, not {theirs[:12]}); give all of them the same data and versions."
            )


def _fresh(recipe: ConfigDict, heads: Mapping[str, Head]) -> tuple[Any, Any]:
    _, params, stats = split_model(build_model(recipe, heads))
    return params, stats


def _begin(recipe: ConfigDict, optimizer: optax.GradientTransformation) -> Any:
    return partial(initial_state, optimizer=optimizer, average=bool(recipe.train.ema_decay))
