"""What the network sees of pictures and of recordings, and recipes that ask a kind for what it does not have."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from PIL import Image

from agegender_jax import recipe as recipes
from agegender_jax.data.preprocess import (
    AUDIO_AUGMENTATIONS,
    IMAGE_AUGMENTATIONS,
    AudioPreprocessor,
    ImagePreprocessor,
    make_preprocessor,
    preprocessor_as_trained,
)
from agegender_jax.errors import UserError
from agegender_jax.mesh import make_mesh

STILL = jnp.array(False)


@pytest.fixture
def recipe() -> ConfigDict:
    made = recipes.base()
    made.dataset.image_size = 32
    made.audio.seconds = 0.5
    return made


def wav(hertz: float, rate: int = 16000, seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    time = np.arange(int(rate * seconds)) / rate
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * hertz * time), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def test_a_picture_is_scaled_and_normalised(recipe: ConfigDict) -> None:
    inputs = make_preprocessor(recipe, "image")
    assert isinstance(inputs, ImagePreprocessor)
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (255, 0, 51)).save(buffer, "PNG")
    content = inputs.decode(buffer.getvalue(), "a")
    assert (content.shape, content.dtype) == (inputs.shape, inputs.dtype) == ((32, 32, 3), np.uint8)
    seen = inputs.eval_transform(jnp.asarray(content)[None], STILL)
    # (1 - .5) / .25, (0 - .5) / .25, (.2 - .5) / .25
    np.testing.assert_allclose(np.asarray(seen)[0, 5, 7], [2.0, -2.0, -1.2], atol=1e-6)


def test_a_recording_becomes_a_picture_of_its_pitch(recipe: ConfigDict) -> None:
    inputs = make_preprocessor(recipe, "audio")
    assert isinstance(inputs, AudioPreprocessor)
    content = np.stack([inputs.decode(wav(hertz), "a") for hertz in (200.0, 3000.0)])
    assert (content.shape, content.dtype) == ((2, *inputs.shape), inputs.dtype) == ((2, 8000), np.int16)
    seen = np.asarray(jax.jit(inputs.plain)(jnp.asarray(content), STILL))
    assert (seen.shape, seen.dtype) == ((2, 32, 32, 3), np.float32)
    assert seen.min() >= -2
    assert seen.max() <= 2
    loudest = seen[:, :, 16, 0].argmax(1)  # row 0 is the highest frequency
    assert loudest[0] > loudest[1] + 10
    np.testing.assert_allclose(seen[..., 0], seen[..., 2])
    pictures = inputs.pictures(content)
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(pictures / 255 * 4 - 2, seen, atol=0.01)
    mirrored = inputs.eval_transform(jnp.asarray(content), jnp.array(True))
    np.testing.assert_allclose(mirrored, seen, atol=1e-5)  # time has a direction


def test_what_people_look_at_is_made_on_one_device(recipe: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process: one of several draws, and the devices of the others wait for no program of it."""
    inputs = make_preprocessor(recipe, "audio")
    assert isinstance(inputs, AudioPreprocessor)
    used = []

    def image(waves: jax.Array) -> jax.Array:
        used.append(waves.sharding.device_set)
        return jnp.zeros((len(waves), 32, 32, 3))

    monkeypatch.setattr(inputs, "_rendered", image)
    with jax.set_mesh(make_mesh()):
        inputs.pictures(np.zeros((2, 8000), np.int16))
    assert used == [{jax.local_devices()[0]}]


def test_without_augmentation_the_view_is_the_plain_one(recipe: ConfigDict) -> None:
    inputs = make_preprocessor(recipe, "audio")
    content = jnp.asarray(inputs.decode(wav(500.0), "a"))[None]
    rows, key = jnp.array([3]), jax.random.key(0)
    np.testing.assert_allclose(
        inputs.train_transform(content, rows, key), inputs.eval_transform(content, STILL), atol=1e-4
    )


def test_a_view_depends_on_the_key_and_the_row_alone(recipe: ConfigDict) -> None:
    recipe.augment.update(time_shift=0.2, noise=0.2, time_mask=0.2, frequency_mask=0.2)
    inputs = make_preprocessor(recipe, "audio")
    view = jax.jit(inputs.augmented)
    content = jnp.asarray(np.stack([inputs.decode(wav(hertz), "a") for hertz in (300.0, 900.0)]))
    both = np.asarray(view(content, jnp.array([4, 9]), jax.random.key(1)))
    swapped = np.asarray(view(content[::-1], jnp.array([9, 4]), jax.random.key(1)))
    np.testing.assert_allclose(both, swapped[::-1], atol=1e-4)
    assert np.abs(both - np.asarray(view(content, jnp.array([4, 9]), jax.random.key(2)))).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *(("audio", {name: True if name == "flip" else 0.1}) for name in IMAGE_AUGMENTATIONS),
        *(("image", {name: 0.1}) for name in AUDIO_AUGMENTATIONS),
    ],
)
def test_what_a_kind_does_not_have_is_refused(recipe: ConfigDict, kind: str, changes: dict[str, Any]) -> None:
    recipe.augment.update(changes)
    with pytest.raises(UserError, match=f"config.augment.{next(iter(changes))}=.*set it to 0"):
        make_preprocessor(recipe, kind)


def test_a_recording_has_no_mirror_image_and_an_unknown_spectrogram_is_named(recipe: ConfigDict) -> None:
    recipe.evaluate.flip = True
    with pytest.raises(UserError, match=r"config.evaluate.flip"):
        make_preprocessor(recipe, "audio")
    recipe.evaluate.flip = False
    recipe.audio.spectrogram = "cepstrum"
    with pytest.raises(UserError, match="log_mel"):
        make_preprocessor(recipe, "audio")


def test_what_the_recipe_only_names_is_kept_whole(recipe: ConfigDict) -> None:
    metadata = make_preprocessor(recipe, "audio").metadata["spectrogram"]
    assert (metadata["name"], metadata["sample_rate"], metadata["seconds"]) == ("log_mel", 16000, 0.5)
    assert make_preprocessor(recipe, "image").metadata == {}


def test_inputs_are_those_that_a_run_was_trained_with(recipe: ConfigDict) -> None:
    metadata = make_preprocessor(recipe, "audio").metadata
    assert isinstance(preprocessor_as_trained(recipe, metadata | {"kind": "audio"}, "run"), AudioPreprocessor)
    assert isinstance(
        preprocessor_as_trained(recipe, {}, "run"), ImagePreprocessor
    )  # of a version that knew nothing else
    other = {"kind": "audio", "spectrogram": metadata["spectrogram"] | {"hop": 3}}
    with pytest.raises(UserError, match=r"^run was trained on spectrograms that this version makes in another way"):
        preprocessor_as_trained(recipe, other, "run")
