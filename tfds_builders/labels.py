"""Labels that all datasets share."""

import hashlib

GENDERS = ("male", "female")  # names of the gender classes 0 and 1, in UTKFace's order
RACES = (
    "White",
    "Black",
    "Asian",
    "Indian",
    "Others",
)  # classes 0 to 4 of UTKFace; for metrics by group, never a target


def identity(name: str) -> int:
    """Returns a number for a subject or a group: the first 63 bits of the name's SHA-256; -1 for "", which is unknown.

    >>> identity(""), identity("03")
    (-1, 416439123284886048)
    """
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) >> 1 if name else -1
