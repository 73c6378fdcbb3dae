"""Labels that all datasets share."""

import hashlib

import numpy as np

GENDERS = ("male", "female")  # names of the gender classes 0 and 1, in UTKFace's order
RACES = ("White", "Black", "Asian", "Indian", "Others")  # classes 0 to 4 of UTKFace, for metrics by group alone
MAX_AGE = 120  # largest accepted age, in years; UTKFace's reach 116, Adience's 100

COLUMNS: dict[str, tuple[type, str]] = {
    "key": (np.str_, "name of the example, unique"),
    "age": (np.float32, "perceived age as annotated, in years; NaN unknown or annotated as a range"),
    "age_low": (np.float32, "first number of the annotated range, NaN unknown"),
    "age_high": (np.float32, "second number of the annotated range, which may be below the first"),
    "gender": (np.int32, "perceived gender as annotated: 0 male, 1 female, 2 undefined, -1 unknown"),
    "race": (np.int32, "as annotated: 0 White, 1 Black, 2 Asian, 3 Indian, 4 Others, -1 unknown"),
    "subject": (np.int64, "who is shown or heard, -1 unknown"),
    "group": (np.int64, "other examples that must stay together: of one photographer, of one recording; -1 unknown"),
    "fold": (np.int32, "published fold, from 0"),
    "class_name": (np.str_, "class such as female_31 or male; empty where unknown"),
    "sha256": (np.str_, "SHA-256 of the file, in hexadecimal"),
}
"""Columns that datasets share: dtype and description."""


def identity(name: str) -> int:
    """Returns a number for a subject or a group: the first 63 bits of the name's SHA-256; -1 for "", which is unknown.

    >>> identity(""), identity("03")
    (-1, 416439123284886048)
    """
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) >> 1 if name else -1
