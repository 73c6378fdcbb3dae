"""Text for terminals and tables: a name out of a file can neither steer a terminal nor become a formula.

A `Table` is data: `plain` writes it for a terminal, the templates of the HTML pages write it as HTML.
"""

import dataclasses
import io
import re
from collections.abc import Collection, Mapping, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters at the start of a cell that make a spreadsheet take it for a formula."""

_NUMBER = re.compile(r"[-+−<±]?\s?\d[^:]*$|[-–]$|nan$")
_MAX_CELL = 66  # characters of a cell in a terminal; longer ones are wrapped


def printable(text: str, keep: str = "") -> str:
    r"""Escapes control characters but those to `keep`, and such as change the order of the letters around them.

    >>> printable("a\x1b[2J b")
    'a\\x1b[2J b'
    """
    if text.isprintable():  # at once: data URIs have megabytes
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str, encoding: str = "utf-8") -> str:
    r"""Escapes what an encoding cannot hold, such as bytes of a file's name that are no characters.

    >>> encodable("\udce9.png")
    '\\udce9.png'
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def csv_cell(text: str, encoding: str = "utf-8") -> str:
    """Returns the text as a cell that can be written and that no spreadsheet takes for a formula.

    >>> csv_cell("=1+1.png")
    "'=1+1.png"
    """
    return encodable(f"'{text}" if text.startswith(FORMULA) else text, encoding)


def duration(seconds: float) -> str:
    """Returns a time in hours, minutes and seconds.

    >>> duration(42), duration(185), duration(7260)
    ('42 s', '3 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)  # first, or 119.7 would be "1 min 60 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: titles of columns (or none), rows as long as these, and a caption above it.

    A row of a single text is a heading within the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def numbers(self) -> Collection[int]:
        """Indices of the columns after the first whose cells all begin with a number; they are aligned right."""
        whole = [row for row in self.rows if len(row) > 1]
        cells = {i: [row[i] for row in whole if row[i]] for i in range(1, len(whole[0]) if whole else 0)}
        return {i for i, column in cells.items() if column and all(_NUMBER.match(cell) for cell in column)}


def plain(table: Table) -> str:
    """Returns a table as plain text of the same width everywhere; long cells are wrapped, no line is cut.

    >>> print(plain(Table(("gender", "files"), [("male", "9"), ("female", "10")])))
    gender  files
    male        9
    female     10
    """
    import rich.console
    import rich.table
    import rich.text

    width = max(map(len, (table.header, *table.rows)), default=0)
    grid = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=bool(table.header))
    for i in range(width):
        title = rich.text.Text(printable(table.header[i]) if table.header else "")
        side = "right" if i in table.numbers else "left"
        grid.add_column(title, justify=side, max_width=_MAX_CELL, overflow="fold")  # type: ignore[arg-type]
    for row in table.rows:
        # As Text: a name such as "[red]" is no markup.
        grid.add_row(*(rich.text.Text(printable(cell)) for cell in row))
    file = io.StringIO()
    # A width of its own: neither the terminal nor the environment decides where a line ends.
    rich.console.Console(file=file, width=width * (_MAX_CELL + 2) + 1, color_system=None, force_terminal=False).print(
        grid
    )
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([printable(table.caption), *lines] if table.caption else lines)


def by_row(columns: Mapping[str, Mapping[str, str]], keys: Sequence[str] | None = None) -> Table:
    """Returns columns (texts by title and key) as a table with one row a key; `keys` chooses and orders the rows."""
    keys = keys or list(dict.fromkeys(key for column in columns.values() for key in column))
    return Table(("", *columns), [(key, *(column.get(key, "") for column in columns.values())) for key in keys])
