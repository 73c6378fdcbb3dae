"""What ages, age groups and genders mean.

Every label is *perceived* age or gender as a data set's annotators wrote it down, not a fact about the person shown.
Unknown labels are carried along and masked, never invented: an unknown age is NaN, an unknown class is `UNKNOWN`.

Age groups are named schemes, because accuracies under two schemes cannot be compared. Print the scheme's name
beside every metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agegender_jax.errors import UserError
from tfds_builders.labels import GENDERS as GENDERS
from tfds_builders.labels import RACES as RACES

DISCLAIMER = "synthetic: tests the pipeline and says nothing about people"
"""Stands beside every metric that was measured on synthetic faces or voices."""

UNKNOWN = -1
"""The class index of a label that is not known."""

UNDEFINED_GENDER = "undefined"
"""Name of the gender class 2, which Adience alone has: "u", which nearly always means "infant, not annotated"."""


@dataclass(frozen=True)
class AgeGroups:
    """A named way to cut ages into groups.

    A group holds the ages `lower <= age < upper`. Where `upper_closed` is set it holds `lower < age <= upper`
    instead, so that an age on an edge falls to the younger group (age 0 falls to the first).

    Attributes:
      name: of the scheme in recipes and reports.
      names: of the K groups, youngest first.
      lower: K lower bounds in years, ascending.
      upper: K upper bounds in years. Less than the next lower bound where the scheme has a gap; the last may be inf.
      description: one sentence on what the scheme does, for reports.
      upper_closed: which of its two bounds a group holds, see above.
      verbatim: whether only an annotation that is a group's own range belongs to it, and no age or other range.
    """

    name: str
    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    description: str
    upper_closed: bool = False
    verbatim: bool = False

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.lower) == len(self.upper) > 0:
            raise ValueError(f"Age groups {self.name!r}: names, lower and upper must be equally many, and at least one")
        edges = [edge for bounds in zip(self.lower, self.upper, strict=True) for edge in bounds]
        if edges != sorted(edges):
            raise ValueError(f"Age groups {self.name!r}: bounds must ascend and groups must not overlap, got {edges}")

    def __len__(self) -> int:
        return len(self.names)

    def assign(self, ages: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the group of each age in years, int32 of the same shape.

        It is `UNKNOWN` where the age is NaN, infinite, below the first group, above the last, or in a gap between two.

        >>> AGE_GROUPS["nearest"].assign([0, 3, 3.5, 35, 36, float("nan")]).tolist()
        [0, 0, 1, 4, 5, -1]
        >>> AGE_GROUPS["literal"].assign([2, 3, 4]).tolist()
        [0, -1, 1]
        """
        ages = np.asarray(ages, np.float64)
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        group = np.searchsorted(lower, ages, side="left" if self.upper_closed else "right") - 1
        group = np.maximum(group, 0)  # the lowest bound itself, where groups are closed above
        below_upper = ages <= upper[group] if self.upper_closed else ages < upper[group]
        inside = np.isfinite(ages) & (ages >= lower[0]) & below_upper
        return np.where(inside, group, UNKNOWN).astype(np.int32)

    def assign_range(self, low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Returns the group of each annotated range of ages.

        An exact age (`low == high`) goes where `assign` puts it. A range goes to the group of its middle; in a scheme
        with gaps, only where both of its ends are in that group. `low` and `high` are the first and the last year, of
        any shape, NaN where unknown; Adience has ranges that are written the wrong way round. Returns int32 of the same
        shape, `UNKNOWN` where there is no group.

        >>> AGE_GROUPS["nearest"].assign_range([25, 35, 25, 8], [32, 35, 23, 23]).tolist()
        [4, 4, 4, 3]
        >>> AGE_GROUPS["literal"].assign_range([25, 27, 35, 8], [32, 32, 35, 23]).tolist()
        [4, 4, -1, -1]
        >>> AGE_GROUPS["levi_hassner"].assign_range([25, 27, 60], [32, 32, 100]).tolist()
        [4, -1, 7]
        """
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        middle = self.assign((low + high) / 2)
        if np.array_equal(self.lower[1:], self.upper[:-1]):  # no gaps
            return middle
        inside = (self.assign(low) == middle) & (self.assign(high) == middle)
        if self.verbatim:
            last = np.where(np.isinf(self.upper), _OLDEST, np.asarray(self.upper) - 1)
            inside &= (low == np.asarray(self.lower)[middle]) & (high == last[middle])
        return np.where(inside, middle, UNKNOWN).astype(np.int32)


def _whole_years(name: str, lower: Sequence[float], upper: Sequence[float], description: str) -> AgeGroups:
    """Returns a scheme of completed years: 2.9 years count as 2, so "0-2" ends just below the third birthday."""
    bounds = zip(lower, upper, strict=True)
    names = tuple(f"{low:g}+" if np.isinf(high) else f"{low:g}-{high - 1:g}" for low, high in bounds)
    return AgeGroups(name, names, tuple(lower), tuple(upper), description)


_INF = float("inf")
_OLDEST = 100  # how Adience ends its last range, (60, 100)
_LOWER, _UPPER = (0, 4, 8, 15, 25, 38, 48, 60), (3, 7, 13, 21, 33, 44, 54, _INF)  # of Adience's groups
_UPPER_EDGES = (3, 7, 14, 21, 33, 44, 54)  # 14, not 13: some sources print the third group as 8-13
_NEAREST_EDGES = (3, 7, 13.5, 22.5, 35, 45.5, 56.5)  # half way between one Adience group and the next

_LITERAL = _whole_years(
    "literal",
    _LOWER,
    _UPPER,
    "Adience's eight groups as published (Levi and Hassner 2015); ages in a gap have no group",
)
_SCHEMES = (
    AgeGroups(
        "nearest",
        _LITERAL.names,
        (0, *_NEAREST_EDGES),
        (*_NEAREST_EDGES, _INF),
        "the nearest of Adience's eight groups (edges 3, 7, 13.5, 22.5, 35, 45.5, 56.5; a tie goes to the younger)",
        upper_closed=True,
    ),
    _whole_years("lower", _LOWER, (*_LOWER[1:], _INF), "Adience's eight groups, each gap given to the group below it"),
    _whole_years(
        "upper",
        (0, *_UPPER_EDGES),
        (*_UPPER_EDGES, _INF),
        "Adience's eight groups, each gap given to the group above it, save that 13 goes to 8-12",
    ),
    _LITERAL,
    replace(
        _LITERAL,
        name="levi_hassner",
        description="Adience's eight ranges as annotated, every other annotation left out (Levi and Hassner 2015)",
        verbatim=True,
    ),
    _whole_years(
        "five_year", range(0, 120, 5), range(5, 125, 5), "24 groups of five years, floor(age / 5), from 0-4 to 115-119"
    ),
)

AGE_GROUPS: dict[str, AgeGroups] = {scheme.name: scheme for scheme in _SCHEMES}
"""The named schemes. To add one, add it above."""


def age_groups(name: str) -> AgeGroups:
    """Returns the scheme called `name`; raises UserError where there is none."""
    if name not in AGE_GROUPS:
        raise UserError(f"There are no age groups called {name!r}; choose one of {', '.join(AGE_GROUPS)}.")
    return AGE_GROUPS[name]


def class_weights(labels: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float32]:
    """Returns loss weights that make every class count the same in total.

    The weight of class i is E(m) / m_i, with m_i the number of labels of class i and E(m) the mean of m over the
    classes that occur (Uraimov and Yoo 2022; scikit-learn's `balanced`). So Σ m_i w_i = Σ m_i: the mean weight of an
    example is 1, and the learning rate needs no change if the batch loss is divided by the number of examples. A
    class that does not occur has weight 0 and leaves both the mean and that sum alone.

    Takes the labels of the *training* split, int [n], of which `UNKNOWN` is left out. Returns float32 [num_classes].

    Raises:
      UserError: not one label is known, or a label is not below `num_classes`.

    >>> class_weights([0, 0, 0, 1, -1], num_classes=4).tolist()
    [0.6666666865348816, 2.0, 0.0, 0.0]
    """
    labels = np.asarray(labels)
    known = labels[labels != UNKNOWN].astype(np.int64)
    if known.size == 0:
        raise UserError("Class weights need at least one known label in the training split, and there is none.")
    if known.min() < 0 or known.max() >= num_classes:
        raise UserError(
            f"Class weights: labels run from {known.min()} to {known.max()}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1}); check that the labels and the age groups belong together."
        )
    counts = np.bincount(known, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = known.size / (present.sum() * counts[present])
    return weights.astype(np.float32)
