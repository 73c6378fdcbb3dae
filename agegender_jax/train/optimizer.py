"""Optimizers and learning-rate schedules, built from a recipe's `optimizer` section."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict


def learning_rate(options: ConfigDict, total_steps: int) -> optax.Schedule:
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


def decayed(params: Any) -> Any:
    """Which parameters weight decay applies to: kernels, not biases or normalisation scales (same tree, bools).

    >>> decayed({"conv": {"kernel": jax.numpy.ones((3, 3, 1, 1)), "bias": jax.numpy.ones(1)}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(options: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """The gradient transformation of a recipe: `adam` (the papers), `adamw` or `sgd` (momentum 0.9, Nesterov).

    Args:
      options: the recipe's `optimizer` section.
      total_steps: optimizer steps in the whole run.
    """
    schedule = learning_rate(options, total_steps)
    rule = {
        "adam": lambda: optax.adam(schedule, b1=options.b1, b2=options.b2),
        "adamw": lambda: optax.adamw(
            schedule, b1=options.b1, b2=options.b2, weight_decay=options.weight_decay, mask=decayed
        ),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(options.weight_decay, mask=decayed),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        ),
    }[options.name]()
    if not options.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), rule)
