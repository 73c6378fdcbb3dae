"""Converts a recipe to plain options, for data, model and training."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from agegender_jax.data.dataset import DataOptions, DatasetOptions, LoadingOptions
from agegender_jax.data.preprocess import AudioAugmentation, ImageAugmentation, PreprocessOptions
from agegender_jax.models.backbones import BackboneOptions
from agegender_jax.models.heads import HeadOptions
from agegender_jax.models.model import ModelOptions

_BUILDER_OPTIONS = ("label_pattern", "speaker_pattern", "recording_pattern", "csv", "max_bad", "crop")
_BACKBONE_OPTIONS = ("variant", "width", "pooling", "init", "dropout", "spatial_dropout", "drop_path")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The recipe's section `optimizer`, key by key."""

    name: str
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    clip_norm: float
    freeze: str
    unfreeze_epoch: float


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """Numbers of steps of a run.

    All dispatches have one shape and are compiled once, also where a run is resumed: `total` and `every` are multiples
    of `dispatch`.

    Attributes:
      total: optimizer steps in all.
      every: steps between evaluations.
      dispatch: steps in one call of the device.
      steps_per_epoch: not rounded.
    """

    total: int
    every: int
    dispatch: int
    steps_per_epoch: float

    def at_most(self, dispatches: int | None) -> "StepCounts":
        """Returns the numbers of a run that ends after so many dispatches; None changes nothing."""
        if dispatches is None:
            return self
        return dataclasses.replace(self, total=min(self.total, dispatches * self.dispatch))


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a run trains and evaluates.

    Attributes:
      seed: of parameters, batch order, augmentation and dropout.
      batch_size: examples in an optimizer step.
      microbatches: pieces that a batch is processed in, one after another.
      steps_per_dispatch: steps in one call of the device.
      ema_decay: of the average of parameters that is evaluated; 0 evaluates the last ones.
      remat: whether activations are computed again for the gradient.
      fsdp: whether parameters and the optimizer's state are split over the devices.
      epochs: of training; `step_counts` rounds to whole dispatches.
      every_epochs: between evaluations.
      flip_average: whether the final metrics average over each image and its mirror image.
      select: validation metric that the best checkpoint is chosen by.
      use_best: whether the final metrics are of the best checkpoint, not the last.
      optimizer: options of the optimizer.
      split: keyword arguments of `split_dataset`.
    """

    seed: int
    batch_size: int
    microbatches: int
    steps_per_dispatch: int
    ema_decay: float
    remat: bool
    fsdp: bool
    epochs: float
    every_epochs: float
    flip_average: bool
    select: str
    use_best: bool
    optimizer: OptimizerOptions
    split: Mapping[str, Any]

    def step_counts(self, examples: int) -> StepCounts:
        """Computes the numbers of steps for so many training examples."""
        dispatch = self.steps_per_dispatch
        epoch = examples / self.batch_size / dispatch  # in dispatches
        total = max(1, round(self.epochs * epoch))
        every = max(1, min(total, round(self.every_epochs * epoch)))
        return StepCounts(total * dispatch, every * dispatch, dispatch, examples / self.batch_size)


def train_options(recipe: ConfigDict) -> TrainOptions:
    """Returns how a recipe trains and evaluates."""
    train, evaluate = recipe.train, recipe.evaluate
    return TrainOptions(
        seed=recipe.seed,
        batch_size=train.batch_size,
        microbatches=train.microbatches,
        steps_per_dispatch=train.steps_per_dispatch,
        ema_decay=train.ema_decay,
        remat=recipe.compute.remat,
        fsdp=recipe.compute.fsdp,
        epochs=train.epochs,
        every_epochs=evaluate.every_epochs,
        flip_average=evaluate.flip,
        select=evaluate.select,
        use_best=evaluate.use == "best",
        optimizer=OptimizerOptions(**recipe.optimizer.to_dict()),
        split=recipe.split.to_dict(),
    )


def model_options(recipe: ConfigDict) -> ModelOptions:
    """Returns what a recipe's heads and model are built with."""
    model = recipe.model
    return ModelOptions(
        seed=recipe.seed,
        backbone=model.backbone,
        backbone_options=BackboneOptions(
            image_size=recipe.dataset.image_size,
            outputs=0,  # until the heads are built
            dtype=jnp.dtype(model.dtype),
            **{name: model[name] for name in _BACKBONE_OPTIONS},
        ),
        gender_to_age=model.gender_to_age,
        pretrained=model.pretrained,
        pretrained_leaky=model.pretrained_leaky,
        heads=HeadOptions(recipe.age_groups, recipe.heads.to_dict(), routed=model.backbone == "routed"),
    )


def data_options(recipe: ConfigDict) -> DataOptions:
    """Returns what a recipe's dataset is opened, preprocessed and loaded with."""
    dataset = recipe.dataset
    builder = {name: dataset[name] for name in _BUILDER_OPTIONS if dataset[name]}

    def augmentation(kind: type) -> dict[str, Any]:
        return {field.name: recipe.augment[field.name] for field in dataclasses.fields(kind)}

    return DataOptions(
        dataset=DatasetOptions(dataset.name, dataset.config, dataset.synthetic, builder),
        preprocess=PreprocessOptions(
            image_size=dataset.image_size,
            mean=recipe.preprocess.mean,
            std=recipe.preprocess.std,
            image_augmentation=ImageAugmentation(**augmentation(ImageAugmentation)),
            audio_augmentation=AudioAugmentation(**augmentation(AudioAugmentation)),
            spectrogram=recipe.audio.spectrogram,
            seconds=recipe.audio.seconds,
            flip_average=recipe.evaluate.flip,
        ),
        loading=LoadingOptions(
            recipe.compute.loader,
            dispatch_examples=recipe.train.batch_size * recipe.train.steps_per_dispatch,
            eval_batch=recipe.evaluate.batch_size,
            devices_per_copy=recipe.compute.model,
        ),
    )
