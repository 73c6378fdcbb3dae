"""Adience as a TFDS dataset: encoded faces, labelled by the five fold files, one split for each fold.

Prepared by `prepare.prepare("adience", manual_dir, data_dir)`, or in this folder by
`tfds build --config=aligned --manual_dir=DIR --file_format=array_record`.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from tfds_builders.adience import VERSION
from tfds_builders.adience.fold_files import (
    FILES,
    PUBLISHED_AGE,
    PUBLISHED_GENDER,
    parse_age,
    read_fold_files,
    row_counts,
    without_repeats,
)
from tfds_builders.archive import DataError, find_archive, iter_members
from tfds_builders.builder import DatasetBuilder, features, image_feature
from tfds_builders.faces import check_crop, crop_largest
from tfds_builders.images import check_image
from tfds_builders.labels import GENDERS, identity
from tfds_builders.report import Report, age_band, check_max_bad

HOMEPAGE = "https://talhassner.github.io/home/projects/Adience/Adience-data.html"
TERMS = (
    "Adience is for research use: photographs from Flickr, whose uploaders released them under Creative Commons "
    "licences, to be had after registration from the Open University of Israel. The fold files are Levi and Hassner's, "
    'provided "as is"; cite both papers. The rights stay with their owners; do not redistribute the images. '
    f"The authors' own words prevail: {HOMEPAGE}."
)
LABELS = "perceived age and gender as annotated by people who looked at the photographs; nobody shown was asked"
SUBJECTS = "subject: the person, as annotated (face_id); group: the Flickr user whose album the photograph is from"


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Which images of Adience, and how many may be unusable."""

    folder: str = "aligned"  # and name of the archive of it
    prefix: str = "landmark_aligned_face"  # what precedes `.FACE.IMAGE` in an image's name
    max_bad: float = 0.05  # largest share of faces that may be rejected; images without a detected face do not count
    crop: str = ""  # one of `faces.CROPS`


CONFIGS = (
    Config(name="aligned", description="Faces aligned to landmarks (aligned.tar.gz)."),
    Config(
        name="faces",
        description="Faces cropped and roughly set upright (faces.tar.gz).",
        folder="faces",
        prefix="coarse_tilt_aligned_face",
    ),
)


def find_source(manual_dir: Path, config: Config) -> Path:
    """Returns the archive of the images in a directory, else their folder. The fold files must lie beside it.

    Raises:
      DataError: the images or a fold file are missing, or an option of `config` is out of range.
    """
    check_crop(config.crop)
    check_max_bad(config.max_bad)
    for name in FILES:
        if not (manual_dir / name).is_file():
            raise DataError(
                f"{manual_dir}: there is no {name}; put the five fold files and {config.folder}.tar.gz (or the folder "
                f"{config.folder}) into this directory (all are at {HOMEPAGE})."
            )
    if source := find_archive(manual_dir, config.folder):
        return source
    others = [
        f"; {other.folder} is there, which is the configuration {other.name!r}"
        for other in CONFIGS
        if find_archive(manual_dir, other.folder)
    ]
    raise DataError(
        f"{manual_dir}: there are no images; put {config.folder}.tar.gz, or the folder {config.folder} that it "
        f"unpacks to, into this directory (it is at {HOMEPAGE}){''.join(others)}."
    )


