"""The adience builder: fold files good and bad, images in both layouts, the report, and what is left behind."""

import errno
import hashlib
import math
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.synthetic.adience import write_adience
from tests.tfds_builders.files import jpeg, metadata, read, records
from tests.tfds_builders.fold_files import ROWS, Labels, content
from tfds_builders.adience.adience_dataset_builder import CONFIGS, find_source
from tfds_builders.adience.fold_files import FILES
from tfds_builders.archive import MAX_FILE_BYTES, DataError
from tfds_builders.prepare import prepare

ALIGNED = CONFIGS[0]


def lay(folder: Path, rows: list[list[Labels]] = ROWS, without: tuple[str, ...] = ()) -> Path:
    """Writes the five fold files and an image for every row; returns the directory."""
    folder.mkdir(parents=True)
    for name, some in zip(FILES, rows, strict=True):
        (folder / name).write_bytes(content(some))
    shade = 0
    for user, image, face, *_ in (row for some in rows for row in some):
        path = folder / "aligned" / user / f"landmark_aligned_face.{face}.{image}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and f"{user}/{face}.{image}" not in without:
            path.write_bytes(jpeg(shade := shade + 20))
    return folder


def pack(folder: Path, twice: Path | None = None) -> None:
    """Replaces the folder `aligned` by an archive, its members in no order of the folds, one perhaps twice."""
    with tarfile.open(folder / "aligned.tar.gz", "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.glob("aligned/*/*"), key=lambda path: path.name[::-1]):
            for _ in range(1 + (path == twice)):
                tar.add(path, path.relative_to(folder).as_posix())
            path.unlink()
    for path in (*folder.glob("aligned/*"), folder / "aligned"):
        path.rmdir()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (FILES[3], None),
        (FILES[2], b""),
        (FILES[2], b"\xef\xbb\xbf\r\n"),
        (FILES[2], content([])),
        (FILES[1], content(ROWS[1]).replace(b"face_id", b"face")),
        (FILES[1], content(ROWS[1]).partition(b"\n")[2]),
        (FILES[1], bytes(5000)),
        (FILES[4], content(ROWS[4]) + b"\xff\n"),
        (FILES[0], content(ROWS[0]).decode().encode("utf-16")),
        (FILES[0], bytes(MAX_FILE_BYTES + 1)),
    ],
    ids=["missing", "empty", "mark alone", "no rows", "no column", "no header", "zeros", "bytes", "utf-16", "huge"],
)
def test_a_bad_fold_file_is_named_and_leaves_nothing(tmp_path: Path, name: str, written: bytes | None) -> None:
    manual = lay(tmp_path / "manual")
    (manual / name).unlink()
    if written is not None:
        (manual / name).write_bytes(written)
    with pytest.raises(DataError, match=re.escape(name)) as error:
        prepare("adience", manual, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/**/*array_record*"))


def test_an_example_holds_the_file_and_its_labels(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual")
    version_dir = prepare("adience", manual, tmp_path / "data")
    assert version_dir == tmp_path / "data" / "adience" / "aligned" / "1.0.0"
    examples = read(version_dir)
    assert set(examples) == {f"{user}/{face}.{image}" for rows in ROWS for user, image, face, *_ in rows}
    assert set(read(version_dir, "fold_0")) == {"1@N01/1.a.jpg", "1@N01/2.a.jpg", "1@N01/1.b.jpg"}
    nan = math.nan
    for key, ages, gender, subject, fold, label in [
        ("1@N01/1.a.jpg", (nan, 25, 32), 1, 1, 0, "(25, 32)"),
        ("1@N01/2.a.jpg", (35, 35, 35), 0, 2, 0, "35"),
        ("1@N01/1.b.jpg", (nan, 0, 2), 2, 1, 0, "(0, 2)"),
        ("2@N01/3.c.jpg", (nan, nan, nan), -1, 3, 1, "None"),
        ("3@N01/4.d.jpg", (nan, 25, 23), 1, 4, 2, "(25, 23)"),
        ("4@N01/5.e.jpg", (nan, 60, 100), 0, 5, 3, "(60, 100)"),
    ]:
        example, (user, _, name) = examples[key], key.partition("/")
        file = (manual / "aligned" / user / f"landmark_aligned_face.{name}").read_bytes()
        assert example["image"] == file
        assert example["sha256"].decode() == hashlib.sha256(file).hexdigest()
        np.testing.assert_array_equal([example[name] for name in ("age", "age_low", "age_high")], ages)
        assert (example["gender"], example["subject"], example["fold"]) == (gender, subject, fold)
        assert (example["user"].decode(), example["age_label"].decode()) == (user, label)
        assert example["group"] == int.from_bytes(hashlib.sha256(user.encode()).digest(), "big") >> (256 - 63)
    about = metadata(version_dir)
    assert "research use" in about["terms"]
    assert (about["kept"], about["repeated_rows"]) == (7, 1)
    assert about["odd_age_labels"] == {"35": 1, "(25, 23)": 1, "(8, 23)": 1}


def test_a_folder_and_an_archive_give_the_same_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_adience(tmp_path / "manual", 150, seed=4, size=32)
    written = records(prepare("adience", tmp_path / "manual", tmp_path / "one"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"kept {len(set(rows))} faces" in captured.err
    assert f"rows {len(rows)}, by fold" in captured.err
    subjects, users = len({row.subject for row in rows}), len({row.user for row in rows})
    assert f"subjects {subjects}, 0 of them in two folds; users {users}, 0" in captured.err
    pack(tmp_path / "manual")
    assert records(prepare("adience", tmp_path / "manual", tmp_path / "two")) == written


def test_the_other_configuration_reads_the_other_layout(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual")
    (manual / "aligned").rename(manual / "faces")
    for path in manual.glob("faces/*/*"):
        path.rename(path.with_name(path.name.replace("landmark_", "coarse_tilt_")))
    with pytest.raises(DataError, match=r"aligned\.tar\.gz.*'faces'"):
        prepare("adience", manual, tmp_path / "data")
    version_dir = prepare("adience", manual, tmp_path / "data", config="faces")
    assert version_dir.parent.name == "faces"
    assert len(read(version_dir)) == 7


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_bad_images_are_named_and_a_limit_can_be_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    names = ("large.jpg", "x.jpg", "y.jpg", "twice.jpg" if packed else "unreadable.jpg")
    rows = [[*ROWS[0], *(("1@N01", name, "1", "3", "f") for name in names)], *ROWS[1:]]
    manual = lay(tmp_path / "manual", rows, without=("1@N01/1.b.jpg",))
    user = manual / "aligned" / "1@N01"
    os.truncate(user / "landmark_aligned_face.1.large.jpg", MAX_FILE_BYTES + 1)
    (user / "landmark_aligned_face.1.x.jpg").write_bytes(b"text")
    (user / "landmark_aligned_face.1.y.jpg").write_bytes(jpeg(9)[:-2])
    (user / "landmark_aligned_face.7.y.jpg").write_bytes(jpeg(9))
    (user / "coarse_tilt_aligned_face.1.a.jpg").write_bytes(jpeg(9))
    if packed:
        pack(manual, twice=user / "landmark_aligned_face.1.twice.jpg")
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.endswith("unreadable.jpg"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"aligned.*max_bad=0\.05"):
        prepare("adience", manual, tmp_path / "data")
    assert not (tmp_path / "data" / "adience" / "aligned").exists()
    version_dir = prepare("adience", manual, tmp_path / "data", options={"max_bad": 0.5})
    assert version_dir.parent.name == "aligned_custom"
    assert len(read(version_dir)) == 6 + packed
    assert metadata(version_dir)["rejected"] == {
        "faces without an image": 1,
        "not a readable JPEG image": 1,
        "a truncated image (it has no end marker)": 1,
        "larger than 64 MiB": 1,
        "images that come twice" if packed else "unreadable (Permission denied)": 1,
    }
    printed = capsys.readouterr().err
    for expected in (
        f"kept {6 + packed} faces, by fold {2 + packed}/1/1/1/1",
        "rejected 5",
        "1: faces without an image\n      '1@N01/landmark_aligned_face.1.b.jpg'",
        f"      '1@N01/landmark_aligned_face.1.{names[-1]}'",
        "2 images that no row lists",
        'gender: 2 unknown; 1 annotated "u"',
        '"u" means "infant, not annotated" in nearly all cases: 1 of 1 are age (0, 2)',
        "age    2/0/0/1/0; published 4316/3101/3339/2975/3693",
        "outside the eight groups: 3 4, 35 1, (25, 23) 1, (8, 23) 1",
        "perceived age and gender as annotated",
        "for research use",
    ):
        assert expected in printed


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_a_fold_without_any_image_stops_whatever_max_bad_is(tmp_path: Path, packed: bool) -> None:
    rows = [*ROWS[:4], [*ROWS[4], ("5@N01", "g.jpg", "6", "3", "f"), ("5@N01", "h.jpg", "6", "3", "f")]]
    manual = lay(tmp_path / "manual", rows, without=("4@N01/5.e.jpg", "5@N01/6.g.jpg"))  # fold 4 has no part in it
    (manual / "aligned/5@N01/landmark_aligned_face.6.h.jpg").write_bytes(b"text")
    if packed:
        pack(manual)
    with pytest.raises(DataError, match="fold_3_data"):
        prepare("adience", manual, tmp_path / "data", options={"max_bad": 1.0})


def test_identical_images_are_all_kept_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = lay(tmp_path / "manual")
    one, two, three, _, five, six, _ = sorted(manual.glob("aligned/*/*"))
    for same, first in ((two, one), (three, one), (six, five)):
        same.write_bytes(first.read_bytes())
    assert len(read(prepare("adience", manual, tmp_path / "data"))) == 7
    assert "2 groups of identical files (5 files), 1 of them in two folds" in capsys.readouterr().err


def test_missing_images_and_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fold_0_data\.txt"):
        find_source(tmp_path, ALIGNED)
    for name in FILES:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"aligned\.tar\.gz"):
        find_source(tmp_path, ALIGNED)
    (tmp_path / "aligned").mkdir()
    assert find_source(tmp_path, ALIGNED) == tmp_path / "aligned"
    (tmp_path / "aligned.tgz").touch()
    assert find_source(tmp_path, ALIGNED) == tmp_path / "aligned.tgz"
    for value in (-0.1, 1.5, math.nan, "0.1", True):
        with pytest.raises(DataError, match="max_bad"):
            prepare("adience", tmp_path, tmp_path / "data", options={"max_bad": value})
    with pytest.raises(DataError, match="crop 'x'"):
        prepare("adience", tmp_path, tmp_path / "data", options={"crop": "x"})
