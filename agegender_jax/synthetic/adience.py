"""Synthetic faces in Adience's own files: five fold files, and one folder of images for each Flickr user.

The drawings are those of `agegender_jax.synthetic.faces`: they test the pipeline and show nothing about people. Labels,
users and subjects are those of real fold files where these are given, else made up with about the same distribution.
"""

import collections
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.progress import progress_bar
from agegender_jax.synthetic.faces import generate_face
from tfds_builders.adience.fold_files import COLUMNS, FILES, Row, parse_age, read_fold_files
from tfds_builders.archive import DataError
from tfds_builders.report import Rejected

# Rows of the real fold files for each age label annotated f, m, u and not at all.
_LABELS = {
    "(0, 2)": (682, 745, 1092, 0), "(4, 6)": (1234, 928, 1, 0), "(8, 12)": (1194, 931, 2, 5),
    "(15, 20)": (919, 734, 2, 0), "(25, 32)": (2589, 2308, 2, 51), "(38, 43)": (1056, 1244, 0, 0),
    "(48, 53)": (433, 392, 0, 5), "(60, 100)": (427, 442, 1, 5), "None": (40, 0, 0, 713), "35": (189, 105, 0, 0),
    "13": (166, 3, 0, 0), "22": (140, 9, 0, 0), "34": (65, 40, 0, 0), "23": (61, 35, 0, 0), "45": (22, 66, 0, 0),
    "55": (14, 63, 0, 0), "(27, 32)": (77, 0, 0, 0), "(25, 23)": (72, 0, 0, 0), "36": (5, 52, 0, 0),
    "(38, 42)": (0, 50, 0, 0), "57": (5, 19, 0, 0), "3": (2, 16, 0, 0), "29": (12, 0, 0, 0), "(8, 23)": (0, 1, 0, 0),
}  # fmt: skip
_GENDERS = (1, 0, 2, -1)  # in the order of the counts above
_LETTERS = {0: "m", 1: "f", 2: "u", -1: ""}
_SUBJECT_ROWS, _USER_ROWS = 19487 / 2284, 19487 / 168  # rows of a subject, and of a user, on average
_SAME_PHOTO = 0.3  # share of faces in a photograph that shows another subject too
_REPEATED = 117 / 19487
_MADE_UP_ROWS, _MIN_ROWS = 1000, 20


def write_adience(
    folder: Path,
    rows: int = 0,
    *,
    seed: int = 0,
    size: int = 144,
    fold_files: Path | None = None,
    progress: bool = False,
) -> list[Row]:
    """Writes synthetic faces as Adience: `fold_0_data.txt` to `fold_4_data.txt` and `aligned/USER/PREFIX.FACE.IMAGE`.

    A subject is one drawing, and each photograph turns, shifts, scales, mirrors and lights it anew: a random split
    leaks who they are. The age is sampled from the annotated range, or at random where it is unknown, as is a gender
    that was not annotated as f or m. The columns after `gender` are made up. The same arguments, with the same versions
    of NumPy and OpenCV, give the same bytes.

    `rows` is the number of rows, repeated ones included; 0 stands for 1,000. With `fold_files`, a folder of real fold
    files, their labels, users, subjects and file names are taken: a sample of whole subjects, from some of the users of
    each fold, of about so many rows; 0 stands for all. `size` is the side of the images in pixels. Returns the rows of
    the fold files.

    Raises:
      UserError: the fold files are unusable, or `rows` is too small.
    """
    if rows != 0 and rows < _MIN_ROWS:
        raise UserError(f"A synthetic adience has at least {_MIN_ROWS} rows, not {rows}; choose a larger --count.")
    rng = np.random.default_rng([seed, rows])
    if fold_files is None:
        table = _made_up(rows or _MADE_UP_ROWS, rng)
    else:
        try:
            table = _sampled(read_fold_files(fold_files, Rejected()), rows, rng)
        except DataError as error:
            raise UserError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    _write_fold_files(folder, table, rng)
    _write_images(folder / "aligned", table, seed, size, progress)
    return table


def _sampled(rows: Sequence[Row], count: int, rng: np.random.Generator) -> list[Row]:
    """Samples whole subjects, of few enough users in each fold that these have several each; in the given order."""
    if count == 0 or count >= len(rows):
        return list(rows)
    share = count / len(rows)
    chosen: set[tuple[int, int]] = set()  # (fold, subject)
    for fold in range(len(FILES)):
        sizes: dict[str, collections.Counter[int]] = {}
        for row in rows:
            if row.fold == fold:
                sizes.setdefault(row.user, collections.Counter())[row.subject] += 1
        users = [list(sizes)[at] for at in rng.permutation(len(sizes))]
        first = max(2, round(len(users) * share**0.5))
        room = round(share * sum(subjects.total() for subjects in sizes.values()))
        for some in (users[:first], users[first:]):
            subjects = [pair for user in some for pair in sizes[user].items()]
            for at in rng.permutation(len(subjects)):
                subject, faces = subjects[at]
                if faces <= room:
                    chosen.add((fold, subject))
                    room -= faces
    return [row for row in rows if (row.fold, row.subject) in chosen]


