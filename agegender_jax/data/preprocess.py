"""How the stored content of an example becomes what a network sees: decoding on the host, once; the rest on the device.

Training, evaluation and prediction share a `Preprocessor`, so that they cannot drift apart. A new kind of content is
one more class here.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from agegender_jax.data import spectrogram
from agegender_jax.data.augment import augment, normalize
from agegender_jax.data.decode_audio import AUDIO_DECODER
from agegender_jax.data.decode_image import IMAGE_DECODER
from agegender_jax.data.decode_worker import decoder
from agegender_jax.errors import UserError

IMAGE_AUGMENTATIONS = ("flip", "shift", "zoom", "brightness", "contrast", "saturation", "erase")
AUDIO_AUGMENTATIONS = ("time_shift", "gain", "noise", "time_mask", "frequency_mask")


class Preprocessor(Protocol):
    """What the cache, the step and the evaluator know of a kind of content."""

    @property
    def tag(self) -> str:
        """Names the decoding; part of the name of every cache."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one decoded example."""

    @property
    def dtype(self) -> Any:
        """Of one decoded example."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the recipe only names, as JSON values to be kept with the run."""

    @property
    def decoding(self) -> dict[str, Any]:
        """What `worker.decoder` makes `decode` of, as JSON values."""

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """An example's stored bytes as an array; `name` is for messages."""

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        """Decoded examples `[batch, *shape]` as the network takes them, float32 `[batch, size, size, 3]`.

        `mirrored` is a scalar: whether to show the mirror images, which only pictures have.
        """

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        """The same as a random view of each; that of row `rows[i]` depends on `key` and this row alone."""

    def pictures(self, content: np.ndarray) -> np.ndarray:
        """Decoded examples as people look at them, uint8 `[batch, size, size, 3]`."""


class ImagePreprocessor:
    """Encoded pictures, decoded to RGB squares of `dataset.image_size`."""

    dtype = np.uint8

    def __init__(self, recipe: ConfigDict) -> None:
        self._size = recipe.dataset.image_size
        self._augment: Callable[..., jax.Array] = partial(
            augment, **{name: recipe.augment[name] for name in IMAGE_AUGMENTATIONS}
        )
        self._normalize = partial(normalize, mean=recipe.preprocess.mean, std=recipe.preprocess.std)
        _refuse(recipe, AUDIO_AUGMENTATIONS, "recordings", "pictures")

    @property
    def tag(self) -> str:
        return f"{self._size}px-{IMAGE_DECODER}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self._size, self._size, 3

    @property
    def metadata(self) -> dict[str, Any]:
        return {}

    @property
    def decoding(self) -> dict[str, Any]:
        return {"kind": "image", "size": self._size}

    def decode(self, content: bytes, name: str) -> np.ndarray:
        return decoder(self.decoding)(content, name=name)

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        return self._normalize(jnp.where(mirrored, content[:, :, ::-1], content))

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        return self._normalize(self._augment(content, rows, key))

    def pictures(self, content: np.ndarray) -> np.ndarray:
        return content


class AudioPreprocessor:
    """Encoded recordings, decoded to waveforms of one rate and length, seen as spectrograms."""

    dtype = np.int16

    def __init__(self, recipe: ConfigDict) -> None:
        self._spectrogram = spectrogram.get_recipe(recipe.audio.spectrogram, recipe.audio.seconds)
        self._size = recipe.dataset.image_size
        options = recipe.augment
        self._augment = partial(
            spectrogram.augment_waves, time_shift=options.time_shift, gain=options.gain, noise=options.noise
        )
        self._mask = partial(spectrogram.mask, time_mask=options.time_mask, frequency_mask=options.frequency_mask)
        self._normalize = partial(normalize, mean=recipe.preprocess.mean, std=recipe.preprocess.std)
        self._rendered = jax.jit(lambda content: self._image(_waves(content)))
        _refuse(recipe, IMAGE_AUGMENTATIONS, "pictures", "recordings")
        if recipe.evaluate.flip:
            raise UserError("config.evaluate.flip=True is for pictures, and these are recordings; set it to False.")

    @property
    def tag(self) -> str:
        return f"{self._spectrogram.sample_rate}hz-{self._spectrogram.samples}-{AUDIO_DECODER}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._spectrogram.samples,)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"spectrogram": self._spectrogram.as_dict()}

    @property
    def decoding(self) -> dict[str, Any]:
        return {"kind": "audio", "rate": self._spectrogram.sample_rate, "samples": self._spectrogram.samples}

    def decode(self, content: bytes, name: str) -> np.ndarray:
        return decoder(self.decoding)(content, name=name)

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        return self._normalize(self._image(_waves(content)))

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        wave_key, mask_key = jax.random.split(key)
        images = self._image(self._augment(_waves(content), rows, wave_key))
        return self._normalize(self._mask(images, rows, mask_key))

    def pictures(self, content: np.ndarray) -> np.ndarray:
        # For people to look at, not part of training: on one device, since one of several processes may be alone here.
        with jax.set_mesh(None), jax.transfer_guard("allow"):
            return np.asarray(self._rendered(jnp.asarray(content))).round().astype(np.uint8)

    def _image(self, waves: jax.Array) -> jax.Array:
        return spectrogram.spectrogram_image(waves, self._spectrogram, self._size)


def _waves(content: jax.Array) -> jax.Array:
    return content.astype(jnp.float32) / 32768.0


def _refuse(recipe: ConfigDict, names: tuple[str, ...], meant_for: str, got: str) -> None:
    """An augmentation that would be left out in silence is an error."""
    for name in names:
        if recipe.augment[name]:
            raise UserError(
                f"config.augment.{name}={recipe.augment[name]} is for {meant_for}, and these are {got}; set it to 0."
            )


def make_preprocessor(recipe: ConfigDict, kind: str) -> Preprocessor:
    """The inputs of a recipe for a dataset of this kind (`source.KINDS`).

    Raises:
      UserError: the recipe asks for what this kind does not have, or names an unknown spectrogram.
    """
    return AudioPreprocessor(recipe) if kind == "audio" else ImagePreprocessor(recipe)


def preprocessor_as_trained(recipe: ConfigDict, metadata: Mapping[str, Any], run: str) -> Preprocessor:
    """The inputs that a run was trained with.

    Args:
      recipe: of the run.
      metadata: its `run.json`.
      run: its directory, for messages.

    Raises:
      UserError: as `make_preprocessor`, or this version makes its spectrograms in another way.
    """
    inputs = make_preprocessor(recipe, str(metadata.get("kind", "image")))
    if inputs.metadata.get("spectrogram") != metadata.get("spectrogram"):
        raise UserError(
            f"{run} was trained on spectrograms that this version makes differently ({metadata.get('spectrogram')}); "
            "use the version that trained it."
        )
    return inputs
