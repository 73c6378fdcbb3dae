"""A contact sheet: a few examples from all over the labels, small."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.preprocess import PreprocessOptions, make_preprocessor
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.statistics import GENDER_NAMES, Columns, assigned
from agegender_jax.errors import UserError
from agegender_jax.labels import RACES
from agegender_jax.page import data_uri, jpeg

COUNT = 40  # examples on a sheet

_SIDE = 128  # of a thumbnail, pixels
_MAX_PLAYER_BYTES = 1_000_000  # recordings above this get no player
_MAX_PLAYERS_BYTES = 16_000_000  # of all players together: browsers on phones give up on larger pages
_SEED = 0
_UNKNOWN_LAST = 1000  # -1 modulo this is behind all others


@dataclasses.dataclass(frozen=True)
class Example:
    """An example on the sheet, with its labels as a caption.

    `image` is the data URI of a JPEG, "" where the content cannot be decoded, and `sound` that of the stored recording,
    "" where there is none, or it is too large.
    """

    key: str
    caption: str
    image: str
    sound: str = ""


def choose(columns: Columns, scheme: str, count: int = COUNT) -> list[int]:
    """Returns up to `count` rows, in turn of every class, or else of every age group and gender.

    Which they are depends on the keys and labels alone, not on the order of the rows.
    """
    order = np.argsort(columns["key"], kind="stable")
    bits = np.random.Philox(_SEED).random_raw(len(order))  # raw: the same in every release of NumPy
    group, gender, names = assigned(columns, scheme), columns["gender"], columns["class_name"]
    waiting: dict[tuple[str, int, int], list[int]] = {}
    for row in order[np.argsort(bits, kind="stable")].tolist():
        stratum = (str(names[row]), int(group[row]) % _UNKNOWN_LAST, int(gender[row]) % _UNKNOWN_LAST)
        waiting.setdefault(stratum, []).append(row)
    taken: list[tuple[tuple[str, int, int], int]] = []
    turn = 0
    while len(taken) < min(count, len(order)):
        of_turn = [(stratum, rows[turn]) for stratum, rows in sorted(waiting.items()) if turn < len(rows)]
        spread = np.linspace(0, len(of_turn) - 1, min(len(of_turn), count - len(taken))).round().astype(int)
        taken += [of_turn[place] for place in spread.tolist()]
        turn += 1
    return [row for _, row in sorted(taken, key=lambda pair: (pair[0], str(columns["key"][pair[1]])))]


def make_sheet(contents: Contents, scheme: str, count: int = COUNT) -> list[Example]:
    """Returns `count` examples of a dataset, decoded; which ones depends on the scheme of age groups (`choose`)."""
    rows, sounds = choose(contents.columns, scheme, count), contents.prepared.kind == "audio"
    stored = [bytes(contents.source[row]["content"]) for row in rows]
    keys = [str(contents.columns["key"][row]) for row in rows]
    images = (_spectrograms if sounds else _thumbnails)(stored, keys)
    examples, left = [], _MAX_PLAYERS_BYTES
    for row, key, content, image in zip(rows, keys, stored, images, strict=True):
        player = ""
        if sounds and len(content) <= min(_MAX_PLAYER_BYTES, left):
            player, left = data_uri(_sound_type(content), content), left - len(content)
        examples.append(Example(key, caption(contents.columns, row), image, player))
    return examples


def caption(columns: Columns, row: int) -> str:
    """Returns the labels of an example in words."""
    age, low, high = (float(columns[name][row]) for name in ("age", "age_low", "age_high"))
    words = [GENDER_NAMES[int(columns["gender"][row])]]
    words[0] += " gender" if words[0] in ("undefined", "unknown") else ""
    if np.isfinite(age):
        words.append(f"{age:g} years")
    else:
        words.append(f"{low:g}-{high:g} years" if np.isfinite(low) else "age unknown")
    if (race := int(columns["race"][row])) >= 0:
        words.append(RACES[race])
    if name := str(columns["class_name"][row]):
        words.append(f"class {name}")
    return ", ".join(words)


def _thumbnails(stored: Sequence[bytes], keys: Sequence[str]) -> list[str]:
    images = _decoded(partial(decode_image, size=_SIDE), stored, keys)
    return ["" if pixels is None else jpeg(pixels) for pixels in images]


def _spectrograms(stored: Sequence[bytes], keys: Sequence[str]) -> list[str]:
    preprocessor = make_preprocessor(PreprocessOptions(_SIDE), "audio")
    waves = _decoded(preprocessor.decode, stored, keys)
    good = [wave for wave in waves if wave is not None]
    images = iter(preprocessor.to_display(np.stack(good)) if good else ())  # at once: every call compiles
    return ["" if wave is None else jpeg(next(images)) for wave in waves]


def _decoded(
    decode: Callable[..., np.ndarray], stored: Sequence[bytes], keys: Sequence[str]
) -> list[np.ndarray | None]:
    """Returns the examples as arrays, None for one that is damaged: a description shows what is there."""
    arrays: list[np.ndarray | None] = []
    for content, key in zip(stored, keys, strict=True):
        try:
            arrays.append(decode(content, name=key))
        except UserError:
            arrays.append(None)
    return arrays


def _sound_type(content: bytes) -> str:
    """Returns the MIME type of a recording by its first bytes."""
    kinds = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg"}
    return f"audio/{kinds.get(content[:4], 'mpeg')}"
