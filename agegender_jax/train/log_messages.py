"""The lines in which a training says what it does."""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from agegender_jax.models.heads import Head
from agegender_jax.sharding import bytes_per_device, total_bytes
from agegender_jax.text import duration
from agegender_jax.train.optimizer import frozen_parameters
from agegender_jax.train.state import TrainState


def model_message(recipe: ConfigDict, params: Any, total: int, examples: int) -> str:
    """The model and its training: parameters, steps and epochs."""
    name = " ".join(filter(None, (recipe.model.backbone, recipe.model.variant)))
    count, options = sum(leaf.size for leaf in jax.tree.leaves(params)), recipe.optimizer
    until = f" until epoch {options.unfreeze_epoch:g}" if options.unfreeze_epoch else ""
    frozen = f", {frozen_parameters(options, params):,} of them frozen{until}" if options.freeze else ""
    steps = f"{total} steps of {recipe.train.batch_size} ({_epochs(recipe, total, examples)})"
    return f"model    {name}, {count:,} parameters{frozen}; {steps}"


def _epochs(recipe: ConfigDict, total: int, examples: int) -> str:
    """How many epochs a run has; where whole dispatches make it many more or fewer than was asked for, why."""
    epochs, asked = total * recipe.train.batch_size / examples, recipe.train.epochs
    text = f"{epochs:.1f} epochs"
    # By more than a dispatch it was cut short on purpose.
    rounded = abs(total - asked * examples / recipe.train.batch_size) <= recipe.train.steps_per_dispatch
    if rounded and abs(epochs - asked) > 0.25 * asked:
        text += (
            f", not {asked:g}: steps come in blocks of {recipe.train.steps_per_dispatch}; "
            "--config.train.steps_per_dispatch=1 comes closest"
        )
    return text


def memory_message(abstract: TrainState) -> str:
    """What of a training state each device holds, in a line.

    Args:
      abstract: from `abstract_state`.
    """
    parts = {"parameters": abstract.params, "optimizer": abstract.opt_state, "average": abstract.average}
    parts = {name: part for name, part in parts.items() if part is not None}
    here, whole = bytes_per_device(list(parts.values())), total_bytes(list(parts.values()))
    text = ", ".join(f"{name} {bytes_per_device(part):,} bytes" for name, part in parts.items())
    text = f"memory   on each of {len(abstract.step.sharding.device_set)} devices: {text}"
    return text + (f"; 1/{whole / here:.2f} of the {whole:,} bytes of one that holds all" if here < whole else "")


def progress_message(
    step: int,
    total: int,
    batch_size: int,
    examples: int,
    pace: float | None,
    dispatch: int,
    validation: Mapping[str, float],
    heads: Mapping[str, Head],
) -> str:
    """Returns where a training is, and the main metric of each head on the validation part."""
    shown = [f"{name}/{head.metrics[0].name}" for name, head in heads.items()]
    text = "  ".join(f"{key} {validation[key]:.3f}" for key in shown)
    line = f"step {step}/{total}  epoch {step * batch_size / examples:.1f}  validation: {text}"
    if pace:
        line += f"  {dispatch * batch_size / pace:.0f} images/s  {duration((total - step) / dispatch * pace)} left"
    return line
