"""Converts a recipe to the plain options that the data are opened and preprocessed with."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from agegender_jax.data.dataset import DataOptions, DatasetOptions, LoadingOptions
from agegender_jax.data.preprocess import AudioAugmentation, ImageAugmentation, PreprocessOptions

_BUILDER_OPTIONS = ("label_pattern", "speaker_pattern", "recording_pattern", "csv", "max_bad", "crop")


def data_options(recipe: ConfigDict) -> DataOptions:
    """Returns what `data.dataset.open_dataset` needs of a recipe."""
    dataset = recipe.dataset
    builder = {name: dataset[name] for name in _BUILDER_OPTIONS if dataset[name]}
    examples = recipe.train.batch_size * recipe.train.steps_per_dispatch
    loading = LoadingOptions(recipe.compute.loader, examples, recipe.evaluate.batch_size, recipe.compute.model)
    options = DatasetOptions(dataset.name, dataset.config, dataset.synthetic, builder)
    return DataOptions(options, preprocess_options(recipe), loading)


def preprocess_options(recipe: ConfigDict) -> PreprocessOptions:
    """Returns what `data.preprocess.make_preprocessor` needs of a recipe."""

    def chosen(augmentation: type) -> dict[str, Any]:
        return {field.name: recipe.augment[field.name] for field in dataclasses.fields(augmentation)}

    return PreprocessOptions(
        image_size=recipe.dataset.image_size,
        mean=recipe.preprocess.mean,
        std=recipe.preprocess.std,
        image_augmentation=ImageAugmentation(**chosen(ImageAugmentation)),
        audio_augmentation=AudioAugmentation(**chosen(AudioAugmentation)),
        spectrogram=recipe.audio.spectrogram,
        seconds=recipe.audio.seconds,
        flip_average=recipe.evaluate.flip,
    )
