"""What a preparation could not use: counted, named with a reason, and an error only where it is too much."""

import collections
import dataclasses

from tfds_builders.archive import DataError

_NAMED = 5  # names that a report lists for each reason


@dataclasses.dataclass
class Rejected:
    """Files or rows that were left out.

    >>> rejected = Rejected()
    >>> rejected.add("a.wav", "empty")
    >>> rejected.add("b.wav", "empty")
    >>> print(*rejected.lines(), sep=chr(10))
    2 empty
      'a.wav'
      'b.wav'

    Attributes:
      counts: how many, by reason.
      names: the first few of them, by reason.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Counts one, under a reason that several may share."""
        self.counts[reason] += 1
        named = self.names.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(name)

    def __len__(self) -> int:
        return self.counts.total()

    def check(self, source: object, looked_at: int, limit: float) -> None:
        """Raises where too large a share is left out.

        Args:
          source: where they lie, for the message.
          looked_at: how many there were, the rejected included.
          limit: largest share that is borne, 0 to 1.

        Raises:
          DataError: names the share, the commonest reason and an example.
        """
        if len(self) <= limit * looked_at:
            return
        reason, count = self.counts.most_common(1)[0]
        raise DataError(
            f"{source}: {len(self)} of {looked_at} files cannot be used, and a share of at most {limit:g} is borne; "
            f"{count} are {reason}, for example {self.names[reason][0]!r}; repair or remove them, or raise max_bad."
        )

    def lines(self) -> list[str]:
        """The report's lines: each reason with its count, and the first names under it."""
        lines = []
        for reason, count in self.counts.most_common():
            named = self.names[reason]
            lines += [f"{count} {reason}", *(f"  {name!r}" for name in named)]
            lines += [f"  and {count - len(named)} more"] if count > len(named) else []
        return lines
