"""What the network sees of images and of recordings, and recipes that ask a kind for what it does not have."""

import io
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from agegender_jax.data.preprocess import (
    AudioAugmentation,
    AudioPreprocessor,
    ImageAugmentation,
    ImagePreprocessor,
    PreprocessOptions,
    make_preprocessor,
)
from agegender_jax.errors import UserError
from agegender_jax.mesh import make_mesh

STILL = jnp.array(False)


OPTIONS = PreprocessOptions(32, seconds=0.5)


def wav(hertz: float, rate: int = 16000, seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    time = np.arange(int(rate * seconds)) / rate
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * hertz * time), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_an_image_is_scaled_and_normalised() -> None:
    inputs = make_preprocessor(PreprocessOptions(32), "image")
    assert isinstance(inputs, ImagePreprocessor)
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (255, 0, 51)).save(buffer, "PNG")
    content = inputs.decode(buffer.getvalue(), name="a")
    assert (content.shape, content.dtype) == (inputs.shape, inputs.dtype) == ((32, 32, 3), np.uint8)
    seen = inputs.eval_transform(jnp.asarray(content)[None], STILL)
    assert inputs.metadata == {}
    # (1 - .5) / .25, (0 - .5) / .25, (.2 - .5) / .25
    np.testing.assert_allclose(np.asarray(seen)[0, 5, 7], [2.0, -2.0, -1.2], atol=1e-6)


def test_a_recording_becomes_an_image_of_its_pitch(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, used = make_preprocessor(OPTIONS, "audio"), []
    metadata = inputs.metadata["spectrogram"]
    assert (metadata["name"], metadata["sample_rate"], metadata["seconds"]) == ("log_mel", 16000, 0.5)
    assert isinstance(inputs, AudioPreprocessor)
    content = np.stack([inputs.decode(wav(hertz), name="a") for hertz in (200.0, 3000.0)])
    assert (content.shape, content.dtype) == ((2, *inputs.shape), inputs.dtype) == ((2, 8000), np.int16)
    seen = np.asarray(jax.jit(inputs.eval_transform)(jnp.asarray(content), STILL))
    assert (seen.shape, seen.dtype) == ((2, 32, 32, 3), np.float32)
    assert seen.min() >= -2
    assert seen.max() <= 2
    loudest = seen[:, :, 16, 0].argmax(1)  # row 0 is the highest frequency
    assert loudest[0] > loudest[1] + 10
    np.testing.assert_allclose(seen[..., 0], seen[..., 2])
    with jax.set_mesh(make_mesh()):  # of several processes one alone may display something
        images = inputs.to_display(content)
        monkeypatch.setattr(inputs, "_rendered", lambda waves: used.append(waves.sharding.device_set) or waves)
        inputs.to_display(content)
    assert used == [{jax.local_devices()[0]}]
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images / 255 * 4 - 2, seen, atol=0.01)
    mirrored = inputs.eval_transform(jnp.asarray(content), jnp.array(True))
    np.testing.assert_allclose(mirrored, seen, atol=1e-5)  # time has a direction


def test_without_augmentation_the_view_is_the_plain_one() -> None:
    inputs = make_preprocessor(OPTIONS, "audio")
    content = jnp.asarray(inputs.decode(wav(500.0), name="a"))[None]
    rows, key = jnp.array([3]), jax.random.key(0)
    np.testing.assert_allclose(
        inputs.train_transform(content, rows, key), inputs.eval_transform(content, STILL), atol=1e-4
    )


def test_a_view_depends_on_the_key_and_the_row_alone() -> None:
    augmentation = AudioAugmentation(time_shift=0.2, noise=0.2, time_mask=0.2, frequency_mask=0.2)
    inputs = make_preprocessor(replace(OPTIONS, audio_augmentation=augmentation), "audio")
    view = jax.jit(inputs.train_transform)
    content = jnp.asarray(np.stack([inputs.decode(wav(hertz), name="a") for hertz in (300.0, 900.0)]))
    both = np.asarray(view(content, jnp.array([4, 9]), jax.random.key(1)))
    swapped = np.asarray(view(content[::-1], jnp.array([9, 4]), jax.random.key(1)))
    np.testing.assert_allclose(both, swapped[::-1], atol=1e-4)
    assert np.abs(both - np.asarray(view(content, jnp.array([4, 9]), jax.random.key(2)))).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "option", "name"),
    [
        *(("audio", "image_augmentation", field.name) for field in fields(ImageAugmentation)),
        *(("image", "audio_augmentation", field.name) for field in fields(AudioAugmentation)),
    ],
)
def test_an_augmentation_of_the_other_kind_is_refused(kind: str, option: str, name: str) -> None:
    augmentation = replace(getattr(OPTIONS, option), **{name: 1})
    with pytest.raises(UserError, match=f"config.augment.{name}=1"):
        make_preprocessor(replace(OPTIONS, **{option: augmentation}), kind)


def test_a_recording_has_no_mirror_image_and_an_unknown_spectrogram_is_named() -> None:
    with pytest.raises(UserError, match=r"config.evaluate.flip"):
        make_preprocessor(replace(OPTIONS, flip_average=True), "audio")
    with pytest.raises(UserError, match="cepstrum"):
        make_preprocessor(replace(OPTIONS, spectrogram="cepstrum"), "audio")
