"""Preprocessing: decodes the stored content of an example on the host, once; the device computes what a network sees.

Training, evaluation and prediction share a `Preprocessor`, so that they cannot drift apart. A new kind of content is
one more class here, named in `PREPROCESSORS`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agegender_jax.data import spectrogram
from agegender_jax.data.augment import augment
from agegender_jax.data.decode_audio import AUDIO_DECODER, decode_audio
from agegender_jax.data.decode_image import IMAGE_DECODER, decode_image
from agegender_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """How images are augmented; see `augment.augment`."""

    flip: bool = False
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0


@dataclasses.dataclass(frozen=True)
class AudioAugmentation:
    """How waveforms and their spectrograms are augmented; see `spectrogram.augment_waves` and `spectrogram.mask`."""

    time_shift: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    time_mask: float = 0.0
    frequency_mask: float = 0.0


@dataclasses.dataclass(frozen=True)
class PreprocessOptions:
    """What a preprocessor of either kind is built from."""

    image_size: int  # edge of the images that the network sees, pixels
    mean: Sequence[float] = (0.5, 0.5, 0.5)  # per channel, share of full scale; subtracted
    std: Sequence[float] = (0.25, 0.25, 0.25)  # likewise; divided by
    image_augmentation: ImageAugmentation = ImageAugmentation()  # refused for audio
    audio_augmentation: AudioAugmentation = AudioAugmentation()  # refused for images
    spectrogram: str = "log_mel"  # name of spectrogram.SPECTROGRAMS, of audio
    seconds: float = 0.0  # length of each clip of audio; 0 is the spectrogram's own
    flip_average: bool = False  # whether predictions are averaged over mirror images; refused for audio


class Preprocessor(Protocol):
    """What the cache, the training step and the evaluator know of a kind of content."""

    shape: tuple[int, ...]  # of one decoded example
    dtype: Any  # likewise
    decode: "partial[np.ndarray]"  # takes an example's stored bytes and its `name`; see `DecodePool`
    cache_key: str  # names the decoding; part of the name of every cache
    metadata: dict[str, Any]  # what the options only name, as JSON values that are kept with the run

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        """Computes what the network takes, float32 `[batch, size, size, 3]`, of decoded examples `[batch, *shape]`.

        `mirrored` is a scalar: whether to show the mirror images, which only images have.
        """

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        """Computes a random view of each example; that of row `rows[i]` depends on `key` and this row alone."""

    def to_display(self, content: np.ndarray) -> np.ndarray:
        """Returns decoded examples as people look at them, uint8 `[batch, size, size, 3]`."""


class ImagePreprocessor:
    """Encoded images, decoded to RGB squares; options of audio are a UserError."""

    dtype = np.uint8

    def __init__(self, options: PreprocessOptions) -> None:
        _refuse(options.audio_augmentation, "audio", "images")
        for key in ("spectrogram", "seconds"):
            if (value := getattr(options, key)) != (default := getattr(PreprocessOptions, key)):
                raise UserError(
                    f"config.audio.{key}={value!r} is for audio, and these are images; set it to {default!r}."
                )
        self.shape: tuple[int, ...] = (options.image_size, options.image_size, 3)
        self.decode = partial(decode_image, size=options.image_size)
        self.cache_key = f"{options.image_size}px-{IMAGE_DECODER}"
        self.metadata: dict[str, Any] = {}
        self._augment: Callable[..., jax.Array] = partial(augment, **dataclasses.asdict(options.image_augmentation))
        self._normalize = partial(normalize, mean=options.mean, std=options.std)

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        return self._normalize(jnp.where(mirrored, content[:, :, ::-1], content))

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        return self._normalize(self._augment(content, rows, key))

    def to_display(self, content: np.ndarray) -> np.ndarray:
        return content


class AudioPreprocessor:
    """Encoded recordings, decoded to waveforms of one rate and length, seen as spectrograms.

    Options that augment or mirror images, or name an unknown spectrogram, are a UserError.
    """

    dtype = np.int16

    def __init__(self, options: PreprocessOptions) -> None:
        _refuse(options.image_augmentation, "images", "audio")
        if options.flip_average:
            raise UserError("config.evaluate.flip=True is for images, and these are recordings; set it to False.")
        spec = self._spectrogram = spectrogram.find_spectrogram(options.spectrogram, options.seconds)
        self.shape: tuple[int, ...] = (spec.samples,)
        self.decode = partial(decode_audio, rate=spec.sample_rate, samples=spec.samples)
        self.cache_key = f"{spec.sample_rate}hz-{spec.samples}-{AUDIO_DECODER}"
        self.metadata: dict[str, Any] = {"spectrogram": dataclasses.asdict(spec)}
        self._size = options.image_size
        chosen = dataclasses.asdict(options.audio_augmentation)
        masks = {name: chosen.pop(name) for name in ("time_mask", "frequency_mask")}
        self._augment: Callable[..., jax.Array] = partial(spectrogram.augment_waves, **chosen)
        self._mask: Callable[..., jax.Array] = partial(spectrogram.mask, **masks)
        self._normalize = partial(normalize, mean=options.mean, std=options.std)
        self._rendered = jax.jit(lambda content: self._image(_waves(content)))

    def eval_transform(self, content: jax.Array, mirrored: jax.Array) -> jax.Array:
        return self._normalize(self._image(_waves(content)))

    def train_transform(self, content: jax.Array, rows: jax.Array, key: jax.Array) -> jax.Array:
        wave_key, mask_key = jax.random.split(key)
        images = self._image(self._augment(_waves(content), rows, wave_key))
        return self._normalize(self._mask(images, rows, mask_key))

    def to_display(self, content: np.ndarray) -> np.ndarray:
        # For people to look at, not part of training: on one device, since one of several processes may be alone here.
        with jax.set_mesh(None), jax.transfer_guard("allow"):
            return np.asarray(self._rendered(jnp.asarray(content))).round().astype(np.uint8)

    def _image(self, waves: jax.Array) -> jax.Array:
        return spectrogram.spectrogram_image(waves, self._spectrogram, self._size)


PREPROCESSORS: dict[str, type[ImagePreprocessor] | type[AudioPreprocessor]] = {
    "image": ImagePreprocessor,
    "audio": AudioPreprocessor,
}
"""By the kind of an example's content, which is the name of its feature in prepared datasets."""


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Computes pixels as a network takes them: `(images / 255 - mean) / std` per channel.

    `images` are `[batch, height, width, 3]`, 0 to 255, of any dtype; `mean` and `std` are in units of full scale.

    >>> normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).ravel().tolist()
    [2.0, 2.0, 2.0]
    """
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    return (images.astype(jnp.float32) - 255.0 * jnp.asarray(mean, jnp.float32)) * scale


def _waves(content: jax.Array) -> jax.Array:
    return content.astype(jnp.float32) / 32768.0


def _refuse(augmentation: ImageAugmentation | AudioAugmentation, meant_for: str, kind: str) -> None:
    """Raises for an augmentation that would be left out in silence."""
    for name, value in dataclasses.asdict(augmentation).items():
        if value:
            raise UserError(f"config.augment.{name}={value} is for {meant_for}, and these are {kind}; set it to 0.")


def make_preprocessor(options: PreprocessOptions, kind: str) -> Preprocessor:
    """Builds the preprocessor of a kind of content, one of `PREPROCESSORS`, which checks the options."""
    return PREPROCESSORS[kind](options)
