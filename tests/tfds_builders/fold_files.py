"""Fold files of Adience with a few rows of every kind."""

from tfds_builders.adience import fold_files

REST = ["0", "414", "1086", "1383", "-115", "30", "17"]

Labels = tuple[str, str, str, str, str]  # user_id, original_image, face_id, age, gender


ROWS: list[list[Labels]] = [
    [("1@N01", "a.jpg", "1", "(25, 32)", "f"), ("1@N01", "a.jpg", "2", "35", "m"),
     ("1@N01", "b.jpg", "1", "(0, 2)", "u")],
    [("2@N01", "c.jpg", "3", "None", ""), ("2@N01", "c.jpg", "3", "None", "")],
    [("3@N01", "d.jpg", "4", "(25, 23)", "f")],
    [("4@N01", "e.jpg", "5", "(60, 100)", "m")],
    [("5@N01", "f.jpg", "6", "(8, 23)", "m")],
]  # fmt: skip


def content(rows: list[Labels], separator: str = "\t", end: str = "\n") -> bytes:
    lines = [[*fold_files.COLUMNS], *([*row, *REST] for row in rows)]
    return "".join(separator.join(line) + end for line in lines).encode()
