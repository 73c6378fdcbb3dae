"""Waveform -> spectrogram image, on the device, inside the jitted step; and augmentation of both.

The spectrograms equal those of SciPy and librosa to rounding. The Fourier transform has two formulations. On a single
CPU device it is an FFT, taken a few clips at a time so that the frames stay in the processor's cache. Everywhere else
it is a product with a fixed matrix: XLA gathers a batch that is spread over devices before it takes its FFT, and
accelerators have matrix products to spare.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from agegender_jax.errors import UserError
from tfds_builders.sound import MAX_SECONDS

AMIN = 1e-10  # least power that is distinguished from silence, as librosa's power_to_db
_CHUNK = 8  # clips; 4 to 16 are equally fast
# The streams of an example's randomness; 0 to 3 are those of `augment.augment`.
_SHIFT, _GAIN, _NOISE, _NOISE_LEVEL, _TIME_MASK, _FREQUENCY_MASK = range(10, 16)


@dataclasses.dataclass(frozen=True)
class SpectrogramSpec:
    """All that makes a spectrogram of samples; plain values, so that it is stored as JSON and read by `**`.

    The window is a periodic Hann window, padded with zeros on both sides to the length of the transform. Frames are
    centred: the first is about sample 0, with zeros before it.
    """

    name: str
    sample_rate: int  # Hz
    seconds: float  # length of a clip
    window: int  # length of the window, samples
    hop: int  # samples from frame to frame
    fft: int  # length of the transform, samples, at least `window`
    scale: Literal["mel", "linear"]  # mel sums the power in triangular bands; linear leaves the transform's bins
    mels: int = 0  # number of bands, evenly spaced on Slaney's mel scale, each of area 1
    low_hz: float = 0.0  # where the lowest band begins
    high_hz: float = 0.0  # where the highest band ends
    normalized: bool = False  # the transform is divided by the window's sum (SciPy's scaling `spectrum`)
    pad_end: bool = False  # zeros follow until every sample is in a frame (SciPy); else a rest is dropped (librosa)
    drop_top: int = 0  # highest bins that are cropped, of scale `linear`
    drop_first: int = 0  # frames that are cropped at the beginning
    drop_last: int = 0  # frames that are cropped at the end
    range_db: float = 80.0  # what is quieter than this below the clip's maximum is raised to it

    @property
    def samples(self) -> int:
        """Returns the length of a clip, samples."""
        return round(self.seconds * self.sample_rate)


_LOG_MEL = SpectrogramSpec("log_mel", 16_000, 2.0, window=400, hop=160, fft=512, scale="mel", mels=128, high_hz=8_000.0)
_AUDIOMNIST = SpectrogramSpec(  # 227 x 227 for AlexNet: Becker et al. 2018, arXiv:1807.03418.
    "audiomnist", 8_000, 1.0, window=455, hop=35, fft=455, scale="linear", normalized=True, pad_end=True, drop_top=1,
    drop_first=2, drop_last=1,
)  # fmt: skip
SPECTROGRAMS: dict[str, SpectrogramSpec] = {spec.name: spec for spec in (_LOG_MEL, _AUDIOMNIST)}


def find_spectrogram(name: str, seconds: float = 0.0) -> SpectrogramSpec:
    """Returns the spec of a name, with clips of another length where `seconds` is not 0.

    Raises:
      UserError: there is no such spec, or the length is shorter than a window or longer than `MAX_SECONDS`.

    >>> find_spectrogram("log_mel", seconds=3.0).samples
    48000
    """
    if name not in SPECTROGRAMS:
        raise UserError(f"There is no spectrogram {name!r}; choose one of {', '.join(sorted(SPECTROGRAMS))}.")
    spec = SPECTROGRAMS[name]
    if seconds == 0.0:
        return spec
    shortest = (spec.drop_first + spec.drop_last + 1) * spec.hop + spec.window
    if not shortest / spec.sample_rate <= seconds <= MAX_SECONDS:
        raise UserError(
            f"Clips of {seconds} s do not make a spectrogram {name!r}; choose {shortest / spec.sample_rate:.3f} to "
            f"{MAX_SECONDS:g} s, or 0 for its own {spec.seconds} s."
        )
    return dataclasses.replace(spec, seconds=float(seconds))


def power(waves: jax.Array, spec: SpectrogramSpec) -> jax.Array:
    """Computes the squared magnitude of the short-time Fourier transform, summed in bands where `mel`.

    Takes waves `[batch, samples]`, float -1 to 1 or int16. Returns float32 `[batch, bands, frames]`, the lowest band
    first. Equals `abs(scipy.signal.stft(...))**2`, or `librosa.feature.melspectrogram`.
    """
    frames = _frames(_as_float(waves), spec)
    spectrum = (_power_fft if _one_cpu() else _power_matrix)(frames, spec)
    if spec.scale == "mel":
        filters = mel_filters(spec.sample_rate, spec.fft, spec.mels, spec.low_hz, spec.high_hz)
        spectrum = jnp.matmul(spectrum, filters.T, precision="highest")
    else:
        spectrum = spectrum[..., : spectrum.shape[-1] - spec.drop_top]
    return spectrum[:, spec.drop_first : spectrum.shape[1] - spec.drop_last].swapaxes(1, 2)


def decibels(waves: jax.Array, spec: SpectrogramSpec) -> jax.Array:
    """Computes `power` in decibels below the clip's maximum, from `-range_db` to 0: float32 `[batch, bands, frames]`.

    A silent clip is `-range_db` throughout (librosa has it at 0, the brightest there is).

    >>> decibels(jnp.zeros((1, 8000)), SPECTROGRAMS["audiomnist"]).max().item()
    -80.0
    """
    clip = power(waves, spec)
    peak = clip.max((1, 2), keepdims=True)
    level = 10.0 * jnp.log10(jnp.maximum(clip, AMIN)) - 10.0 * jnp.log10(jnp.maximum(peak, AMIN))
    return jnp.where(peak > AMIN, jnp.maximum(level, -spec.range_db), -spec.range_db)


def spectrogram_image(waves: jax.Array, spec: SpectrogramSpec, size: int) -> jax.Array:
    """Computes a square grey image of each clip: time to the right, low frequencies at the bottom, `-range_db` black.

    Both axes are resampled bilinearly, with antialiasing where they shrink. Takes waves `[batch, samples]`, float -1 to
    1 or int16. Returns float32 `[batch, size, size, 3]`, 0 to 255, three equal channels.
    """

    def image(waves: jax.Array) -> jax.Array:
        level = decibels(waves, spec)
        grey = jnp.clip((level / spec.range_db + 1.0) * 255.0, 0.0, 255.0)
        down = resizing_matrix(grey.shape[1], size)[::-1]
        across = resizing_matrix(grey.shape[2], size)
        grey = jnp.einsum("xt,bft->bfx", across, grey, precision="highest")
        grey = jnp.einsum("yf,bfx->byx", down, grey, precision="highest")
        return jnp.broadcast_to(grey[..., None], (*grey.shape, 3))

    if _one_cpu():
        return jax.lax.map(lambda wave: image(wave[None])[0], waves, batch_size=_CHUNK)
    return image(waves)


def _one_cpu() -> bool:
    """Returns whether the mesh of the program that is traced (`jax.set_mesh`), else of the process, is one CPU."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and (jax.device_count() if mesh.empty else mesh.size) == 1


