"""The utkface builder: names, what is kept and refused, and the report."""

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from tests.tfds_builders.files import jpeg, lay, metadata, pack, read, records
from tfds_builders.archive import DataError
from tfds_builders.prepare import prepare
from tfds_builders.utkface.utkface_dataset_builder import Label, find_source, parse_name

TIME = "20170116174525125"
FACES = {
    f"26_1_2_{TIME}.jpg.chip.jpg": jpeg(1),
    f"0_0_4_{TIME}.jpg": jpeg(2),
    f"39_1_{TIME}.jpg.chip.jpg": jpeg(3),
}


def packed(folder: Path, *more: tuple[str, bytes], faces: dict[str, bytes] = FACES) -> Path:
    """Writes UTKFace.tar.gz with these faces and more files; returns the folder that it lies in."""
    pack(folder / "UTKFace.tar.gz", [(f"UTKFace/{name}", content) for name, content in [*faces.items(), *more]])
    return folder


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("26_1_2_20170116174525125.jpg.chip.jpg", Label(26, 1, 2)),
        ("UTKFace/part1/116_0_0_20170116174525125.jpg", Label(116, 0, 0)),
        ("120_1_0_20170116174525125.jpg", Label(120, 1, 0)),
        ("39_1_20170116174525125.jpg.chip.jpg", Label(39, 1, -1)),
        ("61_1_20170109142408075.jpg", Label(61, 1, -1)),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", Label(24, 0, 1)),
        ("24_0_1_20170116220224657 .jpg", Label(24, 0, 1)),
        ("55_0_0_20170116232725357jpg.chip.jpg", Label(55, 0, 0)),
        ("55_0_0_20170116232725357jpg", Label(55, 0, 0)),
        *[
            (f"{name}_20170116174525125.jpg", None)
            for name in ("121_0_0", "-1_0_0", "61_3", "26_2_0", "26_0_5", "53__0")
        ],
        *[(f"26_1_2_20170116174525125{suffix}", None) for suffix in (".pg", ".png", ".jpg\n")],
        *[(name, None) for name in ("٢٦_1_2_20170116174525125.jpg", "README.txt", "")],  # Arabic-Indic digits
    ],
)
def test_parse_name(name: str, label: Label | None) -> None:
    assert parse_name(name) == label


def test_every_layout_gives_the_files_and_their_labels(tmp_path: Path) -> None:
    archive = packed(tmp_path / "archive")
    folder = lay(tmp_path / "folder" / "UTKFace", FACES).parent
    flat = lay(tmp_path / "flat", FACES)
    sources = [find_source(path) for path in (archive, folder, flat)]
    assert sources == [archive / "UTKFace.tar.gz", folder / "UTKFace", flat]
    prepared = [prepare("utkface", path, tmp_path / f"data_{path.name}") for path in (archive, folder, flat)]
    assert prepared[0] == tmp_path / "data_archive" / "utkface" / "1.1.0"
    assert records(prepared[0]) == records(prepared[1]) == records(prepared[2])
    examples = read(prepared[0])
    assert examples.keys() == FACES.keys()
    for (name, content), labels in zip(FACES.items(), [(26, 1, 2), (0, 0, 4), (39, 1, -1)], strict=True):
        example = examples[name]
        assert example["image"] == content
        assert example["sha256"].decode() == hashlib.sha256(content).hexdigest()
        assert (example["age"], example["gender"], example["race"], example["subject"]) == (*labels, -1)
    assert "non-commercial research only" in metadata(prepared[0])["terms"]
    assert list((tmp_path / "data_archive" / "utkface").iterdir()) == [prepared[0]]


def test_the_report_counts_kept_and_rejected_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        next(iter(FACES.items())),  # the same file again
        (f"30_0_1_{TIME}.jpg", jpeg(7)),
        (f"30_0_1_9{TIME}.jpg", jpeg(7)),  # identical, same labels
        (f"57_1_1_{TIME}.jpg", jpeg(8)),
        (f"47_1_1_{TIME}.jpg", jpeg(8)),  # identical, another age
        (f"130_0_0_{TIME}.jpg", jpeg(9)),
        ("README.txt", b"hello"),
    ]
    version_dir = prepare("utkface", packed(tmp_path / "manual", *files), tmp_path / "data")
    captured = capsys.readouterr()
    assert captured.out == ""
    for expected in (
        "kept 7 faces: 3 male, 4 female, ages 0 to 57; 1 without race",
        "rejected 3",
        f"'UTKFace/130_0_0_{TIME}.jpg'",
        "'UTKFace/README.txt'",
        "2 groups of identical files (4 files), 1 of them with different ages or genders",
        "perceived age, gender and race as annotated",
        "identities: none",
        "non-commercial research only",
    ):
        assert expected in captured.err
    assert len({example["sha256"] for example in read(version_dir).values()}) == 5
    assert sorted(metadata(version_dir)["rejected"].values()) == [1, 2]


@pytest.mark.parametrize(
    ("faces", "more", "name"),
    [
        ({}, [("README.txt", b"x"), (f"130_0_0_{TIME}.jpg", b"x")], "UTKFace.tar.gz"),
        ({}, [], "UTKFace.tar.gz"),
        (FACES, [(f"5_0_0_{TIME}.jpg", b"text")], f"UTKFace/5_0_0_{TIME}.jpg"),
        (FACES, [(f"5_0_0_{TIME}.jpg", jpeg(9)[:-2])], f"UTKFace/5_0_0_{TIME}.jpg"),
        (FACES, [(next(iter(FACES)), jpeg(9))], f"26_1_2_{TIME}.jpg.chip.jpg"),
        (FACES, [("../x.jpg", jpeg(9))], "../x.jpg"),
        (FACES, None, "UTKFace.tar.gz"),
    ],
    ids=["only other names", "empty", "text", "truncated", "two of a name", "traversal", "truncated archive"],
)
def test_bad_data_leave_nothing_behind(
    tmp_path: Path, faces: dict[str, bytes], more: list[tuple[str, bytes]] | None, name: str
) -> None:
    manual = packed(tmp_path / "manual", *(more or ()), faces=faces)
    if more is None:
        (manual / name).write_bytes((manual / name).read_bytes()[:-20])
    (tmp_path / "mine").mkdir()
    for data_dir in (tmp_path / "new" / "data", tmp_path / "mine"):
        with pytest.raises(DataError, match=re.escape(name)):
            prepare("utkface", manual, data_dir)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "mine").iterdir()) == []  # and the folder itself stays


def test_a_missing_dataset_names_the_directory(tmp_path: Path) -> None:
    for manual in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=re.escape(str(manual))):
            prepare("utkface", manual, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_every_name_of_the_real_archive_parses(real_data: Path) -> None:
    with tarfile.open(real_data / "utkface" / "UTKFace.tar.gz") as tar:
        labels = [parse_name(info.name) for info in tar if info.isreg()]
    assert len(labels) == 21_447
    assert None not in labels
    assert sum(label is not None and label.race == -1 for label in labels) == 3