class Builder(DatasetBuilder):
    """The TFDS builder of `adience`."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Encoded images; age or age range, gender, subject, user and fold of every face."
    }
    BUILDER_CONFIGS: ClassVar = list(CONFIGS)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Register at {HOMEPAGE}, download fold_0_data.txt to fold_4_data.txt and aligned.tar.gz (or, for "
        "the configuration `faces`, faces.tar.gz), and put them, or the folders that the archives unpack to, into the "
        f"manual directory. {TERMS}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.info_of(
            features(
                *("key", "age", "age_low", "age_high", "gender", "subject", "group", "fold", "sha256"),
                image=image_feature(self.builder_config.crop),
                user=tfds.features.Text(doc="the Flickr user (user_id), whose number is `group`"),
                age_label=tfds.features.Text(doc="the age as annotated, verbatim"),
            ),
            *(LABELS, SUBJECTS, TERMS, HOMEPAGE),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # An archive is read once for all folds: these lists hold labels and references, the images lie in a file.
        folds: dict[str, list[tuple[str, dict[str, Any]]]] = {f"fold_{fold}": [] for fold in range(len(FILES))}
        examples = self._generate_examples(Path(dl_manager.manual_dir))
        for key, example in tfds.core.utils.tqdm(examples, desc="Reading faces...", unit=" faces", leave=False):
            folds[f"fold_{example['fold']}"].append((key, example))
        return folds

    def _generate_examples(self, manual_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        source = find_source(manual_dir, config)
        self.report = report = AdienceReport("adience", source, "in two folds")
        all_rows = read_fold_files(manual_dir, report.rejected)
        report.rows = row_counts(all_rows)
        rows = {  # by the image's USER/FILE
            f"{row.user}/{config.prefix}.{row.subject}.{row.image}": row
            for row in without_repeats(all_rows, report.rejected)
        }
        absent = dict.fromkeys(rows)  # a set in the order of the fold files

        def skipped(path: str, _: int, reason: str) -> None:
            name = _user_and_file(path)
            if name in absent:
                del absent[name]
                report.rejected.add(name, reason)

        for path, content in iter_members(source, skipped=skipped):
            name = _user_and_file(path)
            row = rows.get(name)
            if row is None:
                report.unlisted += 1
                continue
            if name not in absent:
                report.rejected.add(name, "images that come twice")
                continue
            del absent[name]
            try:
                check_image(content, formats=("JPEG",))
                face = crop_largest(content) if config.crop else content
            except DataError as error:
                report.rejected.add(name, str(error))
                continue
            low, high = parse_age(row.age_label) or (math.nan, math.nan)
            if config.crop:
                gender = (*GENDERS, "u", "unknown")[row.gender]
                report.losses.add({"gender": gender, "age": age_band(low, high)}, detected=face is not None)
            if face is None:
                continue
            digest = hashlib.sha256(content).hexdigest()
            report.keep(digest, row.fold)
            report.kept_per_fold[row.fold] += 1
            example = {
                "image": self.store(face),
                "key": row.key,
                "age": math.nan if row.age_label.startswith("(") else low,
                "age_low": low,
                "age_high": high,
                "gender": row.gender,
                "subject": row.subject,
                "group": identity(row.user),
                "fold": row.fold,
                "user": row.user,
                "age_label": row.age_label,
                "sha256": digest,
            }
            yield row.key, example
        for name in absent:
            report.rejected.add(name, "faces without an image")
        for fold, kept in enumerate(report.kept_per_fold):
            if not kept:
                reasons = "; ".join([*report.losses.lines()[:1], *report.rejected.lines()[:2]])
                raise DataError(
                    f"{source}: fold {fold} has no usable face ({reasons}); check {FILES[fold]}, and that images are "
                    f"named USER/{config.prefix}.FACE.IMAGE."
                )
        report.rejected.check(source, report.kept + len(report.rejected), config.max_bad)
        self.info.metadata.update(report.counts())


@dataclasses.dataclass
class AdienceReport(Report):
    """Counts examples by fold, the rows of the fold files (see `row_counts`), and images that no row lists."""

    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    kept_per_fold: list[int] = dataclasses.field(default_factory=lambda: [0] * len(FILES))
    unlisted: int = 0

    def counts(self) -> dict[str, Any]:
        return super().counts() | self.rows | {"kept_per_fold": self.kept_per_fold, "unlisted": self.unlisted}

    def lines(self) -> list[str]:
        rows = self.rows
        odd = ", ".join(f"{label} {number}" for label, number in rows["odd_age_labels"].items())
        lines = [
            f"kept {self.kept} faces, by fold {_list(self.kept_per_fold)}",
            f"rows {rows['rows']}, by fold {_list(rows['rows_per_fold'])}; {rows['repeated_rows']} of them repeat one "
            f"of {rows['repeated_faces']} faces",
            f"subjects {rows['subjects']}, {rows['subjects_in_two_folds']} of them in two folds; users "
            f"{rows['users']}, {rows['users_in_two_folds']} of them in two folds",
            f"{self.unlisted} images that no row lists",
            "rows of the scheme levi_hassner, by fold, repeats included:",
            f"  age    {_list(rows['levi_hassner_age'])}; published {_list(PUBLISHED_AGE)}",
            f"  gender {_list(rows['levi_hassner_gender'])}; published {_list(PUBLISHED_GENDER)}",
            f"age labels: {rows['age_unknown']} unknown; outside the eight groups: {odd or 'none'}",
            f'gender: {rows["gender_unknown"]} unknown; {rows["gender_u"]} annotated "u"',
        ]
        if rows["gender_u"]:
            lines.append(
                f'  "u" means "infant, not annotated" in nearly all cases: {rows["gender_u_infants"]} of '
                f"{rows['gender_u']} are age (0, 2)"
            )
        return lines


def _user_and_file(path: str) -> str:
    return "/".join(PurePosixPath(path).parts[-2:])


def _list(numbers: Iterable[int]) -> str:
    return "/".join(map(str, numbers))
