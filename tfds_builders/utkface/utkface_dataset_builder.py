"""UTKFace as a TFDS dataset: encoded faces, labelled by their file names.

Prepared by `prepare.prepare("utkface", manual_dir, data_dir)`, or in this folder by
`tfds build --manual_dir=DIR --file_format=array_record`.
"""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from tfds_builders.archive import DataError, find_archive, iter_members
from tfds_builders.builder import DatasetBuilder, features, image_feature
from tfds_builders.faces import check_crop, crop_largest
from tfds_builders.images import check_image
from tfds_builders.labels import GENDERS, MAX_AGE, RACES
from tfds_builders.report import Report, age_band
from tfds_builders.utkface import VERSION

HOMEPAGE = "https://susanqq.github.io/UTKFace/"
TERMS = (
    "UTKFace is for non-commercial research only. The copyright of the images stays with their owners, who may ask "
    f"for their removal. Do not redistribute the images. See {HOMEPAGE}."
)
IDENTITIES = "none: several photographs of one person cannot be kept together"
LABELS = "perceived age, gender and race as annotated: estimated by an algorithm (DEX), then checked by an annotator"

# The optional space and the optional dot are for two files of the original:
# `24_0_1_20170116220224657 .jpg.chip.jpg` and `55_0_0_20170116232725357jpg.chip.jpg`.
_NAME = re.compile(
    r"(?P<age>\d{1,3})_(?P<gender>[01])_(?:(?P<race>[0-4])_)?(?P<time>\d{8,20}) ?\.?jpg(?:\.chip\.jpg)?", re.ASCII
)
_RULE = f"AGE_GENDER_RACE_TIME.jpg with age 0 to {MAX_AGE}, gender 0 or 1, race 0 to 4 or left out"
_OTHER_NAME, _REPEATED = f"names other than {_RULE}", "repeats of a file, with the same name and content"


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """How the images are stored: `crop` is one of `faces.CROPS`. By default the dataset has no configuration."""

    crop: str = ""


OPTIONS = Config(name="faces")  # the configuration whose fields are the options of prepare


class Label(NamedTuple):
    """Perceived age, gender and race as annotated."""

    age: int  # years, 0 to MAX_AGE
    gender: int  # 0 male, 1 female
    race: int  # of labels.RACES, -1 unknown


def parse_name(name: str) -> Label | None:
    """Parses the label in the file name of a path; None where it has another form or a value is out of range.

    Names are those of the aligned (`.jpg.chip.jpg`) or the in-the-wild (`.jpg`) release.

    >>> parse_name("UTKFace/26_1_2_20170116174525125.jpg.chip.jpg")
    Label(age=26, gender=1, race=2)
    >>> parse_name("39_1_20170116174525125.jpg")
    Label(age=39, gender=1, race=-1)
    >>> parse_name("61_3_20170109150557335.jpg") is None
    True
    """
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if match is None or int(match["age"]) > MAX_AGE:
        return None
    return Label(int(match["age"]), int(match["gender"]), -1 if match["race"] is None else int(match["race"]))


def find_source(manual_dir: Path, config: Config | None = None) -> Path:
    """Returns the archive in a directory, else the folder `UTKFace`, else the directory itself if images lie in it.

    Raises:
      DataError: there is no dataset in the directory, or no such `config.crop`.
    """
    check_crop(config.crop if config else "")
    try:
        if source := find_archive(manual_dir, "UTKFace"):
            return source
        if manual_dir.is_dir() and any(parse_name(entry.name) for entry in manual_dir.iterdir()):
            return manual_dir
    except OSError as error:
        raise DataError(f"{manual_dir}: cannot be read ({error.strerror}); check its permissions.") from error
    raise DataError(
        f"{manual_dir}: no UTKFace here; put UTKFace.tar.gz, an unpacked folder UTKFace or its .jpg files into this "
        f"directory (the archive is at {HOMEPAGE})."
    )


class Builder(DatasetBuilder):
    """The TFDS builder of `utkface`."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar = {
        "1.1.0": "`subject` is -1: nobody is identified. Identical files are known by their `sha256`.",
        "1.0.0": "Encoded images; age, gender, race, subject and SHA-256 of every face.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Download UTKFace.tar.gz (aligned and cropped faces) from {HOMEPAGE} and put it, or "
        f"the folder UTKFace that it unpacks to, into the manual directory. {TERMS}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        columns = features(*("key", "age", "gender", "race", "subject", "sha256"), image=image_feature(self._crop))
        return self.info_of(columns, LABELS, IDENTITIES, TERMS, HOMEPAGE)

    @property
    def _crop(self) -> str:
        return self.builder_config.crop if self.builder_config else ""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # TFDS reserves the name "all" for the sum of the splits, and calls the only split of a dataset "train".
        return {"train": self._generate_examples(find_source(Path(dl_manager.manual_dir), self.builder_config))}

    def _generate_examples(self, source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        self.report = report = UTKFaceReport("utkface", source, "with different ages or genders")
        digests: dict[str, str] = {}  # by key
        for name, content in iter_members(source):
            key, label = PurePosixPath(name).name, parse_name(name)
            if label is None:
                report.rejected.add(name, _OTHER_NAME)
                continue
            digest = hashlib.sha256(content).hexdigest()
            if key in digests:
                if digests[key] != digest:
                    raise DataError(f"{source}: two different files are named {key!r}; remove one of them.")
                report.rejected.add(name, _REPEATED)
                continue
            digests[key] = digest
            try:
                check_image(content, formats=("JPEG",))
                face = crop_largest(content) if self._crop else content
            except DataError as error:
                raise DataError(f"{source}: {name}: {error}; remove or replace this file.") from error
            if self._crop:
                race = RACES[label.race] if label.race >= 0 else "unknown"
                groups = {"gender": GENDERS[label.gender], "race": race, "age": age_band(label.age, label.age)}
                report.losses.add(groups, detected=face is not None)
            if face is None:
                continue
            report.keep(digest, (label.age, label.gender))
            report.labels[label] += 1
            example = {
                "image": self.store(face),
                "key": key,
                "age": float(label.age),
                "gender": label.gender,
                "race": label.race,
                "subject": -1,
                "sha256": digest,
            }
            yield key, example
        if not report.kept:
            reasons = "; ".join([*report.rejected.lines()[:1], *report.losses.lines()[:1]]) or "it is empty"
            raise DataError(f"{source}: holds no usable face ({reasons}); faces are named {_RULE}.")
        self.info.metadata.update(report.counts())


@dataclasses.dataclass
class UTKFaceReport(Report):
    """Counts examples by label as well."""

    labels: collections.Counter[Label] = dataclasses.field(default_factory=collections.Counter)

    def counts(self) -> dict[str, Any]:
        labels = self.labels
        return super().counts() | {
            "male": sum(count for label, count in labels.items() if label.gender == 0),
            "female": sum(count for label, count in labels.items() if label.gender == 1),
            "without_race": sum(count for label, count in labels.items() if label.race == -1),
            "youngest": min(label.age for label in labels),
            "oldest": max(label.age for label in labels),
        }

    def lines(self) -> list[str]:
        counts = self.counts()
        return [
            f"kept {self.kept} faces: {counts['male']} male, {counts['female']} female, "
            f"ages {counts['youngest']} to {counts['oldest']}; {counts['without_race']} without race"
        ]
