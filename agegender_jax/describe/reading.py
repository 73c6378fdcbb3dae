"""A prepared dataset without its pixels or samples: its columns, and the headers of its files."""

import dataclasses
import io
import warnings
from typing import Any

import numpy as np

from agegender_jax.data.source import COLUMNS, Prepared, Source
from agegender_jax.describe.statistics import Columns, commonest
from agegender_jax.errors import UserError
from agegender_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A prepared dataset, read.

    Attributes:
      columns: `source.COLUMNS`, each `[n]`.
      headers: what the files are: `bytes` int64; of images `width` and `height` int64, pixels; of recordings
        `seconds` float64 and `rate` int64, Hz. Each `[n]`; 0 where a header cannot be read.
    """

    prepared: Prepared
    source: Source
    columns: Columns
    headers: Columns

    @property
    def voices(self) -> bool:
        """Whether the examples are recordings, or images of recordings: only those have classes of their own."""
        return self.prepared.kind == "audio" or bool((self.columns["class_name"] != "").any())

    def rates(self) -> dict[str, int]:
        """Returns how many recordings have each sample rate, the commonest first."""
        rates = commonest(self.headers["rate"][self.headers["rate"] > 0].tolist())
        return {f"{rate:,} Hz": count for rate, count in rates.items()}

    def sizes(self) -> dict[str, int]:
        """Returns how many images have each size, the commonest first."""
        readable = self.headers["width"] > 0
        widths, heights = (self.headers[name][readable].tolist() for name in ("width", "height"))
        return commonest(f"{width}×{height}" for width, height in zip(widths, heights, strict=True))


def read(prepared: Prepared, *, progress: bool = True) -> Contents:
    """Reads the columns and the headers of all examples, with a progress bar on a terminal.

    Raises:
      UserError: the dataset is damaged, or empty.
    """
    source = prepared.open()
    if not len(source):
        raise UserError(f"{prepared.directory}: holds no example; delete the folder and prepare it again.")
    names, look = (("seconds", "rate"), _sound) if prepared.kind == "audio" else (("width", "height"), _image)
    values: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, "bytes", *names)}
    with progress_bar(len(source), "Reading", unit="files", shown=progress) as bar:
        for row in range(len(source)):
            example = source[row]
            header = zip(names, look(example["content"]), strict=True)
            for name, value in {**example, **dict(header), "bytes": len(example["content"])}.items():
                if name in values:
                    values[name].append(value)
            bar.update()
    columns = {name: np.asarray(values[name], dtype) for name, dtype in COLUMNS.items()}
    return Contents(prepared, source, columns, {name: np.asarray(values[name]) for name in ("bytes", *names)})


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
    except Exception:  # libsndfile's errors, and a division by the zero of a wrong header
        return 0.0, 0
