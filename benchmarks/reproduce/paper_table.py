"""What a table of a paper is made of: systems, the lines that they give, columns, claims."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from agegender_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A file of `configs/` with its argument, and values that differ from it."""

    config: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: a metric.

    Attributes:
      title: above it.
      digits: behind the point.
    """

    title: str
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table; a run may give several.

    Attributes:
      key: by which claims name it.
      title: before it.
      metrics: by column, the name of the metric in the run's summary.
      published: by column, or `parameters` or `time`: what the paper reports, a number or a text.
      where: the place in the paper; "" is the target's.
    """

    key: str
    title: str
    metrics: Mapping[str, str]
    published: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    where: str = ""


@dataclasses.dataclass(frozen=True)
class System:
    """What is trained.

    Attributes:
      name: of its folder.
      net: what `--nets` calls it; several systems may be of one net.
      lines: which it gives.
      full: the paper's training, or None where only the size for two cores is of use.
      cpu: the size for two cores, or None where there is none.
      examples: to learn from, roughly, in one run.
      rate: images/s of training on two cores, roughly, and the size in pixels that they have there.
      data: what is learnt from or answered, where the systems of a target differ in that.
      protocols: those under which it can be trained.
      folds: whether each run is one of five folds.
      note: to be read with its metrics, a sentence.
    """

    name: str
    net: str
    lines: tuple[Line, ...]
    full: Recipe | None
    cpu: Recipe | None
    examples: int
    rate: tuple[float, int]
    data: str = ""
    protocols: tuple[str, ...] = ("paper", "disjoint")
    folds: bool = False
    note: str = ""

    def recipe(self, cpu: bool) -> Recipe | None:
        """Returns the recipe of a size, or None where there is none."""
        return self.cpu if cpu else self.full


@dataclasses.dataclass(frozen=True)
class Claim:
    """A difference that a paper reports or leaves open: line `a` less line `b` in a column."""

    a: str
    b: str
    column: str


@dataclasses.dataclass(frozen=True)
class Target:
    """A table of a paper.

    Attributes:
      name: of the command.
      title: of the table.
      source: the paper, and where in it.
      systems: in the order of the table.
      columns: of metrics; the first is the one by which protocols are compared.
      claims: the differences to judge.
      protocols: those that are trained unless others are chosen.
      smoke: settings that make any run tiny, on synthetic data.
      smoke_nets: nets of which `--smoke` trains the first recipes.
      data_title: above `System.data`; "" where it is empty.
      cannot: what cannot be reproduced, and why: a sentence each.
    """

    name: str
    title: str
    source: str
    systems: tuple[System, ...]
    columns: Mapping[str, Column]
    claims: tuple[Claim, ...]
    protocols: tuple[str, ...]
    smoke: Mapping[str, Any]
    smoke_nets: tuple[str, ...]
    data_title: str = ""
    cannot: tuple[str, ...] = ()

    def line(self, key: str) -> Line:
        """Returns the line of a key."""
        return next(line for system in self.systems for line in system.lines if line.key == key)

    def chosen(self, nets: tuple[str, ...], cpu: bool) -> list[System]:
        """Returns the systems of some nets, all where none is named, that have a recipe of the size.

        Raises:
          UserError: there is no such net, or nothing is left.
        """
        known = dict.fromkeys(system.net for system in self.systems)
        for net in nets:
            if net not in known:
                raise UserError(f"{self.name} has no net {net!r}; choose from: {', '.join(known)}.")
        systems = [
            system for system in self.systems if (not nets or system.net in nets) and system.recipe(cpu) is not None
        ]
        if not systems:
            other = "without --cpu" if cpu else "with --cpu"
            raise UserError(f"{', '.join(nets)}: there is no recipe of this size; run it {other}.")
        return systems
