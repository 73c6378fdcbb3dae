"""The synthetic faces: their labels can be read off the pixels, and their archive is the release's in form."""

import hashlib
import io
import re
import tarfile
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from agegender_jax.synthetic import faces
from agegender_jax.synthetic.faces import generate_face, write_utkface_archive

REGULAR = re.compile(r"UTKFace/(\d{1,3})_([01])_([0-4])_(\d{17})\.jpg\.chip\.jpg")
IRREGULAR = {
    "UTKFace/39_1_20170116174525125.jpg.chip.jpg",
    "UTKFace/61_1_20170109142408075.jpg.chip.jpg",
    "UTKFace/61_1_20170109150557335.jpg.chip.jpg",
    "UTKFace/24_0_1_20170116220224657 .jpg.chip.jpg",
    "UTKFace/55_0_0_20170116232725357jpg.chip.jpg",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of an archive by name."""
    path = tmp_path_factory.mktemp("synthetic") / "UTKFace.tar.gz"
    write_utkface_archive(path, 1000, seed=3)
    with tarfile.open(path, "r:gz") as tar:
        return {info.name: data.read() for info in tar if (data := tar.extractfile(info))}


@pytest.mark.parametrize(("age", "size"), [(0, 200), (30, 64), (116, 200)])
@pytest.mark.parametrize("gender", [0, 1])
def test_generate_face_follows_its_generator_at_all_ages(age: int, gender: int, size: int) -> None:
    first, again, other = (generate_face(np.random.default_rng(seed), age, gender, size) for seed in (5, 5, 6))
    assert (first.shape, first.dtype) == ((size, size, 3), np.uint8)
    assert first.std() > 10
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_hair_gets_lighter_and_skin_more_wrinkled_with_age() -> None:
    # Women: few of them lose their hair. The crown lies about a sixth below the top of the image; just below the
    # middle lie the bags under a grown-up's eyes and the folds beside the nose, where lines make neighbours differ.
    hair, rough = [], []
    for age in (25, 45, 62, 80):
        grey = [generate_face(np.random.default_rng(seed), age, 1).astype(float).mean(-1) for seed in range(150)]
        hair.append(np.mean([face[25:40, 85:115].mean() for face in grey]))
        rough.append(np.mean([np.abs(np.diff(face[106:122, 65:135], axis=0)).mean() for face in grey]))
    assert np.all(np.diff(hair) > 0), hair
    assert hair[-1] - hair[0] > 25
    assert np.all(np.diff(rough) > 0), rough
    assert rough[-1] > 1.3 * rough[0]


def test_gender_changes_the_image_more_in_grown_ups_than_in_small_children() -> None:
    def difference(age: float) -> float:
        means = [np.mean([generate_face(np.random.default_rng(s), age, g, 64) for s in range(150)], 0) for g in (0, 1)]
        return float(np.abs(means[0] - means[1]).mean())

    assert difference(35) > 1.2 * difference(1) > 0


def test_members_are_jpegs_named_as_in_the_release(archive: dict[str, bytes]) -> None:
    members = archive
    assert len(members) == 1000
    assert list(members) == sorted(members)
    assert {name for name in members if not REGULAR.fullmatch(name)} == IRREGULAR
    assert all(REGULAR.fullmatch(f"UTKFace/{member.name}") for member in faces._plan(7, 0))  # too few for these
    for data in list(members.values())[::50]:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (200, 200))
            image.load()
    stamps = [match[4] for name in members if (match := REGULAR.fullmatch(name))]
    assert len(set(stamps)) == len(stamps)


def test_copies_and_conflicts_are_as_many_as_in_the_release(archive: dict[str, bytes]) -> None:
    groups = defaultdict(list)
    for name, data in archive.items():
        groups[hashlib.sha256(data).digest()].append(tuple(name.split("/")[1].split("_")[:2]))
    copies = [labels for labels in groups.values() if len(labels) > 1]
    conflicts = [labels for labels in copies if len(set(labels)) > 1]
    # The release has 375 groups of identical files among 23,707, 224 of them with conflicting labels. In 1,000 that is
    # (375 - 224) / 23.707 = 6.4 with agreeing labels and 224 / 23.707 = 9.4 with conflicting ones.
    assert (len(copies), len(conflicts)) == (6 + 9, 9)
    assert all(len(labels) == 2 for labels in copies)
    apart = [abs(int(a[0]) - int(b[0])) for a, b in conflicts]
    assert min(apart) >= 1
    assert any(years > 5 for years in apart)
    assert any(a[1] != b[1] for a, b in conflicts)


def test_labels_are_distributed_roughly_as_in_the_release() -> None:
    members = faces._plan(23707, 0)
    ages = np.array([member.age for member in members])
    # The release: 1 to 116, mean 33.3, median 29, 9.3 % of exactly 26, predicting the median errs by 14.97 years;
    # 12,390 of 23,704 are male.
    assert ages.min() == 1
    assert np.median(ages) == pytest.approx(29, abs=1)
    assert 100 < ages.max() <= 116
    assert ages.mean() == pytest.approx(33.3, abs=1)
    assert np.mean(ages == 26) == pytest.approx(0.093, abs=0.015)
    assert np.abs(ages - 29).mean() == pytest.approx(14.97, abs=0.6)
    assert np.mean([member.gender == 0 for member in members]) == pytest.approx(0.523, abs=0.03)
