"""Adience as a TFDS dataset: encoded faces, labelled by the five fold files, one split for each fold.

From Python, without TensorFlow: `tfds_builders.prepare.prepare("adience", manual_dir, data_dir)`.
On the command line, in this folder and with the repository's root on PYTHONPATH (or the package installed):
`tfds build --config=aligned --manual_dir=<where the fold files lie> --file_format=array_record`. Both write the same
examples.
"""

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.adience import VERSION
from tfds_builders.adience.fold_files import (
    FILES,
    PUBLISHED_AGE,
    PUBLISHED_GENDER,
    Row,
    parse_age,
    read_fold_files,
    row_counts,
    without_repeats,
)
from tfds_builders.archive import MAX_FILE_BYTES, DataError, iter_members, list_members
from tfds_builders.faces import NO_FACE, Losses, age_band, check_crop, crop_largest, cropper
from tfds_builders.generation import Content, Made, SpooledBuilder, Work
from tfds_builders.images import check_image
from tfds_builders.labels import identity
from tfds_builders.rejected import Rejected

HOMEPAGE = "https://talhassner.github.io/home/projects/Adience/Adience-data.html"
TERMS = (
    "Adience is for research use: photographs from Flickr, whose uploaders released them under Creative Commons "
    "licences, to be had after registration from the Open University of Israel. The fold files are Levi and Hassner's, "
    'provided "as is"; cite both papers. The rights stay with their owners; do not redistribute the images. '
    f"The authors' own words prevail: {HOMEPAGE}."
)
LABELS = "perceived age and gender as annotated by people who looked at the photographs; nobody shown was asked"
SUBJECTS = "subject: the person, as annotated (face_id); group: the Flickr user whose album the photograph is from"

_GENDERS = ("male", "female", "u")
_ENDINGS = (".tar.gz", ".tgz", ".tar")
_TOO_LARGE = f"pictures of more than {MAX_FILE_BYTES} bytes"


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Which pictures of Adience, and how many may be unusable.

    Attributes:
      folder: name of their folder, and of the archive that it was packed into.
      prefix: what the authors put before `.FACE.IMAGE` in a picture's name.
      max_bad: largest share of faces that may be left out, 0 to 1: without a picture, unreadable, mislabelled.
      crop: of `faces.CROPS`: "haar" stores the largest face that a detector finds, and leaves out where it finds none,
        which `max_bad` does not count.
    """

    folder: str = "aligned"
    prefix: str = "landmark_aligned_face"
    max_bad: float = 0.05
    crop: str = ""


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
    """Finds the pictures in a directory: an archive, else a folder. The fold files must lie beside it.

    Args:
      manual_dir: the directory to look in.
      config: which pictures.

    Returns:
      The path of an archive or a folder.

    Raises:
      DataError: the pictures or a fold file are missing, or an option of `config` is out of range.
    """
    check_crop(config.crop)
    if isinstance(config.max_bad, bool) or not isinstance(config.max_bad, int | float) or not 0 <= config.max_bad <= 1:
        raise DataError(f"adience: max_bad is a share from 0 to 1, not {config.max_bad!r}.")
    for name in FILES:
        if not (manual_dir / name).is_file():
            raise DataError(
                f"{manual_dir}: there is no {name}; put the five fold files and {config.folder}.tar.gz (or the folder "
                f"{config.folder}) into this directory (all are at {HOMEPAGE})."
            )
    for ending in _ENDINGS:
        if (manual_dir / f"{config.folder}{ending}").is_file():
            return manual_dir / f"{config.folder}{ending}"
    if (manual_dir / config.folder).is_dir():
        return manual_dir / config.folder
    others = [
        f"; {other.folder} is there, which is the configuration {other.name!r}"
        for other in CONFIGS
        if any((manual_dir / f"{other.folder}{ending}").exists() for ending in ("", *_ENDINGS))
    ]
    raise DataError(
        f"{manual_dir}: there are no pictures; put {config.folder}.tar.gz, or the folder {config.folder} that it "
        f"unpacks to, into this directory (it is at {HOMEPAGE}){''.join(others)}."
    )


def make_example(item: Sequence[Any], content: bytes, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Makes an example of a row and its picture.

    Args:
      item: the labels, the fields of a `Row`.
      content: the picture's encoded bytes.
      options: `crop`, as in `Config`.

    Returns:
      (key, features).

    Raises:
      DataError: the picture is not usable; holds the reason alone, in words that several pictures share.
    """
    row = Row(*item)
    try:
        check_image(content, formats=("JPEG",))
    except DataError as error:
        raise DataError(f"unusable pictures ({error})") from error
    low, high = _age(row)
    return row.key, {
        "image": _cropped(content) if options.get("crop") else content,
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
        "sha256": hashlib.sha256(content).hexdigest(),
    }


