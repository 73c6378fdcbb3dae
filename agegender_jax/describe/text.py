"""The description of a dataset as text for a terminal."""

import textwrap
from collections.abc import Sequence

from agegender_jax.describe.sections import Section, Table

_WIDTH = 100
_CELL = 66
_NUMBERS = frozenset("0123456789,.%/+-() ")


def render(title: str, sections: Sequence[Section]) -> str:
    """The sections below each other.

    Args:
      title: stands above them.
      sections: of the description.
    """
    blocks = [plain(title)]
    for section in sections:
        lines, before = [plain(section.title)], True
        for part in section.parts:
            tabular = isinstance(part, Table)
            if not before and tabular:
                lines.append("")
            lines.append(textwrap.indent(table(part) if isinstance(part, Table) else sentence(part), "  "))
            if tabular:
                lines.append("")
            before = tabular
        blocks.append("\n".join(lines).rstrip())
    return "\n\n".join(blocks)


def sentence(text: str) -> str:
    """Wraps a sentence to the width of the description."""
    return "\n".join(textwrap.wrap(plain(text), _WIDTH, break_long_words=False, break_on_hyphens=False))


def table(part: Table) -> str:
    """A table, columns of numbers flush right, long cells wrapped.

    >>> print(table(Table(("gender", "files"), [("male", "9"), ("female", "10")])))
    gender  files
    male        9
    female     10
    """
    cells = [[textwrap.wrap(plain(cell), _CELL) or [""] for cell in row] for row in (part.header, *part.rows)]
    places = range(len(part.header))
    widths = [max(len(line) for row in cells for line in row[i]) for i in places]
    right = [i > 0 and all(is_number(row[i]) for row in part.rows) for i in places]
    lines = [sentence(part.caption)] if part.caption else []
    for row in cells:
        for height in range(max(map(len, row))):
            texts = [cell[height] if height < len(cell) else "" for cell in row]
            flush = [text.rjust(widths[i]) if right[i] else text.ljust(widths[i]) for i, text in enumerate(texts)]
            lines.append("  ".join(flush).rstrip())
    return "\n".join(lines)


def is_number(cell: str) -> bool:
    """Whether a cell is a figure, perhaps with another in brackets, or empty.

    >>> is_number("1,234 (56)"), is_number("52.1 %"), is_number("male_31")
    (True, True, False)
    """
    return set(cell) <= _NUMBERS


def plain(text: str) -> str:
    """The text without characters that would steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
