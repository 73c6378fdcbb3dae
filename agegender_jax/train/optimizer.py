"""Optimizers and learning-rate schedules, built from `OptimizerOptions`."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agegender_jax.errors import UserError
from agegender_jax.train.options import OptimizerOptions


def learning_rate(options: OptimizerOptions, total_steps: int) -> optax.Schedule:
    """The learning rate by step: a linear warm-up from zero, then `constant`, `cosine` to zero, or `step`.

    `step` is a tenth after each fifth of the steps that follow (Levi and Hassner 2015: 10,000 of 50,000).

    Args:
      options: `learning_rate`, `schedule`, `warmup` (share of all steps).
      total_steps: optimizer steps in the whole run.
    """
    peak, warmup_steps = options.learning_rate, round(options.warmup * total_steps)
    after = max(total_steps - warmup_steps, 1)
    main = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, after),
        "step": optax.piecewise_constant_schedule(peak, {max(1, after * fifth // 5): 0.1 for fifth in range(1, 5)}),
    }[options.schedule]
    if not warmup_steps:
        return main
    # From the first step on the rate is above zero: a step at rate zero would only cost time.
    rise = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
    return optax.join_schedules([rise, main], [warmup_steps])


def weight_decay_mask(params: Any) -> Any:
    """Which parameters weight decay applies to: kernels, not biases or normalisation scales (same tree, bools).

    >>> weight_decay_mask({"conv": {"kernel": jax.numpy.ones((3, 3, 1, 1)), "bias": jax.numpy.ones(1)}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(options: OptimizerOptions, total_steps: int, steps_per_epoch: float) -> optax.GradientTransformation:
    """The gradient transformation of a recipe: `adam` (the papers), `adamw` or `sgd` (momentum 0.9, Nesterov).

    What is frozen stays exactly as it is, also under weight decay. Its moments gather all the while, as they do in a
    parameter group whose learning rate is zero, so that its first step is neither that of empty moments (which Adam
    makes three times too large once its step count is high) nor late. Normalisation statistics are no parameters:
    they follow the data in frozen layers, too.

    The learning rate of a layer is `layer_decay` times that of the layer above it, the heads having the full one
    (Clark et al. 2020, "ELECTRA"; Bao et al. 2022, "BEiT"), and so is what weight decay takes from it.

    Args:
      options: the recipe's `optimizer` section.
      total_steps: optimizer steps in the whole run.
      steps_per_epoch: optimizer steps in an epoch, which `unfreeze_epoch` is counted in.

    Raises:
      UserError: from its `init`, see `check_freeze`.
    """
    schedule = learning_rate(options, total_steps)
    rule = {
        "adam": lambda: optax.adam(schedule, b1=options.b1, b2=options.b2),
        "adamw": lambda: optax.adamw(
            schedule, b1=options.b1, b2=options.b2, weight_decay=options.weight_decay, mask=weight_decay_mask
        ),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(options.weight_decay, mask=weight_decay_mask),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        ),
    }[options.name]()
    if options.freeze or options.layer_decay != 1:
        return _by_parameter(rule, options, steps_per_epoch)
    if not options.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), rule)


class _ByParameterState(NamedTuple):
    """Optimizer steps done, int32 scalar, and the state of the rule inside."""

    step: jax.Array
    rule: optax.OptState


def _by_parameter(
    rule: optax.GradientTransformation, options: OptimizerOptions, steps_per_epoch: float
) -> optax.GradientTransformation:
    """A rule whose updates each parameter takes by its own factor, and not at all while it is frozen."""
    unfreeze_step = max(1, round(options.unfreeze_epoch * steps_per_epoch)) if options.unfreeze_epoch else None

    def init(params: Any) -> _ByParameterState:
        check_freeze(options, params)
        return _ByParameterState(jnp.zeros((), jnp.int32), rule.init(params))

    def update(gradient: Any, state: _ByParameterState, params: Any = None) -> tuple[Any, _ByParameterState]:
        still = True if unfreeze_step is None else state.step < unfreeze_step
        frozen = jax.tree.map(lambda matched: matched & still, _matched(options.freeze, gradient))
        if options.clip_norm:
            gradient = _clipped(gradient, frozen, options.clip_norm)
        updates, inner = rule.update(gradient, state.rule, params)
        updates = jax.tree.map(
            lambda update, frozen, depth: jnp.where(frozen, 0, options.layer_decay**depth * update),
            updates,
            frozen,
            depths(gradient),
        )
        return updates, _ByParameterState(state.step + 1, inner)

    return optax.GradientTransformation(init, update)


