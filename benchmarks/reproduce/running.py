"""Trains what a target needs, one run of `launch.py` after another; what is complete is left as it is."""

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.run import Run
from agegender_jax.text import Table, plain
from agegender_jax.train.command import expand_trials
from agegender_jax.train.setup import check_recipe
from agegender_jax.train.sweep import TrialSpec
from benchmarks import launch_runs
from benchmarks.bench_rows import say
from benchmarks.pipe_rpc import ROOT
from benchmarks.reproduce.paper_table import System, Target

START_SECONDS = 30.0
"""Of a run, roughly, beside its training: imports, decoded data, compiling, evaluation."""

_NO_MATTER = ("evaluate.batch_size:", "evaluate.every_epochs:", "evaluate.report:", "train.steps_per_dispatch:")
"""What changes nothing that is learnt or measured."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """A system with its runs.

    Attributes:
      system: which.
      config: FILE.py:ARGUMENT, in `configs/`.
      settings: values that differ from it.
      members: the runs, see `command.expand_trials`.
      changes: where its recipe differs from the paper's training, see `recipe.differences`; empty where there is none
        to compare with.
    """

    system: System
    config: str
    settings: Mapping[str, Any]
    members: Sequence[TrialSpec]
    changes: Sequence[str]

    @property
    def recipe(self) -> ConfigDict:
        """Returns the recipe of the first run."""
        return self.members[0].recipe

    def seconds(self) -> float:
        """Estimates the seconds of one run."""
        rate, pixels = self.system.rate
        size, synthetic = self.recipe.dataset.image_size, self.recipe.dataset.synthetic
        images = self.recipe.train.epochs * (synthetic or self.system.examples)
        return START_SECONDS + images / rate * (size / pixels) ** 2


def plan_all(target: Target, arguments: argparse.Namespace) -> list[Planned]:
    """Returns the runs of a target.

    Args:
      target: which.
      arguments: `cpu`, `size`, `epochs`, `repeats`, `nets`, `protocol`, `smoke` of the command.

    Raises:
      UserError: there is no such net, or a value that no recipe can have.
    """
    nets = tuple(arguments.nets or (target.smoke_nets if arguments.smoke else ()))
    planned = []
    for system in target.chosen(nets, arguments.cpu):
        protocols = [protocol for protocol in arguments.protocols or target.protocols if protocol in system.protocols]
        if protocols:
            planned.append(_plan(target, system, protocols, arguments))
    if not planned:
        raise UserError(f"{', '.join(nets)}: not trained under this protocol, see the notes of {target.name}.")
    return planned


def _plan(target: Target, system: System, protocols: Sequence[str], arguments: argparse.Namespace) -> Planned:
    chosen = system.recipe(arguments.cpu)
    assert chosen is not None  # `chosen` has seen to it
    settings = dict(chosen.settings)
    if arguments.smoke:
        settings |= target.smoke
    if arguments.size:
        settings["dataset.image_size"] = arguments.size
    if arguments.epochs:
        settings["train.epochs"] = arguments.epochs
    recipe = load_config(chosen.config, {**launch_runs.SETTINGS, **settings})
    recipes.check(recipe)
    changes = []
    if system.full:
        every = recipes.differences(load_config(system.full.config, system.full.settings), recipe)
        changes = [change for change in every if not change.startswith(_NO_MATTER)]
    folds = ("0" if arguments.smoke else "all") if system.folds else ""
    members = expand_trials(recipe, protocols, folds, arguments.repeats)
    return Planned(system, chosen.config, settings, members, changes)


def load_config(name: str, settings: Mapping[str, Any]) -> ConfigDict:
    """Returns the recipe of FILE.py or FILE.py:ARGUMENT in `configs/`, with other values of some keys."""
    file, _, argument = name.partition(":")
    path = ROOT / "configs" / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe: ConfigDict = module.get_config(*([argument] if argument else []))
    recipe.update_from_flattened_dict(dict(settings))
    return recipe


def in_order(planned: Sequence[Planned]) -> list[tuple[Planned, TrialSpec]]:
    """Returns all runs: the first repeat of every system before the second of any."""
    runs = [(one, member) for one in planned for member in one.members]
    return sorted(runs, key=lambda pair: pair[1].repeat)


def run_sweep(planned: Sequence[Planned], out: Path, manual_dir: Path | None, data_dir: Path) -> None:
    """Trains what is not complete yet.

    Args:
      planned: from `plan_all`.
      out: a folder a system is made in it, laid out as `launch.py --repeats` does.
      manual_dir: where the downloaded data lie, or None.
      data_dir: where prepared data lie.

    Raises:
      UserError: a run cannot be trained, or the folder holds something else.
    """
    every = [(one, member, out / one.system.name / member.name) for one, member in in_order(planned)]
    for _, member, workdir in every:
        check(workdir, member.recipe)
    clock = Clock([0.0 if complete(workdir) else one.seconds() for one, _, workdir in every])
    for number, (one, member, workdir) in enumerate(every):
        name = f"run {number + 1} of {len(every)}: {one.system.name}, {member.name}"
        if complete(workdir):
            say(f"{name}: complete")
        else:
            say(f"{name}; {clock.left(number)}")
            clock.took(number, _train(one, member, workdir, manual_dir, data_dir).seconds)


def described(planned: Sequence[Planned], out: Path) -> str:
    """Describes what would be trained, and about how long it takes, as text."""
    titles = ["system", "recipe", "input", "epochs", "runs", "complete", "about, each"]
    cells, total = [], 0.0
    for one in planned:
        done = sum(complete(out / one.system.name / member.name) for member in one.members)
        size, epochs = one.recipe.dataset.image_size, one.recipe.train.epochs
        cells.append(
            [
                one.system.name,
                f"configs/{one.config}",
                f"{size}x{size}",
                f"{epochs:g}",
                str(len(one.members)),
                str(done),
                about(one.seconds()),
            ]
        )
        total += one.seconds() * (len(one.members) - done)
    return (
        f"{plain(Table(titles, cells))}\n"
        f"In {out}: about {about(total)} on two cores of an AMD EPYC and no accelerator, from speeds measured there; "
        "while it trains, the estimate is corrected by the runs that have ended."
    )


def complete(workdir: Path) -> bool:
    """Tells whether a run has been trained to its end."""
    return (workdir / "summary.json").exists()


def check(workdir: Path, recipe: ConfigDict) -> None:
    """Refuses, before anything is trained, a run of another recipe.

    Raises:
      UserError: so it is.
    """
    if (workdir / "split.json").exists():
        with _our_flag():
            Run.start(workdir, check_recipe(recipe, workdir))


def _train(
    one: Planned, member: TrialSpec, workdir: Path, manual_dir: Path | None, data_dir: Path
) -> launch_runs.Finished:
    settings = {
        **one.settings,
        "seed": member.recipe.seed,
        "split.protocol": member.protocol,
        "split.fold": member.fold,
    }
    arguments = argparse.Namespace(
        config=f"configs/{one.config}",
        set=[f"{key}={value}" for key, value in settings.items()],
        manual_dir=manual_dir,
        data_dir=data_dir,
    )
    with _our_flag():
        return launch_runs.run(launch_runs.command(arguments, workdir), workdir)


@contextmanager
def _our_flag() -> Iterator[None]:
    """Names `--out` in messages of `launch.py` about its `--workdir`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--workdir", "--out")) from error


class Clock:
    """How long the rest will take: the estimates, corrected by how long the runs of this call took.

    Args:
      estimates: seconds of every run; none of one that is complete.

    >>> clock = Clock([60.0, 60.0, 600.0])
    >>> clock.left(0)
    'about 12 min left'
    >>> clock.took(0, 120.0)
    >>> clock.left(1)
    'about 22 min left'
    """

    def __init__(self, estimates: Sequence[float]) -> None:
        self._estimates = list(estimates)
        self._measured = self._estimated = 0.0

    def took(self, number: int, seconds: float) -> None:
        """Notes how long a run took."""
        self._measured += seconds
        self._estimated += self._estimates[number]

    def left(self, number: int) -> str:
        """Describes how long a run and those behind it take."""
        factor = self._measured / self._estimated if self._estimated else 1.0
        return f"about {about(factor * sum(self._estimates[number:]))} left"


def about(seconds: float) -> str:
    """A rough time.

    >>> about(20), about(170), about(9000)
    ('1 min', '3 min', '2.5 h')
    """
    minutes = seconds / 60
    return f"{max(1, round(minutes))} min" if minutes < 100 else f"{minutes / 60:.1f} h"
