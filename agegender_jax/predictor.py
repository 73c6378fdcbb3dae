"""A finished run as a function from images or recordings to predictions.

It needs nothing but the run's directory; decoding, preprocessing and program are those of training and evaluation.
Where at least one batch of the run's own size (`evaluate.batch_size`) is asked for at once, all is computed in such
batches, and the predictions are those of `agegender evaluate`, bit for bit. Fewer examples are computed in the smallest
batch of `BATCH_SIZES` that holds them: their predictions are those of `agegender evaluate` up to rounding.
"""

import io
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.detect import MAX_FACES, Detection, as_file, faces, search, search_type
from agegender_jax.data.loader import ArrayLoader
from agegender_jax.errors import UserError
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.prediction_table import PredictionTable, concatenate, make_prediction_table
from tfds_builders.faces import NO_FACE

AHEAD = 2
"""Batches that are read and decoded, or computed, while one is looked at."""

BATCH_SIZES = (1, 8, 64)
"""Sizes of batches, besides the run's own; each is compiled when it is first needed."""

WITHOUT_FACE = f"{NO_FACE}."
"""Error of an image in which no face was detected."""

_SEARCHED = 32  # images that are searched for faces at a time: bounds the memory

Item = str | os.PathLike[str] | np.ndarray
"""What is predicted: the path of a file, an image uint8 `[height, width, 3]`, or a waveform `[samples]`."""


