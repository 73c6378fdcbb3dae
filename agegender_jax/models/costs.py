"""Costs of a model's forward pass: parameters and multiply-adds, without computing anything."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from agegender_jax.models.convolution import direct_form
from agegender_jax.models.model import ModelDef


def forward_costs(model: ModelDef, image_size: int) -> dict[str, int]:
    """Counts the parameters and the multiply-adds of a model, of images of `image_size` pixels a side.

    Returns `parameters` in all, of these `backbone_parameters`, and `multiply_adds` of one image's forward pass, as
    papers count them: of convolutions and matrix products alone, the padding's zeros included.
    """

    def forward(params: Any, stats: Any, images: jax.Array) -> Any:
        return nnx.merge(model.graphdef, params, stats)(images)

    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    with direct_form():
        program = jax.make_jaxpr(forward)(model.params, model.stats, image)
    return {
        "parameters": _size(model.params),
        "backbone_parameters": _size(model.params["backbone"]),
        "multiply_adds": count_multiply_adds(program.jaxpr),
    }


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_multiply_adds(program: Jaxpr) -> int:
    """Counts the multiply-adds of the convolutions and matrix products of a traced program.

    A `scan` counts as often as it runs, a `cond` as its dearest branch, a `while`, whose length is unknown, once.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.ones((2, 3)), jnp.ones((3, 5))
    >>> count_multiply_adds(jax.make_jaxpr(jnp.matmul)(a, b).jaxpr)
    30
    """
    return sum(_of_equation(equation) for equation in program.eqns)


def _of_equation(equation: Any) -> int:
    name, options = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = options["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape  # whose inputs are those of one group
        filters = kernel[options["dimension_numbers"].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // filters
    inner = [count_multiply_adds(program) for program in _programs(options)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (options["length"] if name == "scan" else 1)


def _programs(options: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """Yields the programs inside an operation, such as the body of a loop."""
    for value in options.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
