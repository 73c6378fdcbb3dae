"""What `launch.py` runs; `loop.train_recipe` is what it does."""

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
from agegender_jax.train.logging import memory_message
from agegender_jax.train.loop import train_recipe
from agegender_jax.train.setup import build_setup
from agegender_jax.train.sweep import expand_trials, run_sweep


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
    """Trains a recipe as a command does: what the user can mend is printed as a sentence.

    Args:
      recipe: from `configs/`.
      workdir: the run's directory, or that of several.
      manual_dir: where the downloaded dataset lies, or None where it is prepared.
      data_dir: where prepared data lie; None is TFDS's own place.
      protocols: train under each of these, see `study.plan`.
      folds: train each of these.
      repeats: train each so many times.
      dry_run: only say what would be done.
      processes: what `distributed.initialize` is told where several processes train together.
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
            _check_same(recipe, {"protocols": list(protocols), "folds": folds, "repeats": repeats, "dry_run": dry_run})
        several = bool(protocols or folds or repeats != 1)
        members = expand_trials(recipe, protocols, folds, repeats) if several else []
        if dry_run:
            # One of each protocol: what the data cannot honour is then refused before anything is trained.
            each = {member.protocol: member.recipe for member in reversed(members)} or {"": recipe}
            for one in each.values():
                text = describe_dry_run(one, manual_dir=manual_dir, data_dir=data_dir)
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
        print(f"{distributed.name()}{error}", file=sys.stderr, flush=True)
        distributed.exit_together(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
        where = f"goes on from step {max(steps)}" if steps else "goes on where something was saved, or begins again"
        print(f"Interrupted. The same command {where}.", file=sys.stderr)
        return 130
    except Exception:  # a defect, or JAX's when another process is gone
        if not distributed.is_multiprocess():
            raise
        traceback.print_exc()
        distributed.exit_together(1)
        return 1
    return 0


def describe_dry_run(recipe: ConfigDict, *, manual_dir: Path | None, data_dir: Path, progress: bool = True) -> str:
    """Describes what `train_recipe` would do; reads the data and makes the split, and leaves no run behind.

    Raises:
      UserError: as `train_recipe`.
    """
    shown = progress and distributed.is_primary()
    setup = build_setup(recipe, manual_dir=manual_dir, data_dir=data_dir, progress=shown)
    params, stats = setup.model.params, setup.model.stats
    lines = [setup.recipe, setup.description, get_parameter_overview(params, include_stats=False)]
    if setup.weights:
        lines.append(f"weights  {setup.weights.load(params, stats)[2]['description']}")
    lines += [setup.model_description, memory_message(setup.state)]
    devices = f"{jax.device_count()} {jax.default_backend()} device(s)"
    lines.append(f"on {devices}, evaluated and saved every {setup.schedule.every} steps")
    return "\n".join(lines)


def _check_same(recipe: ConfigDict, flags: Mapping[str, Any]) -> None:
    """Checks that this process was started with the recipe and the flags of the primary one."""
    text, theirs = distributed.from_primary(recipes.to_json(recipe)), distributed.from_primary(dict(flags))
    found = recipes.differences(recipes.from_json(text), recipe)
    found += [f"--{name}: {theirs[name]} -> {value}" for name, value in flags.items() if theirs[name] != value]
    if found:
        raise UserError(
            f"It was started with another command than process 0 ({'; '.join(found)}); give all processes the same."
        )
