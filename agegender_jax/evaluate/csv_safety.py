"""Texts in tables that people open: whatever a file may be named, it can be written and is no formula."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of one."""


def text(value: str, encoding: str = "utf-8") -> str:
    r"""A text that can be written: bytes of a file's name that are no characters become their numbers.

    >>> text("\udce9.png")
    '\\udce9.png'
    """
    return value.encode(encoding, "backslashreplace").decode(encoding)


def cell(value: str, encoding: str = "utf-8") -> str:
    """A text for a table: it can be written, and no spreadsheet takes it for a formula.

    >>> cell("=1+1.png")
    "'=1+1.png"
    """
    return text(f"'{value}" if value.startswith(FORMULA) else value, encoding)


def visible(value: str) -> str:
    r"""A text for a terminal, which would obey control characters.

    >>> visible("a\x1b[2J b")
    'a\\x1b[2J b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
