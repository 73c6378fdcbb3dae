"""UTKFace as a TFDS dataset: encoded faces, labelled by their file names.

From Python, without TensorFlow: `tfds_builders.prepare.prepare("utkface", manual_dir, data_dir)`.
On the command line, in this folder and with the repository's root on PYTHONPATH (or the package installed):
`tfds build --manual_dir=<where UTKFace.tar.gz lies> --file_format=array_record`. Both write the same examples.
"""

import collections
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.archive import DataError
from tfds_builders.faces import NO_FACE, Losses, age_band, check_crop, crop_largest, cropper
from tfds_builders.generation import Made, SpooledBuilder, Work, members
from tfds_builders.images import check_image
from tfds_builders.labels import GENDERS, RACES
from tfds_builders.utkface import VERSION

MAX_AGE = 120
"""Largest age accepted, in years; the dataset's own go from 0 to 116."""

TERMS = (
    "UTKFace is for non-commercial research only. The copyright of the images stays with their owners, who may ask "
    "for their removal. Do not redistribute the images. See https://susanqq.github.io/UTKFace/."
)
IDENTITIES = "none: several photographs of one person cannot be kept together"
LABELS = "perceived age, gender and race as annotated: estimated by an algorithm (DEX), then checked by an annotator"

_ARCHIVES = ("UTKFace.tar.gz", "UTKFace.tgz", "UTKFace.tar")
_NAMED = 5  # skipped names that the report lists

# The optional space and the optional dot are for two files of the original:
# `24_0_1_20170116220224657 .jpg.chip.jpg` and `55_0_0_20170116232725357jpg.chip.jpg`.
_NAME = re.compile(
    r"(?P<age>\d{1,3})_(?P<gender>[01])_(?:(?P<race>[0-4])_)?(?P<time>\d{8,20}) ?\.?jpg(?:\.chip\.jpg)?", re.ASCII
)
_RULE = f"AGE_GENDER_RACE_TIME.jpg with age 0 to {MAX_AGE}, gender 0 or 1, race 0 to 4 or left out"


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """How the pictures are stored. The dataset as it is has no configuration; this is for the option.

    Attributes:
      crop: of `faces.CROPS`: "haar" stores the largest face that a detector finds, and leaves out where it finds none.
    """

    crop: str = ""


OPTIONS = Config(name="faces")
"""What `prepare` takes options of."""


@dataclasses.dataclass(frozen=True)
class Label:
    """What a file name says of a face: perceived age, gender and race as annotated.

    Attributes:
      age: years, 0 to `MAX_AGE`.
      gender: 0 male, 1 female.
      race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 others, -1 where the name leaves it out.
    """

    age: int
    gender: int
    race: int


def parse_name(name: str) -> Label | None:
    """Reads the label in a file name, of the aligned (`.jpg.chip.jpg`) or the in-the-wild (`.jpg`) release.

    >>> parse_name("UTKFace/26_1_2_20170116174525125.jpg.chip.jpg")
    Label(age=26, gender=1, race=2)
    >>> parse_name("39_1_20170116174525125.jpg")
    Label(age=39, gender=1, race=-1)
    >>> parse_name("61_3_20170109150557335.jpg") is None
    True

    Args:
      name: the file's name; folders before it are ignored.

    Returns:
      The label, or None if the name has another form or a value out of range.
    """
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if match is None or int(match["age"]) > MAX_AGE:
        return None
    return _label(int(match["age"]), int(match["gender"]), -1 if match["race"] is None else int(match["race"]))


@functools.cache
def _label(age: int, gender: int, race: int) -> Label:
    """A label that all faces of its kind share."""
    return Label(age, gender, race)


