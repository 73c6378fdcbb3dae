"""Optimizers and learning-rate schedules, built from `OptimizerOptions`."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agegender_jax.errors import UserError
from agegender_jax.recipe_options import OptimizerOptions

SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "cosine": optax.cosine_decay_schedule,
    "step": lambda peak, steps: optax.piecewise_constant_schedule(
        peak, {max(1, steps * fifth // 5): 0.1 for fifth in range(1, 5)}
    ),
}
"""Learning rates after the warm-up, from the peak and the number of steps, by `config.optimizer.schedule`."""


def learning_rate(options: OptimizerOptions, total_steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up from zero, then `constant`, `cosine` to zero, or `step`.

    `step` is a tenth after each fifth of the steps that follow (Levi and Hassner 2015: 10,000 of 50,000).

    Args:
      options: `learning_rate`, `schedule`, `warmup` (share of all steps).
      total_steps: optimizer steps in the whole run.
    """
    peak, warmup_steps = options.learning_rate, round(options.warmup * total_steps)
    after = max(total_steps - warmup_steps, 1)
    main = SCHEDULES[options.schedule](peak, after)
    if not warmup_steps:
        return main
    # From the first step on the rate is above zero: a step at rate zero would only cost time.
    rise = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
    return optax.join_schedules([rise, main], [warmup_steps])


def weight_decay_mask(params: Any) -> Any:
    """Returns which parameters weight decay applies to (same tree, bools): kernels, not biases or scales.

    >>> weight_decay_mask({"conv": {"kernel": jax.numpy.ones((3, 3, 1, 1)), "bias": jax.numpy.ones(1)}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS: Mapping[str, Callable[[optax.Schedule, float], optax.GradientTransformation]] = {
    "adam": lambda rate, weight_decay: optax.adam(rate),
    "adamw": lambda rate, weight_decay: optax.adamw(rate, weight_decay=weight_decay, mask=weight_decay_mask),
    "sgd": lambda rate, weight_decay: optax.chain(
        optax.add_decayed_weights(weight_decay, mask=weight_decay_mask),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    ),
}
"""Optimizers, from the learning rate and the weight decay, by `config.optimizer.name`."""


def check_optimizer(options: OptimizerOptions) -> None:
    """Checks the names of optimizer and schedule.

    Raises:
      UserError: one is not known.
    """
    for key, value, known in (("name", options.name, OPTIMIZERS), ("schedule", options.schedule, SCHEDULES)):
        if value not in known:
            raise UserError(f"config.optimizer.{key}={value!r} is not known; choose one of: {', '.join(known)}.")


def make_optimizer(options: OptimizerOptions, total_steps: int, steps_per_epoch: float) -> optax.GradientTransformation:
    """Returns the gradient transformation: `adam` (the papers), `adamw` or `sgd` (momentum 0.9, Nesterov).

    `clip_norm` scales a gradient of a larger global norm down to it; frozen parameters do not count in that norm.
    Frozen parameters take no update, nor weight decay, but their moments follow the gradient: Adam's first step after
    `unfreeze_epoch` would else be three times too large. Normalisation statistics follow the data, also when frozen.

    Args:
      options: the recipe's `optimizer` section.
      total_steps: optimizer steps in the whole run.
      steps_per_epoch: optimizer steps in an epoch, which `unfreeze_epoch` is counted in.

    Raises:
      UserError: from its `init`, see `check_freeze`.
    """
    rule = OPTIMIZERS[options.name](learning_rate(options, total_steps), options.weight_decay)
    if options.freeze:
        return _freeze(rule, options, steps_per_epoch)
    if not options.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), rule)


class _FreezeState(NamedTuple):
    """Optimizer steps done, int32 scalar, and the state of the rule inside."""

    step: jax.Array
    rule: optax.OptState


def _freeze(
    rule: optax.GradientTransformation, options: OptimizerOptions, steps_per_epoch: float
) -> optax.GradientTransformation:
    """Returns a rule whose updates a parameter takes only while it is not frozen."""
    unfreeze_step = max(1, round(options.unfreeze_epoch * steps_per_epoch)) if options.unfreeze_epoch else None

    def init(params: Any) -> _FreezeState:
        check_freeze(options, params)
        return _FreezeState(jnp.zeros((), jnp.int32), rule.init(params))

    def update(gradient: Any, state: _FreezeState, params: Any = None) -> tuple[Any, _FreezeState]:
        still = True if unfreeze_step is None else state.step < unfreeze_step
        frozen = jax.tree.map(lambda matched: matched & still, _matched(options.freeze, gradient))
        if options.clip_norm:
            gradient = _clipped(gradient, frozen, options.clip_norm)
        updates, inner = rule.update(gradient, state.rule, params)
        updates = jax.tree.map(lambda update, frozen: jnp.where(frozen, 0, update), updates, frozen)
        return updates, _FreezeState(state.step + 1, inner)

    return optax.GradientTransformation(init, update)


def _clipped(gradient: Any, frozen: Any, clip_norm: float) -> Any:
    """Clips the gradient of unfrozen parameters by its own norm, that of frozen ones by the norm of all."""
    learning = jax.tree.map(lambda g, frozen: jnp.where(frozen, 0, g), gradient, frozen)
    alone, together = (clip_norm / jnp.maximum(optax.tree.norm(tree), clip_norm) for tree in (learning, gradient))
    return jax.tree.map(lambda g, frozen: g * jnp.where(frozen, together, alone), gradient, frozen)


def check_freeze(options: OptimizerOptions, params: Any) -> None:
    """Checks `freeze`.

    Args:
      options: the recipe's `optimizer` section.
      params: of the model, or their shapes.

    Raises:
      UserError: it is not a regular expression, or matches no parameter or all of them.
    """
    if not options.freeze:
        return
    try:
        matched = jax.tree.leaves(_matched(options.freeze, params))
    except re.error as error:
        raise UserError(
            f"config.optimizer.freeze={options.freeze!r} is not a regular expression ({error}); correct it."
        ) from error
    if not any(matched) or all(matched):
        paths = _paths(params)
        some = [paths[number * (len(paths) - 1) // 3] for number in range(4)]
        problem = "matches every parameter, so nothing would be trained" if any(matched) else "matches no parameter"
        raise UserError(
            f"config.optimizer.freeze={options.freeze!r} {problem}; parameters are called "
            f"{', '.join(dict.fromkeys(some))} and the like."
        )


def frozen_parameters(options: OptimizerOptions, params: Any) -> int:
    """Counts the numbers in the parameters that `freeze` matches."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(_matched(options.freeze, params)), strict=True)
    return sum(leaf.size for leaf, frozen in pairs if frozen)


def _matched(pattern: str, params: Any) -> Any:
    """Returns which parameters' paths match the pattern (same tree, bools)."""
    matched = [bool(pattern and re.search(pattern, path)) for path in _paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), matched)


def _paths(params: Any) -> list[str]:
    """Returns paths such as `backbone/trunk/convs/0/kernel`, in the order of the leaves."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
