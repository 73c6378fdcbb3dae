"""Plain options of training, read from the recipe in this one place."""

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a run trains and evaluates.

    Attributes:
      seed: of parameters, batch order, augmentation and dropout.
      batch_size: examples in an optimizer step.
      microbatches: pieces that a batch is processed in, one after another.
      ema_decay: of the average of parameters that is evaluated; 0 evaluates the last ones.
      remat: whether activations are computed again for the gradient.
      fsdp: whether parameters and the optimizer's state are split over the devices.
      epochs: as asked for; the schedule rounds to whole dispatches.
      flip: whether the final metrics average over each image and its mirror image.
      select: validation metric that the best checkpoint is chosen by.
      use_best: whether the final metrics are of the best checkpoint, not the last.
    """

    seed: int
    batch_size: int
    microbatches: int
    ema_decay: float
    remat: bool
    fsdp: bool
    epochs: float
    flip: bool
    select: str
    use_best: bool

    @classmethod
    def from_recipe(cls, recipe: ConfigDict) -> "TrainOptions":
        """Reads the sections `train`, `evaluate` and `compute`."""
        return cls(
            seed=recipe.seed,
            batch_size=recipe.train.batch_size,
            microbatches=recipe.train.microbatches,
            ema_decay=recipe.train.ema_decay,
            remat=recipe.compute.remat,
            fsdp=recipe.compute.fsdp,
            epochs=recipe.train.epochs,
            flip=recipe.evaluate.flip,
            select=recipe.evaluate.select,
            use_best=recipe.evaluate.use == "best",
        )


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

    @classmethod
    def from_recipe(cls, recipe: ConfigDict) -> "OptimizerOptions":
        """Reads the section `optimizer`."""
        return cls(**recipe.optimizer.to_dict())


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How many steps a run takes.

    Both are whole multiples of `dispatch`, so every dispatch has one shape and is compiled once, and a resumed run
    divides its steps where the first start did.

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

    @classmethod
    def from_recipe(cls, recipe: ConfigDict, examples: int) -> "Schedule":
        """Computes the schedule for so many training examples."""
        dispatch = recipe.train.steps_per_dispatch
        epoch = examples / recipe.train.batch_size / dispatch  # in dispatches
        total = max(1, round(recipe.train.epochs * epoch))
        every = max(1, min(total, round(recipe.evaluate.every_epochs * epoch)))
        return cls(total * dispatch, every * dispatch, dispatch, examples / recipe.train.batch_size)

    def at_most(self, dispatches: int | None) -> "Schedule":
        """Returns the schedule cut to so many dispatches; None leaves it whole."""
        if dispatches is None:
            return self
        return dataclasses.replace(self, total=min(self.total, dispatches * self.dispatch))