def find_source(manual_dir: Path, config: Config | None = None) -> Path:
    """Finds the dataset in a directory: the archive, else the folder `UTKFace`, else the images themselves.

    Args:
      manual_dir: the directory to look in.
      config: how the pictures are to be stored; None is as they are.

    Returns:
      The path of an archive or a folder, for `iter_members`.

    Raises:
      DataError: there is none of them, or no such `config.crop`.
    """
    check_crop(config.crop if config else "")
    try:
        for name in _ARCHIVES:
            if (manual_dir / name).is_file():
                return manual_dir / name
        if (manual_dir / "UTKFace").is_dir():
            return manual_dir / "UTKFace"
        if manual_dir.is_dir() and any(parse_name(entry.name) for entry in manual_dir.iterdir()):
            return manual_dir
    except OSError as error:
        raise DataError(f"{manual_dir}: cannot be read ({error.strerror}); check its permissions.") from error
    raise DataError(
        f"{manual_dir}: no UTKFace here; put UTKFace.tar.gz, an unpacked folder UTKFace or its .jpg files into this "
        "directory (the archive is at https://susanqq.github.io/UTKFace/)."
    )


def make_example(name: str, content: bytes, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Makes the example of one face.

    Args:
      name: the file's; folders before it are ignored.
      content: the file's bytes.
      options: `crop`, as in `Config`.

    Returns:
      (key, features).

    Raises:
      DataError: it is no whole JPEG file, or no face is found in it; holds the reason alone.
    """
    check_image(content, formats=("JPEG",))
    key, label = PurePosixPath(name).name, parse_name(name)
    if label is None:
        raise DataError(f"the name is not {_RULE}")
    digest = hashlib.sha256(content).hexdigest()
    return key, {
        "image": crop_largest(content) if options.get("crop") else content,
        "key": key,
        "age": float(label.age),
        "gender": label.gender,
        "race": label.race,
        "subject": -1,
        "sha256": digest,
    }


class Builder(SpooledBuilder):
    """The TFDS builder of `utkface`."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar = {
        "1.1.0": "`subject` is -1: nobody is identified. Identical files are known by their `sha256`.",
        "1.0.0": "Encoded images; age, gender, race, subject and SHA-256 of every face.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download UTKFace.tar.gz (aligned and cropped faces) from https://susanqq.github.io/UTKFace/ and put it, or "
        f"the folder UTKFace that it unpacks to, into the manual directory. {TERMS}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # Given as encoded bytes, which are stored as they are: nothing is decoded, so no TensorFlow.
                    "image": tfds.features.Image(
                        shape=(None, None, 3),
                        encoding_format="png" if self._crop else "jpeg",
                        doc="the largest face that was found" if self._crop else "the file's own bytes",
                    ),
                    "key": tfds.features.Text(doc="file name, unique"),
                    "age": tfds.features.Scalar(np.float32, doc="perceived age as annotated, in years"),
                    "gender": tfds.features.Scalar(
                        np.int32, doc="perceived gender as annotated: 0 male, 1 female, -1 unknown"
                    ),
                    "race": tfds.features.Scalar(
                        np.int32, doc="as annotated: 0 White, 1 Black, 2 Asian, 3 Indian, 4 others, -1 unknown"
                    ),
                    "subject": tfds.features.Scalar(np.int64, doc="-1: UTKFace has no identities"),
                    "sha256": tfds.features.Text(doc="SHA-256 of the file, in hexadecimal"),
                }
            ),
            homepage="https://susanqq.github.io/UTKFace/",
            supervised_keys=None,
            metadata=tfds.core.MetadataDict(terms=TERMS, labels=LABELS, identities=IDENTITIES),
        )

    @property
    def _crop(self) -> str:
        return self.builder_config.crop if self.builder_config else ""

    def _options(self) -> dict[str, Any]:
        return {"crop": self._crop}

    def _work(self, manual_dir: Path) -> Iterator[Work]:
        source = find_source(manual_dir, self.builder_config)
        self._report = Report(source)
        for name, content in members(source):
            if parse_name(name) is None:
                self._report.skip(name)
            else:
                yield Work("train", name, name, content)

    def _keep(self, made: Iterable[Made]) -> Iterator[Made]:
        digests: dict[str, bytes] = {}  # of the keys so far
        for face in made:
            source = self._report.source
            if self._crop and face.error in ("", NO_FACE):
                self._report.search(face.item, not face.error)
            if face.error == NO_FACE:
                continue
            if face.error:
                raise DataError(f"{source}: {face.name}: {face.error}")
            digest = bytes.fromhex(face.values["sha256"])
            if face.key in digests:
                if digests[face.key] != digest:
                    raise DataError(f"{source}: two different files are named {face.key!r}; remove one of them.")
                self._report.repeated += 1
                continue
            digests[face.key] = digest
            self._report.keep(digest, _label(*(int(face.values[name]) for name in ("age", "gender", "race"))))
            yield face
        report = self._report
        if not report.first:
            without = f", {report.losses.lines()[0]}" if report.losses.lines() else ""
            raise DataError(
                f"{report.source}: holds no usable face ({report.skipped} files with other names{without}); "
                f"faces are named {_RULE}."
            )
        self.info.metadata.update(report.counts())


