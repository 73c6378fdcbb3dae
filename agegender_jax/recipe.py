"""Recipes: everything that determines a run, as one `ConfigDict`.

`base()` has every key with its default; a file in `configs/` changes some. Keys and types are locked, so a mistyped key
is an error, and `check` refuses a bad value before anything is read or compiled.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from agegender_jax.data.partition import STRATA
from agegender_jax.data.spectrogram import SPECTROGRAMS
from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.models.heads import HEADS
from agegender_jax.models.model import DTYPES, GENDER_TO_AGE
from agegender_jax.models.registry import INITS, POOLINGS
from agegender_jax.splits import PROTOCOLS


def base() -> ConfigDict:
    """Returns a recipe with every key at its default."""
    recipe = ConfigDict(
        {
            "seed": 0,  # of parameters, batch order and augmentation; the split has its own
            "dataset": {
                "name": "utkface",
                "config": "",  # of the dataset's builder, where it has several: "" is its first
                "image_size": 256,  # pixels, of images and of spectrograms
                # "haar" crops to the largest detected face, and drops an image without one (docs/DATASETS.md)
                "crop": "",
                "synthetic": 0,  # if not 0: this many synthetic examples, in the dataset's own format
                # Of a folder of recordings, where they differ from the configuration's (regular expressions):
                "label_pattern": "",  # on a class folder's name, groups `gender` and `age`
                "speaker_pattern": "",  # on a file's path
                "recording_pattern": "",  # on a file's path: the recording that it is a piece of
                "csv": "",  # file with columns path, gender, age, speaker instead of the patterns
                "max_bad": 0.0,  # largest share of files that may be missing or unusable; 0 is the builder's own
            },
            "audio": {  # of recordings
                "spectrogram": "log_mel",  # a name of data/spectrogram.py
                "seconds": 0.0,  # of each recording; 0 is the spectrogram's own
            },
            "split": {
                "protocol": "disjoint",  # `paper` ignores subjects and identical files: leaky
                "stratify": "age_group",  # balanced over the parts: `age_group`, `gender` or `class`
                "seed": 0,
                "test_fraction": 0.2,
                "validation_fraction": 0.15,  # of what testing leaves
                "folds": 0,  # if not 0: k-fold, and `fold` is the one to test on
                "fold": 0,
            },
            "age_groups": "nearest",
            "preprocess": {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},  # of full scale, by channel
            "model": {
                "backbone": "small_cnn",  # a name of models/backbones
                "variant": "",  # of the backbone, where it has several; "" is its first
                "width": 1.0,  # factor of the channels, where the backbone has it
                "pooling": "default",  # from the last feature map to an embedding; `default` is the backbone's own
                "init": "default",  # `published`: the initialisation of the paper, where a better one is the default
                "dropout": 0.5,  # after or before dense layers, where the backbone has it
                "spatial_dropout": 0.15,  # of whole channels, where the backbone has it
                "drop_path": 0.0,  # of whole residual branches, where the backbone has it (stochastic depth)
                "gender_to_age": "off",  # `joined`: the age heads see the gender's logits; `stopped`: without gradient
                "pretrained": "",  # weights to start from: a file, a run's directory, or a name of models/pretrained
                # True: also if that run has seen examples of validation or test; the new run is then marked leaky
                "pretrained_leaky": False,
                "dtype": "float32",  # of the arithmetic; parameters and statistics are always float32
            },
            "heads": {name: dict(head.options) for name, head in HEADS.items()},  # a weight of 0 leaves a head out
            "augment": {
                # of images
                "flip": False,  # mirrored left and right with probability 1/2
                "shift": 0.0,  # at most, share of the size
                "zoom": 0.0,  # at most: 0.1 is a magnification of 1/1.1 to 1.1
                "brightness": 0.0,  # at most, share of full scale
                "contrast": 0.0,  # at most, relative
                "saturation": 0.0,  # at most, relative
                "erase": 0.0,  # probability of a grey rectangle
                # of recordings
                "time_shift": 0.0,  # share of the length
                "gain": 0.0,  # dB
                "noise": 0.0,  # relative to the recording's own level
                "time_mask": 0.0,  # share of the length
                "frequency_mask": 0.0,  # share of the bands
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 1e-4,
                "schedule": "constant",
                "warmup": 0.0,  # share of all steps
                "weight_decay": 0.0,  # on kernels alone
                "clip_norm": 0.0,  # of the gradient; 0 leaves it alone
                "freeze": "",  # parameters whose path this pattern finds stay as they are, such as `backbone/trunk`
                "unfreeze_epoch": 0.0,  # until then; 0 is for good
            },
            "train": {
                "batch_size": 32,
                "epochs": 30.0,
                "steps_per_dispatch": 20,  # run by one call of the device, without the host
                "microbatches": 1,  # a batch is processed in so many, one after another, in less memory
                "ema_decay": 0.0,  # of the average of parameters that is evaluated; 0 evaluates the last ones
            },
            "evaluate": {
                "batch_size": 256,
                "every_epochs": 1.0,
                "flip": False,  # average over each image and its mirror image, in the final evaluation
                "select": "age_group/accuracy",  # validation metric that the best checkpoint is chosen by
                "use": "last",  # which checkpoint is evaluated at the end: `last` or `best`
                "report": True,  # write report/index.html at the end: metrics with intervals, by group
            },
            "compute": {  # may change when a run is resumed
                "loader": "auto",  # `resident`: the whole dataset on every device; `stream`: decoded as it is needed
                "model": 1,  # devices that the dense layers of one copy of the model are split over
                "fsdp": False,  # parameters and the optimizer's state are split over the devices, not copied
                "remat": False,  # activations are computed again for the gradient, not kept: less memory, more time
            },
            "checkpoint": {"keep": 2},  # the newest so many, and the best; saved after each evaluation
        }
    )
    return recipe.lock()


def for_two_cores(recipe: ConfigDict) -> None:
    """Sets what the shipped recipes for two CPU cores share: augmentation, optimizer and batch sizes."""
    recipe.augment.update(shift=0.06, zoom=0.1, brightness=0.1, contrast=0.2, saturation=0.2)
    recipe.optimizer.update(
        name="adamw", learning_rate=1.5e-3, schedule="cosine", warmup=0.1, weight_decay=0.05, clip_norm=1.0
    )
    recipe.train.batch_size = 64
    recipe.evaluate.batch_size = 128


def choices() -> dict[str, Collection[str]]:
    """Returns the choices of each key that has some, from the registries."""
    return {
        "dataset.crop": ("", "haar"),
        "split.protocol": PROTOCOLS,
        "split.stratify": STRATA,
        "audio.spectrogram": SPECTROGRAMS,
        "age_groups": AGE_GROUPS,
        "model.backbone": BACKBONES,
        "model.pooling": POOLINGS,
        "model.init": INITS,
        "model.gender_to_age": GENDER_TO_AGE,
        "model.dtype": DTYPES,
        "evaluate.use": ("last", "best"),
        "compute.loader": ("auto", "resident", "stream"),
        **{f"heads.{name}.{key}": values for name, head in HEADS.items() for key, values in head.choices.items()},
    }


_AT_LEAST = {"dataset.image_size": 32}
_AT_LEAST |= dict.fromkeys(("train.batch_size", "train.steps_per_dispatch", "train.microbatches", "compute.model"), 1)
_AT_LEAST |= dict.fromkeys(("evaluate.batch_size", "checkpoint.keep"), 1)
_AT_LEAST |= dict.fromkeys(("seed", "split.seed", "split.folds", "split.fold", "dataset.synthetic", "audio.seconds"), 0)
_AT_LEAST |= dict.fromkeys(("optimizer.weight_decay", "optimizer.clip_norm", "optimizer.unfreeze_epoch"), 0)
_AT_LEAST |= dict.fromkeys(("augment.zoom", "augment.gain", "augment.noise"), 0)
_ABOVE_ZERO = ("train.epochs", "optimizer.learning_rate", "evaluate.every_epochs", "heads.age.spread", "model.width")
_SHARES = ["optimizer.warmup", "train.ema_decay", "dataset.max_bad"]
_SHARES += [f"augment.{name}" for name in ("shift", "brightness", "contrast", "saturation", "erase")]
_SHARES += [f"augment.{name}" for name in ("time_shift", "time_mask", "frequency_mask")]
_BELOW_ONE = ("model.dropout", "model.spatial_dropout", "model.drop_path")  # 1 would divide by zero, or leave nothing
_FRACTIONS = ("split.test_fraction", "split.validation_fraction")
_SEEDS = ("seed", "split.seed")
_MAX_SEED = 2**31 - 1  # JAX takes 32 bits, and two seeds must never mean one


def check(recipe: ConfigDict) -> None:
    """Checks every value that has a range or a list of choices.

    Raises:
      UserError: names the key, its value and what is accepted.
    """
    values = dict(_flat(recipe.to_dict()))

    def refuse(key: str, problem: str, *, accepted: str) -> None:
        raise UserError(f"config.{key}={values[key]!r} {problem}; it must be {accepted}.")

    for key, value in values.items():
        if not all(math.isfinite(v) for v in (value if isinstance(value, tuple) else (value,)) if _is_number(v)):
            refuse(key, "is not finite", accepted="a finite number")
    for key, known in choices().items():
        if values[key] not in known:
            refuse(key, "is not known", accepted=f"one of: {', '.join(name or repr('') for name in known)}")
    for key, least in (_AT_LEAST | {f"heads.{name}.weight": 0 for name in HEADS}).items():
        if not values[key] >= least:
            refuse(key, "is too small", accepted=f"at least {least}")
    for key in _ABOVE_ZERO:
        if not values[key] > 0:
            refuse(key, "is too small", accepted="above 0")
    for key in _SHARES:
        if not 0 <= values[key] <= 1:
            refuse(key, "is out of range", accepted="between 0 and 1")
    smoothed = (f"heads.{name}.label_smoothing" for name, head in HEADS.items() if "label_smoothing" in head.options)
    for key in (*_BELOW_ONE, *smoothed):
        if not 0 <= values[key] < 1:
            refuse(key, "is out of range", accepted="at least 0 and below 1")
    for key in _FRACTIONS:
        if not 0 < values[key] < 1:
            refuse(key, "is out of range", accepted="above 0 and below 1")
    for key in _SEEDS:
        if values[key] > _MAX_SEED:
            refuse(key, "is too large", accepted=f"at most {_MAX_SEED}")
    folds = values["split.folds"]
    if folds == 1:
        refuse("split.folds", "is no cross-validation", accepted="0 (one split) or at least 2")
    if values["split.fold"] >= max(folds, 1):
        refuse("split.fold", f"is too large for config.split.folds={folds}", accepted=f"at most {max(folds, 1) - 1}")
    for key in ("mean", "std"):
        value = recipe.preprocess[key]
        if len(value) != 3 or not all(_is_number(v) for v in value) or (key == "std" and min(value) <= 0):
            kind = "positive numbers" if key == "std" else "numbers"
            refuse(f"preprocess.{key}", "is not valid", accepted=f"three {kind}, one for each channel")
    if not any(values[f"heads.{name}.weight"] for name in HEADS):
        raise UserError("Every head has weight 0, so there is nothing to train; set config.heads.NAME.weight above 0.")
    _check_effects(values)


def _check_effects(values: Mapping[str, Any]) -> None:
    """Refuses options without effect; those of a backbone or a kind of data are refused by its spec or preprocessor."""
    defaults, loss = dict(_flat(base().to_dict())), values["heads.age.loss"]
    idle = {
        key: f"config.heads.{key.split('.')[1]}.weight is 0"
        for key in values
        if key.startswith("heads.") and not key.endswith(".weight") and not values[f"{key.rpartition('.')[0]}.weight"]
    }
    if loss != "dldl":
        idle["heads.age.spread"] = f"config.heads.age.loss is {loss!r}, and only 'dldl' has a spread"
    if loss in ("l1", "huber"):
        idle["heads.age.decoding"] = f"config.heads.age.loss is {loss!r}, which predicts the years themselves"
    if values["optimizer.name"] == "adam":
        idle["optimizer.weight_decay"] = "config.optimizer.name is 'adam', and only 'adamw' and 'sgd' have weight decay"
    if not values["optimizer.freeze"]:
        idle["optimizer.unfreeze_epoch"] = "config.optimizer.freeze is empty"
    if folds := values["split.folds"]:
        idle["split.test_fraction"] = f"config.split.folds={folds} decides how large the test part is"
    if not values["model.pretrained"]:
        idle["model.pretrained_leaky"] = "config.model.pretrained is empty"
    for key, reason in idle.items():
        if (value := values[key]) != (default := defaults[key]):
            raise UserError(f"config.{key}={value} would do nothing: {reason}; leave it at {default}.")


def to_json(recipe: ConfigDict, *, paths: bool = True) -> str:
    """Returns the recipe as JSON text, keys sorted; `from_json` reads it back.

    Args:
      recipe: not changed.
      paths: whether values that may be paths of this machine are kept; no head depends on them.
    """
    tree = recipe.to_dict()
    if not paths:
        tree["model"]["pretrained"] = tree["dataset"]["csv"] = ""
    return json.dumps(tree, indent=1, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """Returns the recipe of `to_json`'s text; keys that are newer than the text take their defaults.

    Raises:
      ValueError: the text is no recipe, or holds a key or a type that this version does not know.
    """
    recipe = base()
    try:
        recipe.update(json.loads(text))
    except (AttributeError, KeyError, TypeError) as error:  # ConfigDict's messages may have several lines
        raise ValueError(" ".join(str(error.args[0] if error.args else error).split())) from error
    for key in ("mean", "std"):
        recipe.preprocess[key] = tuple(recipe.preprocess[key])
    return recipe


def leaves(recipe: ConfigDict) -> dict[str, Any]:
    """Returns every value of a recipe as in JSON, by its key such as `train.epochs`."""
    return dict(_flat(json.loads(to_json(recipe))))


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns the differences of two recipes, one line a key: `key: old -> new`.

    >>> other = base(); other.train.epochs = 3.0
    >>> differences(base(), other)
    ['train.epochs: 30.0 -> 3.0']
    """
    a, b = leaves(old), leaves(new)
    return [
        f"{key}: {a.get(key, '(absent)')} -> {b.get(key, '(absent)')}"
        for key in sorted(a.keys() | b.keys())
        if key not in a or key not in b or a[key] != b[key]
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
