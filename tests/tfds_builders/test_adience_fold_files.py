"""Adience's fold files: age labels, published counts, other spellings, bad rows, repeated rows."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tfds_builders.fold_files import REST, ROWS, Labels, content
from tfds_builders.adience import fold_files
from tfds_builders.adience.fold_files import FILES, Row, parse_age, read_fold_files, row_counts, without_repeats
from tfds_builders.archive import DataError
from tfds_builders.report import Rejected


@pytest.mark.parametrize(
    ("label", "ages"),
    [
        ("(25, 32)", (25, 32)),
        ("(60,100)", (60, 100)),
        ("(25, 23)", (25, 23)),
        ("(8, 23)", (8, 23)),
        ("35", (35, 35)),
        ("2.5", (2.5, 2.5)),
        ("None", None),
        ("", None),
    ],
)
def test_parse_age(label: str, ages: tuple[float, float] | None) -> None:
    assert parse_age(label) == ages


@pytest.mark.parametrize(
    "label", ["adult", "(25 23)", "(1, 2, 3)", "-4", "121", "(60, 200)", "٣٥", "nan", "1e9", "(25, 32"]
)
def test_other_age_labels_are_refused(label: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(label))):
        parse_age(label)


def test_the_real_fold_files_give_the_published_counts(real_data: Path) -> None:
    rejected = Rejected()
    rows = read_fold_files(real_data / "adience", rejected)
    assert len(without_repeats(rows, rejected)) == 19_370
    assert len(rejected) == 0
    counts = row_counts(rows)
    odd = counts.pop("odd_age_labels")
    assert counts == {
        "rows": 19_487,
        "rows_per_fold": [4496, 3745, 3953, 3459, 3834],
        "faces": 19_370,
        "repeated_rows": 117,
        "repeated_faces": 114,
        "subjects": 2284,
        "subjects_in_two_folds": 0,
        "users": 168,
        "users_in_two_folds": 0,
        "levi_hassner_age": [4316, 3101, 3339, 2975, 3693],
        "levi_hassner_gender": [4007, 3624, 3191, 3318, 3463],
        "age_unknown": 753,
        "gender_unknown": 784,
        "gender_u": 1100,
        "gender_u_infants": 1092,
    }
    assert sum(odd.values()) == 19_487 - 17_424 - 753
    assert list(odd.items())[:3] == [("35", 294), ("13", 169), ("22", 149)]
    assert (odd["(27, 32)"], odd["(25, 23)"], odd["(8, 23)"]) == (77, 72, 1)
    assert tuple(counts["levi_hassner_age"]) == fold_files.PUBLISHED_AGE


def quoted_with_commas(rows: list[Labels]) -> bytes:
    return content([(*row[:3], f'"{row[3]}"', row[4]) for row in rows], ",", "\r\n")


def reordered_with_more_columns(rows: list[Labels]) -> bytes:
    lines = [["gender", "note", "Face_ID", "age", "original_image", "user_id"]]
    lines += [[row[4], "x", row[2], row[3], row[1], row[0]] for row in rows]
    return "".join(";".join(line) + "\n" for line in lines).encode()


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: b"\xef\xbb\xbf" + content(rows),
        lambda rows: content(rows, end="\r\n"),
        lambda rows: content(rows, end="\r"),
        lambda rows: content(rows).rstrip(b"\n"),
        lambda rows: content(rows) + b"\n\n",
        lambda rows: content(rows, ","),
        lambda rows: content(rows, ";"),
        quoted_with_commas,
        reordered_with_more_columns,
    ],
    ids=["mark", "windows", "old mac", "no last end", "blank lines", "commas", "semicolons", "quoted", "reordered"],
)
def test_fold_files_in_other_spellings_read_alike(tmp_path: Path, write: Callable[[list[Labels]], bytes]) -> None:
    for name, rows in zip(FILES, ROWS, strict=True):
        (tmp_path / name).write_bytes(write(rows))
    rejected = Rejected()
    rows = read_fold_files(tmp_path, rejected)
    assert len(rejected) == 0
    assert rows[:3] == [
        Row("1@N01", "a.jpg", 1, "(25, 32)", 1, 0),
        Row("1@N01", "a.jpg", 2, "35", 0, 0),
        Row("1@N01", "b.jpg", 1, "(0, 2)", 2, 0),
    ]
    assert rows[3] == rows[4] == Row("2@N01", "c.jpg", 3, "None", -1, 1)
    assert [row.fold for row in rows] == [0, 0, 0, 1, 1, 2, 3, 4]


GOOD = ["9@N01", "z.jpg", "9", "(4, 6)", "m", *REST]
NOT_PLAIN = "rows whose user_id or original_image is not a plain file name"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (GOOD[:7], "rows with too few fields"),
        ([*GOOD, "more"], "rows with too many fields"),
        *[([user, *GOOD[1:]], NOT_PLAIN) for user in ("../x", "..", ".", "C:")],
        *[([GOOD[0], image, *GOOD[2:]], NOT_PLAIN) for image in ("/etc/passwd", "..\\z.jpg", "z\0.jpg")],
        (["", *GOOD[1:]], "rows without a user_id or an original_image"),
        ([*GOOD[:2], "nine", *GOOD[3:]], "rows whose face_id is not a whole number"),
        ([*GOOD[:2], "9" * 30, *GOOD[3:]], "rows whose face_id is not a whole number"),
        ([*GOOD[:3], "old", *GOOD[4:]], "rows whose age label cannot be read"),
        ([*GOOD[:4], "x", *GOOD[5:]], "rows whose gender is not f, m, u or empty"),
        (["x" * 200_000, *GOOD[1:]], "rows that cannot be split into fields"),
    ],
)
def test_a_bad_row_is_left_out_with_its_reason(tmp_path: Path, fields: list[str], reason: str) -> None:
    for name, rows in zip(FILES, ROWS, strict=True):
        (tmp_path / name).write_bytes(content(rows))
    with (tmp_path / FILES[2]).open("a") as file:
        file.write("\t".join(fields) + "\n")
    rejected = Rejected()
    assert len(read_fold_files(tmp_path, rejected)) == 8
    assert rejected.names == {reason: ["fold_2_data.txt, line 3"]}


def test_repetitions_are_counted_and_those_that_disagree_are_left_out() -> None:
    row = Row("1@N01", "a.jpg", 1, "(25, 32)", 1, 0)
    rows = [row, row, Row("1@N01", "a.jpg", 1, "35", 1, 0), Row("1@N01", "a.jpg", 1, "(25, 32)", 1, 3)]
    rejected = Rejected()
    assert without_repeats(rows, rejected) == [row]
    assert dict(rejected.counts) == {
        "rows that repeat a face with other labels": 1,
        "rows that repeat a face of another fold": 1,
    }
    counts = row_counts(rows)
    assert (counts["repeated_rows"], counts["repeated_faces"]) == (3, 1)
    assert (counts["subjects_in_two_folds"], counts["users_in_two_folds"]) == (1, 1)