@dataclasses.dataclass
class Report:
    """What a preparation kept and skipped. It holds little of each face, so that memory hardly grows with them.

    Attributes:
      source: the archive or the folder that was read.
      labels: how many faces were kept of each label.
      first: the label of the first face of each content, by the content's SHA-256.
      same: the labels of the others of a content.
      skipped: files whose names do not parse.
      named: the first of them.
      repeated: files that came again with the same name and the same bytes.
      losses: pictures in which a face was searched for and found or not, by group.
    """

    source: Path
    labels: collections.Counter[Label] = dataclasses.field(default_factory=collections.Counter)
    first: dict[bytes, Label] = dataclasses.field(default_factory=dict)
    same: dict[bytes, list[Label]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    skipped: int = 0
    named: list[str] = dataclasses.field(default_factory=list)
    repeated: int = 0
    losses: Losses = dataclasses.field(default_factory=Losses)

    def search(self, name: str, found: bool) -> None:
        """Counts a picture in which a face was searched for."""
        label = parse_name(name)
        assert label is not None  # or it would not have been searched
        race = RACES[label.race] if label.race >= 0 else "unknown"
        groups = {"gender": GENDERS[label.gender], "race": race, "age": age_band(label.age, label.age)}
        self.losses.add(groups, found)

    def skip(self, name: str) -> None:
        """Counts a file whose name does not parse."""
        self.skipped += 1
        if len(self.named) < _NAMED:
            self.named.append(name)

    def keep(self, digest: bytes, label: Label) -> None:
        """Counts a face of that content."""
        self.labels[label] += 1
        if digest in self.first:
            self.same[digest].append(label)
        else:
            self.first[digest] = label

    def counts(self) -> dict[str, Any]:
        """The figures of the report, by name."""
        labels = self.labels
        same = [[self.first[digest], *others] for digest, others in self.same.items()]
        return {
            "kept": labels.total(),
            "skipped": self.skipped,
            "repeated": self.repeated,
            "male": sum(count for label, count in labels.items() if label.gender == 0),
            "female": sum(count for label, count in labels.items() if label.gender == 1),
            "without_race": sum(count for label, count in labels.items() if label.race == -1),
            "youngest": min(label.age for label in labels),
            "oldest": max(label.age for label in labels),
            "identical_groups": len(same),
            "identical_files": sum(map(len, same)),
            "conflicting_groups": sum(len({(label.age, label.gender) for label in group}) > 1 for group in same),
            **({"without_face": self.losses.counts(), "cropper": cropper()} if self.losses.seen else {}),
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        count = self.counts()
        lines = [
            f"utkface, from {self.source}:",
            f"  kept     {count['kept']} faces: {count['male']} male, {count['female']} female, "
            f"ages {count['youngest']} to {count['oldest']}; {count['without_race']} without race",
            f"  skipped  {count['skipped']} files whose names are not {_RULE}",
            *(f"             {name!r}" for name in self.named),
            *([f"             and {self.skipped - _NAMED} more"] if self.skipped > _NAMED else []),
            f"  skipped  {count['repeated']} files that came again under the same name with the same content",
            f"  {count['identical_groups']} groups of identical files ({count['identical_files']} files), "
            f"{count['conflicting_groups']} of them with different ages or genders",
            *(f"  {line}" for line in self.losses.lines()),
        ]
        return "\n".join(lines)
