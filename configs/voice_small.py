"""Gender, or a folder's own classes, from recordings: log-mel spectrograms and the small CNN, for two cores.

  python launch.py --config configs/voice_small.py --manual_dir DIR --workdir runs/voices
  python launch.py --config configs/voice_small.py:ravdess --manual_dir DIR --workdir runs/ravdess \
      --folds all --protocols paper,disjoint --repeats 3
  python launch.py --config configs/voice_small.py:classes --manual_dir DIR --workdir runs/classes \
      --protocols paper,disjoint
  python launch.py --config configs/voice_small.py:synthetic --workdir runs/synthetic_voices --protocols paper,disjoint

DIR holds a folder for each class, `<gender>` or `<gender>_<age>`. Name the speakers, or a split cannot keep them
apart: --config.dataset.speaker_pattern='/([^_/]+)_', for example, takes the speaker from the beginning of a file's
name. `emodb` and `ravdess` know their speakers and use five folds of speakers. `classes` and `emodb_classes` learn the
folders' own classes instead of gender; so does `synthetic`, on 1,280 synthetic voices of 32 speakers: it tests the
pipeline and says nothing about people. `png` learns gender from images of spectrograms that are rendered when the data
are prepared, as in two papers, instead of in the step.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError

_ARGUMENTS = ("folders", "emodb", "ravdess", "classes", "emodb_classes", "png", "synthetic")


def get_config(argument: str = "folders") -> ConfigDict:
    if argument not in _ARGUMENTS:
        raise UserError(f"configs/voice_small.py has no argument {argument!r}; choose one of: {', '.join(_ARGUMENTS)}")
    config = recipe.base()
    config.dataset.update(name="voice_age_gender", image_size=64)
    config.split.stratify = "gender"
    config.heads.age_group.weight = 0.0
    config.heads.age.weight = 0.0
    config.model.update(variant="thin", dropout=0.4)
    config.augment.update(time_shift=0.2, gain=6.0, noise=0.05, time_mask=0.1, frequency_mask=0.1)
    config.optimizer.update(
        name="adamw", learning_rate=1e-3, schedule="cosine", warmup=0.1, weight_decay=0.05, clip_norm=1.0
    )
    config.train.update(batch_size=32, epochs=40.0, steps_per_dispatch=10, ema_decay=0.98)
    config.evaluate.update(every_epochs=20.0, select="gender/accuracy")
    if argument in ("emodb", "ravdess"):
        config.dataset.config = argument
        config.split.folds = 5
    if argument in ("classes", "emodb_classes", "synthetic"):
        config.heads.gender.weight = 0.0
        config.heads.class_name.weight = 1.0
        config.split.stratify = "class"
        config.evaluate.select = "class_name/accuracy"
    if argument == "png":
        config.dataset.config = argument
        config.augment.update(time_shift=0.0, gain=0.0, noise=0.0, time_mask=0.0, frequency_mask=0.0)
    if argument == "emodb_classes":
        config.dataset.config = "emodb"
    if argument == "synthetic":
        config.dataset.synthetic = 1280
    return config