def _as_float(waves: jax.Array) -> jax.Array:
    return waves.astype(jnp.float32) / 32768.0 if waves.dtype == jnp.int16 else waves.astype(jnp.float32)


def _frames(waves: jax.Array, spec: SpectrogramSpec) -> jax.Array:
    """Returns overlapping frames `[batch, frames, window]` joined from slices of the wave cut at every hop."""
    before = spec.fft // 2 - (spec.fft - spec.window) // 2
    span = waves.shape[1] + 2 * (spec.fft // 2) - spec.fft
    frames = 1 + (math.ceil(span / spec.hop) if spec.pad_end else span // spec.hop)
    hops = math.ceil(spec.window / spec.hop)
    after = (frames + hops - 1) * spec.hop - before - waves.shape[1]
    cut = jnp.pad(waves, ((0, 0), (before, max(after, 0))))[:, : (frames + hops - 1) * spec.hop]
    cut = cut.reshape(waves.shape[0], frames + hops - 1, spec.hop)
    joined = jnp.concatenate([cut[:, hop : hop + frames] for hop in range(hops)], axis=-1)
    return joined[..., : spec.window]


def _power_fft(frames: jax.Array, spec: SpectrogramSpec) -> jax.Array:
    transform = jnp.fft.rfft(frames * _weights(spec).astype(np.float32), spec.fft)
    return transform.real**2 + transform.imag**2


def _power_matrix(frames: jax.Array, spec: SpectrogramSpec) -> jax.Array:
    """The window is symmetric, so samples k and `window - k` share their weights but for the sign of the sine."""
    half = spec.window // 2
    weights = _weights(spec)[1 : half + 1, None]
    if spec.window % 2 == 0:
        weights[-1] /= 2  # the middle is its own partner
    place = np.arange(1, half + 1) - spec.window / 2
    angle = 2.0 * np.pi / spec.fft * np.outer(place, np.arange(spec.fft // 2 + 1))
    early, late = frames[..., 1 : half + 1], frames[..., ::-1][..., :half]
    even = jnp.matmul(early + late, (weights * np.cos(angle)).astype(np.float32), precision="highest")
    odd = jnp.matmul(early - late, (weights * np.sin(angle)).astype(np.float32), precision="highest")
    return even**2 + odd**2


def _hann(length: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


def _weights(spec: SpectrogramSpec) -> np.ndarray:
    window = _hann(spec.window)
    return window / window.sum() if spec.normalized else window


def mel_filters(sample_rate: int, fft: int, mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Computes triangular bands, evenly spaced on Slaney's mel scale, each of area 1 over Hz, as librosa's default.

    The scale is linear to 1000 Hz (15 mels of 200/3 Hz) and logarithmic above (27 mels for a factor of 6.4): Slaney
    1998, "Auditory Toolbox", Interval Research technical report 1998-010. The arguments are those of a
    `SpectrogramSpec`. Returns float32 `[mels, fft // 2 + 1]`.
    """
    step = math.log(6.4) / 27.0
    low, high = (15.0 + math.log(hz / 1000.0) / step if hz >= 1000.0 else 0.015 * hz for hz in (low_hz, high_hz))
    mel = np.linspace(low, high, mels + 2)
    edges = np.where(mel >= 15.0, 1000.0 * np.exp(step * (mel - 15.0)), mel / 0.015)
    bins = np.arange(fft // 2 + 1) * sample_rate / fft
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle))
    return (np.maximum(triangles, 0.0) * 2.0 / (right - left)).astype(np.float32)


def resizing_matrix(size: int, new_size: int) -> np.ndarray:
    """Computes bilinear resampling of one axis as a matrix; where it shrinks, the triangle is as wide as a new pixel.

    Returns float32 `[new_size, size]`, rows sum to 1: the same weights as Pillow's `BILINEAR`.

    >>> resizing_matrix(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    scale = size / new_size
    source = (np.arange(new_size)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(source - np.arange(size)) / max(scale, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def augment_waves(
    waves: jax.Array, rows: jax.Array, key: jax.Array, *, time_shift: float = 0.0, gain: float = 0.0, noise: float = 0.0
) -> jax.Array:
    """Computes a random variant of each clip. What is 0 is left alone, exactly.

    Args:
      waves: `[batch, samples]`, float -1 to 1 or int16.
      rows: int32 `[batch]`, which example each is; its randomness depends on `key` and this alone.
      key: the step's key.
      time_shift: largest shift either way, as a share of the length. Zeros come in: a clip that went round would
        begin with its end.
      gain: largest change of loudness either way, dB; in decibels below the clip's maximum it hardly shows.
      noise: largest standard deviation of the white noise that is added, relative to the clip's root mean square.

    Returns:
      float32 `[batch, samples]`; loud clips may leave -1 to 1, nothing is clipped.
    """
    waves = _as_float(waves)
    samples = waves.shape[1]
    furthest = int(time_shift * samples + 1e-6)

    def one(wave: jax.Array, row: jax.Array) -> jax.Array:
        level = jnp.sqrt(jnp.mean(wave**2))
        if furthest:
            start = jax.random.randint(_stream(key, row, _SHIFT), (), 0, 2 * furthest + 1)
            wave = jax.lax.dynamic_slice(jnp.pad(wave, furthest), (start,), (samples,))
        if noise:
            deviation = noise * level * jax.random.uniform(_stream(key, row, _NOISE_LEVEL))
            wave = wave + deviation * jax.random.normal(_stream(key, row, _NOISE), (samples,))
        if gain:
            wave = wave * 10.0 ** (gain / 20.0 * jax.random.uniform(_stream(key, row, _GAIN), minval=-1.0))
        return wave

    return jax.vmap(one)(waves, rows) if furthest or gain or noise else waves


def mask(
    images: jax.Array, rows: jax.Array, key: jax.Array, *, time_mask: float = 0.0, frequency_mask: float = 0.0
) -> jax.Array:
    """Blackens a stretch of time and a band of frequencies of each image: SpecAugment (Park et al. 2019).

    One mask an axis, of a width sampled evenly from nothing to the largest, anywhere. It is filled with 0, the floor of
    the spectrogram, which stands for silence. What is 0 is left alone, exactly.

    Images are `[batch, size, size, channels]`, frequencies along axis 1, time along axis 2; the randomness of each
    depends on its row, int32 `[batch]`, and the step's `key` alone. `time_mask` is the largest width and
    `frequency_mask` the largest height, as shares of the axes.
    """
    if not (time_mask or frequency_mask):
        return images

    def masked(size: int, share: float, key: jax.Array) -> jax.Array:
        chance_width, chance_start = jax.random.uniform(key, (2,))
        width = jnp.floor(chance_width * (int(share * size + 1e-6) + 1))
        start = jnp.floor(chance_start * (size - width + 1))
        pixel = jnp.arange(size)
        return (pixel >= start) & (pixel < start + width)

    def one(image: jax.Array, row: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        if time_mask:
            image = jnp.where(masked(width, time_mask, _stream(key, row, _TIME_MASK))[None, :, None], 0, image)
        if frequency_mask:
            image = jnp.where(
                masked(height, frequency_mask, _stream(key, row, _FREQUENCY_MASK))[:, None, None], 0, image
            )
        return image

    return jax.vmap(one)(images, rows)


def _stream(key: jax.Array, row: jax.Array, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, row), stream)
