"""Runs the command `launch.py`: one training, a sweep, or a dry run."""

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from clu.parameter_overview import get_parameter_overview
from ml_collections import ConfigDict

from agegender_jax import distributed
from agegender_jax import recipe as recipes
from agegender_jax.compilation import cache_compilations
from agegender_jax.data.source import default_data_dir
from agegender_jax.errors import EXIT_USER_ERROR, UserError, quiet_libraries
from agegender_jax.splits import PROTOCOLS
from agegender_jax.text import printable
from agegender_jax.train.description import describe_data, describe_model
from agegender_jax.train.loop import train_recipe
from agegender_jax.train.setup import Setup, build_setup
from agegender_jax.train.sweep import TrialSpec, run_sweep

_MAX_REPEATS = 100


def command(
    recipe: ConfigDict,
    *,
    workdir: Path,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    protocols: Sequence[str] = (),
    folds: str = "",
    repeats: int = 1,
    dry_run: bool = False,
    processes: Mapping[str, Any] | None = None,
    started: float | None = None,
) -> int:
    """Trains a recipe, and prints a `UserError` as a sentence.

    Args:
      recipe: from `configs/`.
      workdir: the run's directory, or that of several.
      manual_dir: where the downloaded dataset lies, or None where it is prepared.
      data_dir: where prepared data lie; None is TFDS's own place.
      protocols: train under each of these, see `expand_trials`.
      folds: train each of these.
      repeats: train each so many times.
      dry_run: whether to describe the run without training.
      processes: arguments of `distributed.initialize` where several processes train together.
      started: `time.monotonic()` at the start of the command.

    Returns:
      The exit code.
    """
    quiet_libraries()
    cache_compilations()
    data_dir = data_dir or default_data_dir()
    try:
        distributed.initialize(**(processes or {}))
        with distributed.all_or_none():
            flags = {"protocols": list(protocols), "folds": folds, "repeats": repeats, "dry_run": dry_run}
            _check_same(recipes.to_json(recipe), flags)
        several = bool(protocols or folds or repeats != 1)
        members = expand_trials(recipe, protocols, folds, repeats) if several else []
        if dry_run:
            # One of each protocol: one that the data do not allow is then refused before anything is trained.
            each = {member.protocol: member.recipe for member in reversed(members)} or {"": recipe}
            for one in each.values():
                setup = build_setup(one, manual_dir=manual_dir, data_dir=data_dir, progress=distributed.is_primary())
                text = _describe_dry_run(setup)  # by every process: weights that one cannot read are refused
                if distributed.is_primary():
                    print(text)
            if several and distributed.is_primary():
                print(f"{len(members)} such runs: {', '.join(member.name for member in members)}")
        elif several:
            result = run_sweep(members, workdir, manual_dir=manual_dir, data_dir=data_dir)
            return EXIT_USER_ERROR if result["refused"] else 0
        else:
            train_recipe(recipe, workdir, manual_dir=manual_dir, data_dir=data_dir, started=started or time.monotonic())
    except UserError as error:
        print(printable(f"{distributed.name()}{error}", keep="\n"), file=sys.stderr, flush=True)
        distributed.exit_together(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
        where = f"resumes from step {max(steps)}" if steps else "resumes from what is saved, or starts again"
        print(f"Interrupted. The same command {where}.", file=sys.stderr)
        return 130
    except Exception:  # a defect, or JAX's when another process is gone
        if not distributed.is_multiprocess():
            raise
        traceback.print_exc()
        distributed.exit_together(1)
        return 1
    return 0


def _describe_dry_run(setup: Setup) -> str:
    params, stats = setup.model.params, setup.model.stats
    lines = [setup.recipe_json, describe_data(setup), get_parameter_overview(params, include_stats=False)]
    if setup.weights:
        lines.append(f"Pretrained weights: {setup.weights.load(params, stats)[2]['description']}")
    devices = f"{jax.device_count()} {jax.default_backend()} device(s)"
    lines += [
        describe_model(setup),
        f"Devices: {devices}; evaluation and checkpoint every {setup.step_counts.every} steps",
    ]
    return "\n".join(lines)


def _check_same(recipe: str, flags: Mapping[str, Any]) -> None:
    """Checks that this process was started with the recipe (JSON) and the flags of the primary one."""
    text, theirs = distributed.from_primary(recipe), distributed.from_primary(dict(flags))
    differences = recipes.differences(recipes.from_json(text), recipes.from_json(recipe))
    differences += [f"--{name}: {theirs[name]} -> {value}" for name, value in flags.items() if theirs[name] != value]
    if differences:
        raise UserError(
            f"This process was started with another command than process 0 ({'; '.join(differences)}); give all "
            "processes the same."
        )


def expand_trials(
    recipe: ConfigDict, protocols: Sequence[str] = (), folds: str = "", repeats: int = 1
) -> list[TrialSpec]:
    """Returns the trials of a sweep, in the order in which they are trained.

    Args:
      recipe: of all of them.
      protocols: of the split; none leaves the recipe's.
      folds: "all", or numbers with commas between; "" leaves the recipe's.
      repeats: number of runs of each, with other seeds (parameters, order, augmentation) on the same split.

    Raises:
      UserError: an unknown protocol or fold, or a number of repeats out of range.

    >>> from agegender_jax import recipe as recipes
    >>> adience = recipes.base()
    >>> adience.split.folds = 5
    >>> [member.name for member in expand_trials(adience, ["paper", "disjoint"], "0,1")]
    ['paper-fold_0', 'disjoint-fold_0', 'paper-fold_1', 'disjoint-fold_1']
    >>> [member.name for member in expand_trials(recipes.base(), repeats=2)]
    ['disjoint', 'disjoint-repeat_1']
    """
    protocols = list(protocols) or [recipe.split.protocol]
    for protocol in protocols:
        if protocol not in PROTOCOLS or protocols.count(protocol) > 1:
            raise UserError(f"--protocols has {protocol!r}; name each of these at most once: {', '.join(PROTOCOLS)}.")
    if not 1 <= repeats <= _MAX_REPEATS:
        raise UserError(f"--repeats={repeats} is out of range; it must be 1 to {_MAX_REPEATS}.")
    numbers = _folds(folds, recipe.split.folds) if folds else [recipe.split.fold]
    members = []
    for repeat in range(repeats):
        for fold in numbers:
            for protocol in protocols:
                # The name does not depend on the other trials, so that a wider sweep resumes it.
                parts = [protocol] + ([f"fold_{fold}"] if recipe.split.folds else [])
                parts += [f"repeat_{repeat}"] if repeat else []
                own = ConfigDict(recipe.to_dict()).lock()
                own.split.update(protocol=protocol, fold=fold)
                own.seed = recipe.seed + repeat
                members.append(TrialSpec("-".join(parts), protocol, fold, repeat, own))
    return members


def _folds(text: str, folds: int) -> list[int]:
    if not folds:
        raise UserError(f"--folds={text} needs a recipe with folds; set --config.split.folds=5, for example.")
    if text == "all":
        return list(range(folds))
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(folds)):
        raise UserError(f"--folds={text} is not valid; it must be `all`, or some of 0 to {folds - 1} such as 0,2.")
    return numbers
