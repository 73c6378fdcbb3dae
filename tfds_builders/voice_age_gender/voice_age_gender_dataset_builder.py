"""Recordings of voices as a TFDS dataset, labelled by their folders' names or by a CSV file.

Prepared by `prepare.prepare("voice_age_gender", manual_dir, data_dir)`, or in this folder by
`tfds build --config=folders --manual_dir=DIR --file_format=array_record`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.archive import SUFFIXES, DataError, find_archive, iter_members
from tfds_builders.builder import DatasetBuilder, features
from tfds_builders.labels import identity
from tfds_builders.report import check_max_bad
from tfds_builders.sound import IMAGE_SIDE, MAX_SECONDS, check_sound, is_sound, read_sound, spectrogram_png
from tfds_builders.voice_age_gender import VERSION
from tfds_builders.voice_age_gender.listing import LABEL_PATTERN, Patterns, list_folders, list_table, parse_label
from tfds_builders.voice_age_gender.report import VoiceReport

LABELS = "perceived age and gender as annotated: taken from {}; nothing was verified"


@dataclasses.dataclass(eq=False)
class VoiceConfig(tfds.core.BuilderConfig):
    """The layout of a collection of recordings, and the limits of what is kept.

    Attributes:
      label_pattern: regular expression for the whole name of a class folder, whatever its case, with a group `gender`
        (m, male, man, f, female, woman or a plural) and perhaps a group `age` (years).
      speaker_pattern: searched in a recording's path inside the dataset; the group `speaker`, else the first, is the
        speaker. "" if paths do not name speakers.
      recording_pattern: likewise, with the group `recording`: the recording that the file was cut from.
      csv: name of a CSV file in the manual directory, or in a folder there; see `listing.list_table`.
    """

    label_pattern: str = LABEL_PATTERN
    speaker_pattern: str = ""
    recording_pattern: str = ""
    csv: str = ""
    max_bad: float = 0.05  # largest accepted share of rejected files, 0 to 1
    max_seconds: float = MAX_SECONDS  # longest accepted recording
    png: bool = False  # whether to store images of spectrograms instead of the sound
    corpus: str = ""  # name of the archive or folder, for a published corpus
    terms: str = "The terms of your recordings apply."

    def patterns(self) -> Patterns:
        """Returns the regular expressions, compiled; raises DataError for an invalid one."""
        return Patterns.compiled(self.label_pattern, self.speaker_pattern, self.recording_pattern)


_EMODB = VoiceConfig(
    name="emodb",
    description="EmoDB, one folder per gender and age; the first two characters of a file name are the speaker",
    speaker_pattern=r"(?:^|/)(?P<speaker>[^/]{2})[^/]*$",
    corpus="emodb",
    terms=(
        "EmoDB is free for research; cite Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005. "
        "See http://emodb.bilderbar.info/."
    ),
)
_RAVDESS = VoiceConfig(
    name="ravdess",
    description="RAVDESS, one folder per gender; the last two characters of a file's stem are the speaker; no ages",
    speaker_pattern=r"(?P<speaker>[^/]{2})\.[^./]*$",
    corpus="ravdess",
    terms=(
        "RAVDESS is under CC BY-NC-SA 4.0; cite Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional "
        "Speech and Song (RAVDESS), PLoS ONE 13(5), 2018. See https://zenodo.org/records/1188976."
    ),
)
_FOLDERS = VoiceConfig(name="folders", description="one folder per class, named <gender> or <gender>_<age>")
_CONFIGS = (_FOLDERS, _EMODB, _RAVDESS)
_PNG_CONFIGS = [
    dataclasses.replace(config, name=name, png=True, description=f"{config.description}; as spectrogram images")
    for config, name in zip(_CONFIGS, ("png", "emodb_png", "ravdess_png"), strict=True)
]


def find_source(manual_dir: Path, config: VoiceConfig | None = None) -> Path:
    """Returns the archive or the folder of recordings in a directory.

    With a CSV file: the archive or the folders beside it. For a corpus: its archive, else its folder, else the
    directory itself if it holds class folders. Otherwise: the directory itself, else the only archive or folder of
    class folders in it.

    Raises:
      DataError: there is none, or there are several; or the configuration is invalid.
    """
    config = config or _FOLDERS
    pattern = config.patterns().label
    check_max_bad(config.max_bad)
    if not 0 < config.max_seconds <= MAX_SECONDS:
        raise DataError(f"max_seconds is {config.max_seconds:g}; choose more than 0 and at most {MAX_SECONDS:g}.")

    def has_classes(folder: Path) -> bool:
        return any(entry.is_dir() and parse_label(entry.name, pattern) for entry in folder.iterdir())

    try:
        if config.csv:
            return _beside_table(find_table(manual_dir, config))
        if config.corpus and (source := find_archive(manual_dir, config.corpus)):
            return source
        if manual_dir.is_dir() and has_classes(manual_dir):
            return manual_dir
        candidates = []
        if manual_dir.is_dir() and not config.corpus:
            candidates = _archives(manual_dir) + [path for path in _folders(manual_dir) if has_classes(path)]
    except OSError as error:
        raise DataError(f"{manual_dir}: cannot be read ({error.strerror}); check its permissions.") from error
    if len(candidates) > 1:
        names = ", ".join(sorted(path.name for path in candidates))
        raise DataError(
            f"{manual_dir}: holds several sets of recordings ({names}); point manual_dir at a directory with one of "
            "them, or choose a configuration, such as emodb."
        )
    if not candidates:
        wanted = f"{config.corpus}.tar.gz, a folder {config.corpus}" if config.corpus else "an archive of them"
        raise DataError(
            f"{manual_dir}: no recordings here; put {wanted} or folders named <gender> or <gender>_<age> into it, or "
            "name a CSV file."
        )
    return candidates[0]


def find_table(manual_dir: Path, config: VoiceConfig) -> Path:
    """Returns the CSV file of a configuration: in the directory, else in the only folder there that has it.

    Raises:
      DataError: there is none, there are several, or its name has folders.
    """
    if PurePosixPath(config.csv).name != config.csv or "\\" in config.csv:
        raise DataError(f"csv is {config.csv!r}; give the name of a file in the manual directory, without folders.")
    folders = [manual_dir, *_folders(manual_dir)] if manual_dir.is_dir() else []
    tables = [folder / config.csv for folder in folders if (folder / config.csv).is_file()]
    if tables and tables[0].parent == manual_dir:
        tables = tables[:1]
    if len(tables) != 1:
        where = "in several folders" if tables else "neither here nor in a folder here"
        raise DataError(f"{manual_dir}: {config.csv} is {where}; point manual_dir at the directory that holds it.")
    if tables[0].is_symlink():
        raise DataError(f"{tables[0]}: is a link, which is not followed; put the file itself in its place.")
    return tables[0]


class Builder(DatasetBuilder):
    """The TFDS builder of `voice_age_gender`."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Recordings as they are; age, gender, class, speaker, group and SHA-256 of each.",
        "1.1.0": "What is silent or constant in the mean of its channels, or in its middle two seconds, is rejected.",
    }
    BUILDER_CONFIGS: ClassVar = [*_CONFIGS, *_PNG_CONFIGS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put folders of recordings named <gender> or <gender>_<age>, or one archive of them, or recordings with a CSV "
        "file (path, gender, age, speaker) into the manual directory; emodb.tar.gz and ravdess.tar.gz have "
        "configurations of their names."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        origin = f"the CSV file {config.csv}" if config.csv else "the names of the folders"
        subjects = "the speaker, by the file's path" if config.speaker_pattern else "unknown"
        if config.csv:
            subjects = f"the speaker, by the column speaker of {config.csv}"
        content = {"image": tfds.features.Image(shape=(IMAGE_SIDE, IMAGE_SIDE, 3), encoding_format="png")}
        if not config.png:  # tfds.features.Audio imports TensorFlow; a scalar of bytes is stored as it is
            content = {"audio": tfds.features.Scalar(np.object_, doc="the file's own bytes: wav, flac, ogg or mp3")}
        return self.info_of(
            features(
                *("key", "age", "gender", "class_name", "subject", "group", "sha256"),
                **content,
                speaker=tfds.features.Text(doc="the speaker, whose number is `subject`; empty where unknown"),
                sample_rate=tfds.features.Scalar(np.int32, doc="of the recording, in Hz"),
                seconds=tfds.features.Scalar(np.float32, doc="duration of the recording"),
            ),
            *(LABELS.format(origin), subjects, config.terms),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        manual_dir = Path(dl_manager.manual_dir)
        # TFDS reserves the name "all" for the sum of the splits, and calls the only split of a dataset "train".
        return {"train": self._generate_examples(manual_dir, find_source(manual_dir, self.builder_config))}

    def _generate_examples(self, manual_dir: Path, source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        patterns = config.patterns()
        if config.csv:
            listing = list_table(source, find_table(manual_dir, config), patterns)
        else:
            listing = list_folders(source, patterns)
        items, rejected = listing.items, listing.rejected
        rejected.check(source, listing.total, config.max_bad)  # before hours are spent on the rest
        if config.speaker_pattern and not config.csv and items and not any(item.speaker for item in items.values()):
            raise DataError(
                f"{source}: speaker_pattern {config.speaker_pattern} matches none of {len(items)} paths, such as "
                f"{next(iter(items.values())).key!r}; correct it, or leave it out if the speakers are unknown."
            )
        self.report = report = VoiceReport(f"{self.name}/{config.name}", source, listing)

        def skipped(name: str, _: int, reason: str) -> None:
            if items.pop(str(PurePosixPath(name)), None):  # else it was rejected when it was listed
                rejected.add(name, reason)

        for name, content in iter_members(source, skipped=skipped):
            item = items.pop(str(PurePosixPath(name)), None)
            if item is None:
                continue
            try:
                if config.png:  # an image of the whole recording, whose middle may be silent
                    info, stored = read_sound(content, item.key, config.max_seconds)[0], spectrogram_png(content)
                else:
                    info, stored = check_sound(item.key, content, config.max_seconds), content
            except DataError as error:
                rejected.add(name, str(error))
                continue
            example = {
                "image" if config.png else "audio": self.store(stored),
                "key": item.key,
                "age": item.label.age,
                "gender": item.label.gender,
                "class_name": item.label.class_name,
                "speaker": item.speaker,
                "subject": identity(item.speaker),
                "group": identity(item.recording),
                "sha256": hashlib.sha256(content).hexdigest(),
                "sample_rate": info.sample_rate,
                "seconds": info.seconds,
            }
            report.add(example)
            yield item.key, example
        rejected.check(source, listing.total, config.max_bad)
        self.info.metadata.update(report.counts())


def _archives(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.is_file()]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _beside_table(table: Path) -> Path:
    """Returns the folder of a CSV file, or the archive in it if it holds no recordings."""
    folder = table.parent
    archives = _archives(folder)
    if not archives or _folders(folder) or any(is_sound(path.name) for path in folder.iterdir()):
        return folder
    if len(archives) > 1:
        names = ", ".join(sorted(path.name for path in archives))
        raise DataError(f"{folder}: holds several archives ({names}) beside {table.name}; leave one.")
    return archives[0]