class Builder(SpooledBuilder):
    """The TFDS builder of `adience`."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Encoded images; age or age range, gender, subject, user and fold of every face."
    }
    BUILDER_CONFIGS: ClassVar = list(CONFIGS)
    SPLITS = tuple(f"fold_{fold}" for fold in range(len(FILES)))
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Register at {HOMEPAGE}, download fold_0_data.txt to fold_4_data.txt and aligned.tar.gz (or, for "
        "the configuration `faces`, faces.tar.gz), and put them, or the folders that the archives unpack to, into the "
        f"manual directory. {TERMS}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        years, whole, name = np.float32, np.int32, np.int64
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # Given as encoded bytes, which are stored as they are: nothing is decoded, so no TensorFlow.
                    "image": tfds.features.Image(
                        shape=(None, None, 3),
                        encoding_format="png" if self.builder_config.crop else "jpeg",
                        doc="the largest face that was found" if self.builder_config.crop else "the file's own bytes",
                    ),
                    "key": tfds.features.Text(doc="USER/FACE.IMAGE, unique"),
                    "age": tfds.features.Scalar(
                        years, doc="perceived age in years where one number was annotated, else NaN"
                    ),
                    "age_low": tfds.features.Scalar(
                        years, doc="first number of the annotated range, NaN where unknown"
                    ),
                    "age_high": tfds.features.Scalar(
                        years, doc="second number of the annotated range, which may be below the first"
                    ),
                    "gender": tfds.features.Scalar(
                        whole, doc="perceived gender as annotated: 0 male, 1 female, 2 'u' (infants), -1 unknown"
                    ),
                    "subject": tfds.features.Scalar(name, doc="who is shown, as annotated (face_id)"),
                    "group": tfds.features.Scalar(name, doc="the Flickr user: 63 bits of the SHA-256 of `user`"),
                    "fold": tfds.features.Scalar(whole, doc="the published fold, 0 to 4"),
                    "user": tfds.features.Text(doc="the Flickr user (user_id)"),
                    "age_label": tfds.features.Text(doc="the age as annotated, verbatim"),
                    "sha256": tfds.features.Text(doc="SHA-256 of the file, in hexadecimal"),
                }
            ),
            homepage=HOMEPAGE,
            supervised_keys=None,
            metadata=tfds.core.MetadataDict(terms=TERMS, labels=LABELS, identities=SUBJECTS),
        )

    def _options(self) -> dict[str, Any]:
        return {"crop": self.builder_config.crop}

    def _work(self, manual_dir: Path) -> Iterator[Work]:
        source = find_source(manual_dir, self.builder_config)
        self._report = report = Report(source)
        items = _items(manual_dir, self.builder_config.prefix, report)
        seen: set[str] = set()
        for name, content in _pictures(items, report):
            if name in seen:
                content = DataError("pictures that come twice")
            seen.add(name)
            yield Work(self.SPLITS[items[name].fold], name, items[name], content)
        for name, row in items.items():
            if name not in seen:
                yield Work(self.SPLITS[row.fold], name, row, DataError("faces without a picture"))

    def _keep(self, made: Iterable[Made]) -> Iterator[Made]:
        left_out: dict[str, list[tuple[str, str]]] = {split: [] for split in self.SPLITS}
        for face in made:
            if self.builder_config.crop and face.error in ("", NO_FACE):
                self._report.search(Row(*face.item), not face.error)
            if face.error == NO_FACE:
                continue
            if face.error:  # `Content` does not say what is unreadable
                reason = face.error.replace("unreadable (", "unreadable pictures (")
                left_out[face.split].append((face.name, reason))
            else:
                self._report.keep(bytes.fromhex(face.values["sha256"]), self.SPLITS.index(face.split))
                yield face
        report = self._report
        for fold, faces in enumerate(left_out.values()):  # in this order, whatever the archive's is
            for name, reason in faces:
                report.rejected.add(name, reason)
            if not report.kept[fold]:
                why = "; ".join([*report.losses.lines()[:1], *report.rejected.lines()[:2]])  # the commonest, an example
                raise DataError(
                    f"{report.source}: fold {fold} has no usable face ({why}); check {FILES[fold]}, and that pictures "
                    f"are named USER/{self.builder_config.prefix}.FACE.IMAGE."
                )
        report.rejected.check(report.source, sum(report.kept) + len(report.rejected), self.builder_config.max_bad)
        self.info.metadata.update(report.counts())


@dataclasses.dataclass
class Report:
    """What a preparation kept and left out. It holds little of each face, so that memory hardly grows with them.

    Attributes:
      source: the archive or the folder with the pictures.
      rows: the figures of the fold files, see `row_counts`.
      rejected: rows and pictures that were left out, faces without a picture included.
      kept: faces kept in each fold.
      first: the fold of the first kept face of each content, by the content's SHA-256.
      same: the folds of the others of a content.
      unlisted: pictures that no row lists.
      losses: pictures in which a face was searched for and found or not, by group.
    """

    source: Path
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    rejected: Rejected = dataclasses.field(default_factory=Rejected)
    kept: list[int] = dataclasses.field(default_factory=lambda: [0] * len(FILES))
    first: dict[bytes, int] = dataclasses.field(default_factory=dict)
    same: dict[bytes, list[int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    unlisted: int = 0
    losses: Losses = dataclasses.field(default_factory=Losses)

    def search(self, row: Row, found: bool) -> None:
        """Counts a picture in which a face was searched for."""
        gender = _GENDERS[row.gender] if row.gender >= 0 else "unknown"
        self.losses.add({"gender": gender, "age": age_band(*_age(row))}, found)

    def keep(self, digest: bytes, fold: int) -> None:
        """Counts a face of that content."""
        self.kept[fold] += 1
        if digest in self.first:
            self.same[digest].append(fold)
        else:
            self.first[digest] = fold

    def counts(self) -> dict[str, Any]:
        """The figures of the report, by name."""
        same = [[self.first[digest], *others] for digest, others in self.same.items()]
        return self.rows | {
            "kept": sum(self.kept),
            "kept_per_fold": self.kept,
            "rejected": dict(self.rejected.counts),
            "unlisted": self.unlisted,
            "identical_groups": len(same),
            "identical_files": sum(map(len, same)),
            "identical_groups_in_two_folds": sum(len(set(folds)) > 1 for folds in same),
            **({"without_face": self.losses.counts(), "cropper": cropper()} if self.losses.seen else {}),
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        count = self.counts()
        odd = ", ".join(f"{label} {number}" for label, number in count["odd_age_labels"].items())
        lines = [
            f"adience, from {self.source}:",
            f"  kept     {count['kept']} faces, by fold {_list(count['kept_per_fold'])}",
            f"  rows     {count['rows']}, by fold {_list(count['rows_per_fold'])}; {count['repeated_rows']} of them "
            f"repeat one of {count['repeated_faces']} faces",
            f"  subjects {count['subjects']}, {count['subjects_in_two_folds']} of them in two folds; users "
            f"{count['users']}, {count['users_in_two_folds']} of them in two folds",
            f"  left out {len(self.rejected)}",
            *(f"    {line}" for line in self.rejected.lines()),
            *(f"  {line}" for line in self.losses.lines()),
            f"  {count['unlisted']} pictures that no row lists",
            f"  {count['identical_groups']} groups of identical pictures ({count['identical_files']} files), "
            f"{count['identical_groups_in_two_folds']} of them in two folds",
            "  rows of the scheme levi_hassner, by fold, repeats included:",
            f"    age     {_list(count['levi_hassner_age'])}; published {_list(PUBLISHED_AGE)}",
            f"    gender  {_list(count['levi_hassner_gender'])}; published {_list(PUBLISHED_GENDER)}",
            f"  age labels: {count['age_unknown']} unknown; outside the eight groups: {odd or 'none'}",
            f'  gender: {count["gender_unknown"]} unknown; {count["gender_u"]} annotated "u"',
        ]
        if count["gender_u"]:
            lines.append(
                f'    "u" means "infant, not annotated" in nearly all cases: {count["gender_u_infants"]} of '
                f"{count['gender_u']} are age (0, 2)"
            )
        return "\n".join(lines)


def _age(row: Row) -> tuple[float, float]:
    """The first and the last year that a row's age may be, NaN where it is unknown."""
    return parse_age(row.age_label) or (math.nan, math.nan)


