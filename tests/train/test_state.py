"""The training state as a pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from agegender_jax.mesh import replicated
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.train.state import initial_state, initialise
from tests.runs import mesh_of

PARAMS = {"kernel": np.full((2, 3), 1.5, np.float32), "bias": np.zeros(3, np.float32)}
STATS = {"mean": np.full(3, 0.25, np.float32)}


@pytest.mark.parametrize("average", [False, True])
def test_initial_state(average: bool) -> None:
    state = initial_state(PARAMS, STATS, optax.adam(0.1), average=average)
    assert (state.step.shape, state.step.dtype, int(state.step)) == ((), jnp.int32, 0)
    moments = state.opt_state[0]
    for tree in (moments.mu, moments.nu):
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, PARAMS)
        assert not any(leaf.any() for leaf in jax.tree.leaves(tree))
    if average:
        jax.tree.map(np.testing.assert_array_equal, state.average, (PARAMS, STATS))
    else:
        assert state.average is None


@pytest.mark.slow  # `make test` itself compiles with few optimisations
@pytest.mark.parametrize(("backbone", "variant"), [("small_cnn", "thin"), ("resnet18", "")])
def test_initialisation_compiled_in_less_time_has_the_same_bits(
    small_recipe: ConfigDict, backbone: str, variant: str
) -> None:
    small_recipe.model.update(backbone=backbone, variant=variant)
    options = model_options(small_recipe)
    model = define_model(options, build_heads(options.heads))
    mine, compiled_well = initialise(model, replicated(mesh_of(1))), jax.jit(model.init)()
    jax.tree.map(np.testing.assert_array_equal, mine, compiled_well)


def test_average_shares_no_memory_with_the_parameters() -> None:
    # The steps donate the state, and an array that stood in it twice could not be given away twice.
    params, stats = jax.tree.map(jnp.asarray, (PARAMS, STATS))
    state = initial_state(params, stats, optax.sgd(0.1), average=True)
    after = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state)
    np.testing.assert_array_equal(after.params["kernel"], PARAMS["kernel"] + 1)
    np.testing.assert_array_equal(after.average[0]["kernel"], PARAMS["kernel"] + 1)


def test_evaluation_uses_the_average_where_there_is_one() -> None:
    plain = initial_state(PARAMS, STATS, optax.sgd(0.1), average=False)
    assert plain.evaluated[0] is plain.params
    assert plain.evaluated[1] is plain.stats
    averaged = initial_state(PARAMS, STATS, optax.sgd(0.1), average=True)
    assert averaged.evaluated is averaged.average
