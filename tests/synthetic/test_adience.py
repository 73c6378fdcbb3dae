"""Synthetic Adience: the authors' files and names, the structure of the real fold files, the same bytes from a seed."""

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agegender_jax.errors import UserError
from agegender_jax.synthetic import adience
from agegender_jax.synthetic.adience import write_adience
from tfds_builders.adience.fold_files import FILES, Row, parse_age, read_fold_files, row_counts, without_repeats
from tfds_builders.report import Rejected


def rows_of(folder: Path) -> list[Row]:
    rejected = Rejected()
    rows = read_fold_files(folder, rejected)
    without_repeats(rows, rejected)
    assert len(rejected) == 0
    return rows


def test_files_are_named_as_the_authors_name_them(tmp_path: Path) -> None:
    rows = write_adience(tmp_path / "synthetic", 60, size=32)
    assert rows_of(tmp_path / "synthetic") == rows
    assert sorted(path.name for path in (tmp_path / "synthetic").iterdir()) == ["aligned", *FILES]
    images = {path.relative_to(tmp_path / "synthetic").as_posix() for path in tmp_path.glob("synthetic/aligned/*/*")}
    assert images == {f"aligned/{row.user}/landmark_aligned_face.{row.subject}.{row.image}" for row in rows}
    assert len((tmp_path / "synthetic" / FILES[0]).read_text().splitlines()[1].split("\t")) == 12
    with Image.open(tmp_path / "synthetic" / min(images)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        image.load()
    assert len(images) < len(rows) == 60  # some rows are repeated


@pytest.mark.parametrize("arguments", [{"rows": 5}, {"rows": -1}, {"fold_files": Path("nowhere")}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--count" if "rows" in arguments else r"fold_0_data\.txt"):
        write_adience(tmp_path / "synthetic", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [20, 1500])
def test_every_fold_has_rows_and_users_of_its_own(count: int) -> None:
    counts = row_counts(adience._made_up(count, np.random.default_rng(1)))
    assert (counts["rows"], counts["subjects_in_two_folds"], counts["users_in_two_folds"]) == (count, 0, 0)
    assert min(counts["rows_per_fold"]) > 0
    assert counts["users"] >= 10


def test_made_up_labels_are_distributed_as_in_the_real_files() -> None:
    rows = adience._made_up(20_000, np.random.default_rng(0))
    counts = row_counts(rows)
    # The real files: 2,284 subjects and 168 users among 19,487 rows, 117 of them repeated.
    assert counts["subjects"] == pytest.approx(2284, rel=0.05)
    assert counts["users"] == pytest.approx(168, rel=0.05)
    assert counts["repeated_rows"] == pytest.approx(117, rel=0.05)
    assert (counts["subjects_in_two_folds"], counts["users_in_two_folds"]) == (0, 0)
    assert min(counts["rows_per_fold"]) > 2000
    labels = {row.subject: (row.age_label, row.gender) for row in rows}
    assert all(labels[row.subject] == (row.age_label, row.gender) for row in rows)
    kinds = collections.Counter(label for label, _ in labels.values())
    genders = collections.Counter(gender for _, gender in labels.values())
    assert kinds["(25, 32)"] / len(labels) == pytest.approx(4950 / 19487, abs=0.03)
    assert genders[1] / len(labels) == pytest.approx(9411 / 19487, abs=0.04)
    assert any(age is not None and age[0] == age[1] for age in map(parse_age, kinds))
    photos = collections.Counter((row.user, row.image) for row in set(rows))
    assert max(photos.values()) > 1  # several faces in one photograph


@pytest.mark.parametrize("count", [60, 3000])
def test_a_sample_of_real_fold_files_keeps_their_structure(real_data: Path, count: int) -> None:
    real = read_fold_files(real_data / "adience", Rejected())
    sample = adience._sampled(real, count, np.random.default_rng(count))
    assert 0.75 * count <= len(sample) <= count + 5
    sizes = collections.Counter(row.subject for row in real)
    assert all(faces == sizes[subject] for subject, faces in collections.Counter(row.subject for row in sample).items())
    assert {row.fold for row in sample} == set(range(5))
    users = {(row.fold, row.user) for row in sample}
    assert len(users) < len({row.subject for row in sample})
    if count == 3000:
        assert min(collections.Counter(fold for fold, _ in users).values()) > 5
        assert len(users) < 120  # of 168: some of the users, with several subjects each


def test_labels_and_names_of_given_fold_files_are_kept(tmp_path: Path, real_data: Path) -> None:
    real = read_fold_files(real_data / "adience", Rejected())
    rows = write_adience(tmp_path / "synthetic", 100, size=32, fold_files=real_data / "adience")
    assert rows_of(tmp_path / "synthetic") == rows
    assert set(rows) <= set(real)
    assert adience._sampled(real, 0, np.random.default_rng(0)) == real


def test_faces_of_one_subject_resemble_each_other(tmp_path: Path) -> None:
    write_adience(tmp_path / "synthetic", 200, size=32)
    colours = collections.defaultdict(list)
    for row in set(rows_of(tmp_path / "synthetic")):
        path = tmp_path / "synthetic" / "aligned" / row.user / f"landmark_aligned_face.{row.subject}.{row.image}"
        with Image.open(path) as image:
            colours[row.subject].append(np.asarray(image.resize((4, 4)), float).ravel())
    groups = [np.array(faces) for faces in colours.values() if len(faces) > 2]
    within = np.mean([group.var(0).mean() for group in groups])
    assert within < 0.5 * np.concatenate(groups).var(0).mean()
    assert all(len(np.unique(group, axis=0)) == len(group) for group in groups)