def _clipped(gradient: Any, frozen: Any, clip_norm: float) -> Any:
    """What learns, clipped by its own norm, and what is frozen, as it will be once it learns: by that of all."""
    learning = jax.tree.map(lambda g, frozen: jnp.where(frozen, 0, g), gradient, frozen)
    alone, together = (clip_norm / jnp.maximum(optax.tree.norm(tree), clip_norm) for tree in (learning, gradient))
    return jax.tree.map(lambda g, frozen: g * jnp.where(frozen, together, alone), gradient, frozen)


def check_freeze(options: OptimizerOptions, params: Any) -> None:
    """Checks what is to be frozen.

    Args:
      options: the recipe's `optimizer` section.
      params: of the model, or their shapes.

    Raises:
      UserError: `freeze` is no regular expression, or finds no parameter or all of them; or `unfreeze_epoch` has
        nothing to unfreeze.
    """
    if not options.freeze:
        if options.unfreeze_epoch:
            raise UserError(
                f"config.optimizer.unfreeze_epoch={options.unfreeze_epoch} has nothing to unfreeze; set "
                "config.optimizer.freeze, or leave it at 0."
            )
        return
    try:
        found = jax.tree.leaves(_matched(options.freeze, params))
    except re.error as error:
        raise UserError(
            f"config.optimizer.freeze={options.freeze!r} is no regular expression ({error}); mend it."
        ) from error
    if not any(found) or all(found):
        paths = _paths(params)
        some = [paths[number * (len(paths) - 1) // 3] for number in range(4)]
        problem = "finds every parameter, so nothing would learn" if any(found) else "finds no parameter"
        raise UserError(
            f"config.optimizer.freeze={options.freeze!r} {problem}; parameters are called "
            f"{', '.join(dict.fromkeys(some))} and the like."
        )


def frozen_parameters(options: OptimizerOptions, params: Any) -> int:
    """How many numbers `freeze` keeps as they are, of a model's parameters or their shapes."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(_matched(options.freeze, params)), strict=True)
    return sum(leaf.size for leaf, frozen in pairs if frozen)


def _matched(pattern: str, params: Any) -> Any:
    """Which parameters' paths hold the pattern (same tree, bools)."""
    found = [bool(pattern and re.search(pattern, path)) for path in _paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _paths(params: Any) -> list[str]:
    """Paths such as `backbone/trunk/convs/0/kernel`, in the order of the leaves."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]


def depths(params: Any) -> Any:
    """How many layers lie above each parameter (same tree, ints): 0 for the heads, most for the first convolution.

    A convolution and its normalisation are one layer, and so is a residual block. Nets that stand side by side are
    counted each by itself.

    >>> trunk = {"convs": {0: {"kernel": 1}, 1: {"kernel": 1}}, "norms": {0: {"scale": 1}, 1: {"scale": 1}}}
    >>> found = depths({"backbone": {"trunk": trunk, "top": {"dense": {0: {"kernel": 1}}}}, "heads": {"kernel": 1}})
    >>> found["heads"], found["backbone"]["top"], found["backbone"]["trunk"]["norms"]
    ({'kernel': 0}, {'dense': {0: {'kernel': 1}}}, {0: {'scale': 3}, 1: {'scale': 2}})
    """
    places = [_place(path.split("/")) for path in _paths(params)]
    nets: dict[str, set[tuple[int, int]]] = {}
    for place in places:
        if place:
            nets.setdefault(place[0], set()).add(place[1])
    above = {
        (net, layer): depth
        for net, layers in nets.items()
        for depth, layer in enumerate(sorted(layers, reverse=True), start=1)
    }
    return jax.tree.unflatten(jax.tree.structure(params), [above[place] if place else 0 for place in places])


_STEM, _LISTS, _AFTER_LISTS, _DENSE, _TOP = range(5)


def _place(path: Sequence[str]) -> tuple[str, tuple[int, int]] | None:
    """The net that a parameter belongs to and its layer there, which sorts as layers are called; of a head, None.

    Backbones keep layers that are called one after the other in lists, and lists that belong together (convolutions
    and their normalisations) number alike. What is in no list comes before them (`stem...`) or after them.
    """
    if path[0] != "backbone":
        return None
    start = next((i for i, name in enumerate(path) if name in ("trunk", "top")), None)
    net = path[:start]
    if start is None:  # a net in one piece, whose lists stand in it
        start = max(0, next((i for i, name in enumerate(path) if name.isdecimal()), 0) - 2)
        net = path[: start + 1]
    name, number = (*path[start + 1 :], "")[:2]
    index = int(number) if number.isdecimal() else 0
    if path[start] == "top":
        layer = _TOP, index
    elif name.startswith("stem"):
        layer = _STEM, 0
    elif name.startswith("dense"):
        layer = _DENSE, index
    elif not number.isdecimal():
        layer = _AFTER_LISTS, 0
    else:
        layer = _LISTS, index
    return "/".join(net), layer
