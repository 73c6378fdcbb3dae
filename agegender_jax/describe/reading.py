"""What is known of a prepared dataset without decoding it: its columns, and the headers of its files."""

import dataclasses
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.data.source import COLUMNS, Prepared, Source
from agegender_jax.errors import UserError
from agegender_jax.progress import progress_bar

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A prepared dataset, read.

    Attributes:
      prepared: where it lies.
      source: its examples, by row.
      columns: `source.COLUMNS`, each `[n]`.
      headers: what the files are: `bytes` int64; of images `width` and `height` int64, pixels; of recordings
        `seconds` float64 and `rate` int64, Hz. Each `[n]`; 0 where a header cannot be read.
    """

    prepared: Prepared
    source: Source
    columns: Columns
    headers: Columns

    @property
    def config(self) -> str:
        """The builder's configuration, "" where it has none."""
        return self.prepared.config

    @property
    def voices(self) -> bool:
        """Whether the examples are recordings, or images of recordings: only those have classes of their own."""
        return self.prepared.kind == "audio" or bool((self.columns["class_name"] != "").any())

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the builder wrote down: terms, labels, counts."""
        return self.source.metadata


def read(prepared: Prepared, *, progress: bool = True) -> Contents:
    """Reads the columns and the headers of all examples.

    Args:
      prepared: the dataset.
      progress: whether to draw a progress bar, on a terminal.

    Raises:
      UserError: the dataset is damaged, or empty.
    """
    source = prepared.open()
    if not len(source):
        raise UserError(f"{prepared.directory}: holds no example; delete the folder and prepare it again.")
    known: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    header: dict[str, list[Any]] = {
        "bytes": [],
        **({"seconds": [], "rate": []} if prepared.kind == "audio" else {"width": [], "height": []}),
    }
    look = _sound if prepared.kind == "audio" else _image
    with progress_bar(len(source), "Reading", unit="files", shown=progress) as bar:
        for row in range(len(source)):
            example = source[row]
            for name, values in known.items():
                values.append(example[name])
            values_of_file = (len(example["content"]), *look(example["content"]))
            for column, value in zip(header.values(), values_of_file, strict=True):
                column.append(value)
            bar.update()
    columns = {name: np.asarray(values, COLUMNS[name]) for name, values in known.items()}
    return Contents(prepared, source, columns, {name: np.asarray(values) for name, values in header.items()})


def _image(content: bytes) -> tuple[int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            return Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF")).size
    except Exception:  # Pillow raises many kinds on damaged files
        return 0, 0


def _sound(content: bytes) -> tuple[float, int]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            return file.frames / file.samplerate, file.samplerate
    except Exception:  # libsndfile's errors, and what a lying header makes of the division
        return 0.0, 0