def _made_up(count: int, rng: np.random.Generator) -> list[Row]:
    """Samples users, subjects and labels about as in the real fold files, all rows of a subject labelled alike."""
    users = max(2 * len(FILES), round(count / _USER_ROWS))
    subjects = max(users, round(count / _SUBJECT_ROWS))
    weights = np.exp(rng.normal(0, 1.3, subjects))  # most subjects have a few faces, some have hundreds
    repeated = max(1, round(count * _REPEATED))
    owners = np.append(
        np.arange(subjects), rng.choice(subjects, count - subjects - repeated, p=weights / weights.sum())
    )
    table = np.array(list(_LABELS.values()))
    kinds = rng.choice(table.size, subjects, p=table.ravel() / table.sum())
    names = [f"{number}@N0{rng.integers(9)}" for number in rng.choice(90_000_000, users, replace=False) + 10_000_000]

    rows: list[Row] = []
    keys: set[str] = set()
    photos: dict[int, list[str]] = collections.defaultdict(list)
    for owner in sorted(owners, key=lambda subject: (subject % users, subject)):
        user, kind = int(owner) % users, divmod(int(kinds[owner]), len(_GENDERS))
        image = f"{rng.integers(8_000_000_000, 12_000_000_000)}_{rng.bytes(5).hex()}_o.jpg"
        if photos[user] and rng.random() < _SAME_PHOTO:
            image = photos[user][rng.integers(len(photos[user]))]
        row = Row(names[user], image, int(owner) + 1, list(_LABELS)[kind[0]], _GENDERS[kind[1]], user % len(FILES))
        if row.key in keys:  # already in this photograph
            row = Row(row.user, f"{len(rows)}_{image}", row.subject, row.age_label, row.gender, row.fold)
        keys.add(row.key)
        photos[user].append(row.image)
        rows.append(row)
    rows += [rows[at] for at in rng.choice(len(rows), repeated, replace=False)]
    return sorted(rows, key=lambda row: (row.fold, row.user, row.subject))


def _write_fold_files(folder: Path, rows: Sequence[Row], rng: np.random.Generator) -> None:
    boxes = rng.integers(0, 1500, (len(rows), 4))
    for fold, name in enumerate(FILES):
        lines = ["\t".join(COLUMNS)]
        for row, (x, y, side, score) in zip(rows, boxes.tolist(), strict=True):
            if row.fold == fold:
                labels = (row.user, row.image, row.subject, row.age_label, _LETTERS[row.gender])
                lines.append("\t".join(map(str, (*labels, x, y, 200 + side, 201 + side, 0, 0, 10 + score % 200))))
        (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())


def _write_images(folder: Path, rows: Sequence[Row], seed: int, size: int, progress: bool) -> None:
    faces: dict[int, dict[str, Row]] = {}  # by subject, so that one drawing is held at a time
    for row in rows:
        faces.setdefault(row.subject, {})[row.key] = row
    for user in {row.user for row in rows}:
        (folder / user).mkdir(parents=True)
    total = sum(map(len, faces.values()))
    with progress_bar(total, "Synthesizing faces", unit="faces", shown=progress) as bar:
        for subject, images in faces.items():
            drawings: dict[tuple[str, int], np.ndarray] = {}  # one, but for labels that disagree
            for number, row in enumerate(images.values()):
                label = (row.age_label, row.gender)
                if label not in drawings:
                    drawings[label] = _subject(row, seed, size)
                rng = np.random.default_rng([seed, 1, subject, number])
                image = cv2.cvtColor(_photograph(drawings[label], rng), cv2.COLOR_RGB2BGR)
                data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))))[1]
                (folder / row.user / f"landmark_aligned_face.{subject}.{row.image}").write_bytes(data.tobytes())
                bar.update()


def _subject(row: Row, seed: int, size: int) -> np.ndarray:
    """Returns the drawing of a subject, uint8 [size, size, 3]."""
    rng = np.random.default_rng([seed, 0, row.subject])
    low, high = parse_age(row.age_label) or (0.0, 80.0)
    age = rng.uniform(min(low, high), max(low, high))
    gender = row.gender if row.gender in (0, 1) else int(rng.integers(2))
    return generate_face(rng, age, gender, size)


def _photograph(drawing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the drawing in another pose and another light, uint8 [size, size, 3]."""
    size = len(drawing)
    turn = np.asarray(cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 8), rng.uniform(0.9, 1.15)), float)
    turn[:, 2] += rng.normal(0, 0.03 * size, 2)
    image = cv2.warpAffine(drawing, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        image = cv2.flip(image, 1)
    light = np.append(rng.uniform(0.75, 1.2) * rng.normal(1, 0.04, 3), 1.0)
    image = cv2.multiply(image, light)
    noise, amount = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape), rng.uniform(0.01, 0.06)
    return cv2.addWeighted(image, 1, noise, amount, -127.5 * amount)