class Predictor:
    """A finished run, ready to predict; close it when done, or use it as a context manager.

    Attributes:
      kind: of what it takes, `image` or `audio`.
      batch_size: the run's own: most examples that are computed at a time.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model, self.kind, self.heads = model, model.kind, model.heads
        self._inputs = model.preprocessor
        devices = model.mesh.shape["data"]
        self.batch_size = -(-model.run.recipe.evaluate.batch_size // devices) * devices
        self._workers = DecodePool(self._inputs.decode, self._inputs.shape, self._inputs.dtype)
        self._computing = threading.Lock()

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Predictor":
        """Loads the finished run in a directory, the `--workdir` of `launch.py`.

        Raises:
          UserError: it holds no complete run.
        """
        return cls(LoadedModel.load(directory))

    def close(self) -> None:
        """Ends the threads and processes that decode."""
        self._workers.close()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, items: Iterable[Item], **options: Any) -> PredictionTable:
        """Returns the predictions of all items at once; the options and errors are those of `stream`."""
        return concatenate(list(self.stream(items, **options)) or [self._table([], [], None, self._empty())])

    def stream(
        self,
        items: Iterable[Item],
        *,
        rate: int = 0,
        level: float = 0.9,
        abstain_below: float = 0.0,
        abstain_wider: float = math.inf,
        detect: Detection | bool | None = None,
        min_bytes: int = 0,
    ) -> Iterator[PredictionTable]:
        """Yields predictions in the order of the items, some at a time: any number of them in bounded memory.

        At most `AHEAD + 2` batches of decoded examples exist at once, and for each core one file (at most 64 MiB) with
        its image (at most 64 million pixels, 3 bytes each). Of images that are searched for faces a batch may have
        `MAX_FACES` times as many examples, and each core one face more. Arrays are held and copied besides.

        Args:
          items: files and arrays, in any mixture. A file that cannot be used is a row with an error.
          rate: of waveforms, Hz.
          level: of the ages' central interval, above 0 and below 1.
          abstain_below: a predicted class is left out where it is less probable than this.
          abstain_wider: an age is left out where its interval is wider than so many years; a regression has none.
          detect: search images for faces, and predict each, the `MAX_FACES` largest of an image; True is with the
            usual settings, False takes images as they are, and None does as it was done with the run's data.
          min_bytes: smaller files are an error.

        Raises:
          UserError: an array is no image or waveform, an option is out of range, or a process was killed.
        """
        if not 0 < level < 1:
            raise UserError(f"The level {level:g} of an interval is out of range; it must be above 0 and below 1.")
        if not 0 <= abstain_below <= 1:
            raise UserError(f"abstain_below={abstain_below:g} is no probability; it must be between 0 and 1.")
        if not abstain_wider > 0:
            raise UserError(f"abstain_wider={abstain_wider:g} is no width of an interval; it must be above 0 years.")
        if detect and self.kind != "image":
            raise UserError(
                f"{self.model.run.directory} learned from recordings, which show no faces; leave detection out."
            )
        detection = self.model.detection if detect is None else detect or None
        if detection is True:
            detection = Detection()

        def predict(first: int, batch: Sequence[Item]) -> PredictionTable:
            names = [
                str(first + i) if isinstance(item, np.ndarray) else os.fsdecode(item) for i, item in enumerate(batch)
            ]
            errors = _too_small(batch, names, min_bytes) if min_bytes else {}
            boxes = None
            if detection is None:
                decoded = self._decode(workers, batch, names, errors, self._empty(len(names)), rate)
                reasons = [_short(errors.get(row, ""), name) for row, name in enumerate(names)]
            else:
                names, reasons, boxes, decoded = self._faces(workers, batch, names, errors)
            options = {"level": level, "abstain_below": abstain_below, "abstain_wider": abstain_wider}
            whole = first > 0 or len(batch) == self.batch_size
            return self._table(names, reasons, boxes, decoded, whole=whole, **options)

        workers = self._workers if detection is None else self._face_pool(detection)
        source, first = iter(items), 0
        pool = ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="predict")
        waiting: deque[Future[PredictionTable]] = deque()
        try:
            while batch := list(itertools.islice(source, self.batch_size)):
                waiting.append(pool.submit(predict, first, batch))
                first += len(batch)
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if workers is not self._workers:
                workers.close()

    def batch_size_for(self, count: int) -> int:
        """Returns the size of the batches in which `count` examples are computed that are asked for at once."""
        return min((size for size in BATCH_SIZES if count <= size < self.batch_size), default=self.batch_size)

    def _encoded(self, item: np.ndarray, rate: int) -> bytes:
        """Returns an array as a file without loss, so that it goes the way of all files."""
        if self.kind == "image":
            if item.ndim != 3 or item.shape[-1] != 3 or item.dtype != np.uint8 or not item.size:
                raise UserError(
                    f"An array of {item.dtype} {list(item.shape)} is no image; give uint8 [height, width, 3], RGB."
                )
            return as_file(item)
        if item.ndim != 1 or item.dtype not in (np.int16, np.float32, np.float64) or rate < 1:
            raise UserError(
                f"An array of {item.dtype} {list(item.shape)} at {rate} Hz is no waveform; give int16 or floats "
                "from -1 to 1, [samples], and their rate=."
            )
        stored = io.BytesIO()
        kind = "PCM_16" if item.dtype == np.int16 else "FLOAT"
        soundfile.write(stored, item, rate, format="WAV", subtype=kind)
        return stored.getvalue()

    def _empty(self, count: int = 0) -> np.ndarray:
        return np.zeros((count, *self._inputs.shape), self._inputs.dtype)

    def _decode(
        self,
        workers: DecodePool,
        items: Sequence[Item],
        names: Sequence[str],
        errors: dict[int, str],
        out: np.ndarray,
        rate: int = 0,
    ) -> np.ndarray:
        """Returns `out` with decoded examples `[n, *shape]`, untouched where they have an error; adds new errors."""

        def read(rows: np.ndarray) -> tuple[list[bytes | None], list[str]]:
            wanted = [items[row] for row in rows.tolist()]
            contents = [self._encoded(item, rate) if isinstance(item, np.ndarray) else None for item in wanted]
            return contents, [names[row] for row in rows.tolist()]

        wanted = np.array([row for row in range(len(names)) if row not in errors], np.int64)
        workers.decode(read, wanted, out, errors)
        return out

    def _face_pool(self, detection: Detection) -> DecodePool:
        """Returns processes that search images for faces."""
        faces(np.zeros((1, 1, 3), np.uint8), "", detection, 1, 0)  # a missing detector is no image's error
        size = self._inputs.shape[0]
        function = partial(search, size=size, margin=detection.margin, min_size=detection.min_size, most=MAX_FACES)
        return DecodePool(function, (search_type(size, MAX_FACES).itemsize,), np.uint8)

    def _faces(
        self, workers: DecodePool, items: Sequence[Item], names: Sequence[str], errors: Mapping[int, str]
    ) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Returns the rows of all faces in images: names, errors, boxes, and decoded examples."""
        kind, nothing = search_type(self._inputs.shape[0], MAX_FACES), ((-1,) * 4, self._empty(1)[0])
        rows: list[tuple[str, str, tuple[int, ...], np.ndarray]] = []
        for first in range(0, len(names), _SEARCHED):
            some = names[first : first + _SEARCHED]
            wrong = {row - first: error for row, error in errors.items() if 0 <= row - first < len(some)}
            out = np.zeros((len(some), kind.itemsize), np.uint8)
            self._decode(workers, items[first : first + _SEARCHED], some, wrong, out)
            for row, (name, result) in enumerate(zip(some, out.view(kind)[:, 0], strict=True)):
                count, crops = int(result["count"]), zip(result["boxes"].tolist(), result["faces"], strict=True)
                rows += [(name, "", tuple(box), face.copy()) for box, face in itertools.islice(crops, count)]
                if row in wrong:
                    rows.append((name, _short(wrong[row], name), *nothing))
                elif not count:
                    rows.append((name, WITHOUT_FACE, *nothing))
                elif count > MAX_FACES:
                    rest = count - MAX_FACES
                    error = f"{rest} more faces are left out: at most {MAX_FACES} of an image are predicted."
                    rows.append((name, error, *nothing))
        boxes = np.array([box for _, _, box, _ in rows], np.int32).reshape(-1, 4)
        decoded = np.stack([example for _, _, _, example in rows])
        return [row[0] for row in rows], [row[1] for row in rows], boxes, decoded

    def _table(
        self,
        names: Sequence[str],
        errors: Sequence[str],
        boxes: np.ndarray | None,
        decoded: np.ndarray,
        *,
        whole: bool = False,
        **options: float,
    ) -> PredictionTable:
        """Predicts decoded examples `[n, ...]`; `whole` computes in a batch of the run's own size, whatever `n` is."""
        good = np.flatnonzero([not error for error in errors])
        decoded = decoded if len(good) == len(names) else decoded[good]
        if not len(decoded):
            shapes = {
                name: jax.eval_shape(head.distribution, jax.ShapeDtypeStruct((1, head.size), jnp.float32)).shape
                for name, head in self.heads.items()
            }
            distributions = {name: np.empty((0, *shape[1:]), np.float32) for name, shape in shapes.items()}
        else:
            # One at a time: two would share the cores and need twice the memory.
            with self._computing, jax.set_mesh(self.model.mesh):
                loader = ArrayLoader(decoded, self.model.mesh)
                size = self.batch_size if whole else self.batch_size_for(len(decoded))
                distributions = self.model.distributions(loader, np.arange(len(decoded)), batch_size=size)
        return make_prediction_table(self.heads, distributions, names, errors, good, boxes=boxes, **options)


def _too_small(items: Sequence[Item], names: Sequence[str], least: int) -> dict[int, str]:
    """Returns errors of files of fewer bytes, by row; those whose size is unknown are left to be read."""
    errors = {}
    for row, (item, name) in enumerate(zip(items, names, strict=True)):
        try:
            size = least if isinstance(item, np.ndarray) else os.stat(name).st_size
        except (OSError, ValueError):
            continue
        if size < least:
            errors[row] = f"{name}: has {size:,} bytes, fewer than the {least:,} asked for."
    return errors


def _short(error: str, name: str) -> str:
    """Returns a reason without the name that stands beside it."""
    return error.removeprefix(f"{name}: ")