def _cropped(content: bytes) -> bytes:
    try:
        return crop_largest(content)
    except DataError as error:
        raise DataError(NO_FACE if str(error) == NO_FACE else "unusable pictures (they cannot be decoded)") from error


def _items(manual_dir: Path, prefix: str, report: Report) -> dict[str, Row]:
    """The row of each face by its picture, USER/FILE, in the order of the fold files."""
    rows = read_fold_files(manual_dir, report.rejected)
    report.rows = row_counts(rows)
    return {f"{row.user}/{prefix}.{row.subject}.{row.image}": row for row in without_repeats(rows, report.rejected)}


def _pictures(items: Collection[str], report: Report) -> Iterator[tuple[str, bytes | Content | DataError]]:
    """The pictures that have a row, as (USER/FILE, content or why it has none); counts the others.

    Those of a folder come in the order of the rows, those of an archive in its own.
    """
    source = report.source
    if source.is_dir():
        sizes = dict(list_members(source))
        report.unlisted = sum(name not in items for name in sizes)
        # Names are looked up in the listing, so no row can lead out of the folder.
        for name in items:
            size = sizes.get(name)
            if size is not None:
                yield name, DataError(_TOO_LARGE) if size > MAX_FILE_BYTES else Content(str(source / name), 0, size)
        return
    large: list[str] = []
    members: Iterator[tuple[str, bytes | DataError]] = itertools.chain(
        iter_members(source, oversized=lambda member, size: large.append(member)),
        ((member, DataError(_TOO_LARGE)) for member in large),
    )
    for member, content in members:
        name = "/".join(PurePosixPath(member).parts[-2:])
        if name in items:
            yield name, content
        else:
            report.unlisted += 1


def _list(numbers: Collection[int]) -> str:
    return "/".join(map(str, numbers))
