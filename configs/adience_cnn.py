"""Adience in five folds: age group and gender together, by Levi & Hassner's net (2015) and by a plain CNN.

  python launch.py --config configs/adience_cnn.py --manual_dir DIR --workdir runs/adience --folds all
  python launch.py --config configs/adience_cnn.py:cpu --manual_dir DIR --workdir runs/adience_cpu --folds all
  python launch.py --config configs/adience_cnn.py:synthetic --workdir runs/adience_synthetic --folds all
  python launch.py --config configs/adience_cnn.py:epochs20 --manual_dir DIR --workdir runs/both --folds all \
      --protocols paper,disjoint

DIR holds fold_0_data.txt to fold_4_data.txt and aligned/ (or faces/, with --config.dataset.config=faces). Each fold
is the test part once; validation is a part of the other four with no photographer in common (`disjoint`).

Without an argument: Levi & Hassner's training at 227x227, with their initialisation, batch 50, momentum, and the
learning rate divided by ten after each fifth of about 50,000 steps; one net for both labels, where they trained one
for each, and random shifts instead of crops. `epochs20` and `epochs40` are the two trainings of a report on Adience
that states little more than their epochs and batches of 256 and 512: the variant `plain` of small_cnn. `cpu` is for
two cores. `synthetic` is `cpu` on 2,000 synthetic faces: it tests the pipeline and says nothing about people.

Levi & Hassner report age group 0.507 ± 0.051, one-off 0.847 ± 0.022, gender 0.868 ± 0.014 over the folds; the other
report's 0.835 is of a random split. Adience's photographs were not available: no metric of ours is on them yet.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "levi_hassner") -> ConfigDict:
    config = recipe.base()
    config.dataset.name = "adience"
    config.split.folds = 5
    config.split.validation_fraction = 0.1
    config.age_groups = "levi_hassner"
    config.heads.age.weight = 0.0  # ranges are annotated, not years
    config.augment.flip = True
    if argument == "levi_hassner":
        config.dataset.image_size = 227
        config.model.update(variant="levi_hassner", init="published")
        config.augment.shift = 0.06  # 256 to 227 pixels
        config.optimizer.update(name="sgd", learning_rate=1e-3, schedule="step", weight_decay=5e-4)
        config.train.update(batch_size=50, epochs=179.0)
        config.evaluate.update(every_epochs=5.0, flip=True)
    elif argument in ("epochs20", "epochs40"):
        config.dataset.image_size = 128
        config.model.variant = "plain"
        config.train.update(batch_size=256, epochs=20.0)
        if argument == "epochs40":
            config.train.update(batch_size=512, epochs=40.0)
    elif argument in ("cpu", "synthetic"):
        _two_cores(config)
        if argument == "synthetic":
            config.dataset.synthetic = 2000
            config.train.epochs = 12.0
    else:
        raise UserError(
            f"configs/adience_cnn.py has no argument {argument!r}; choose one of: levi_hassner, epochs20, epochs40, "
            "cpu, synthetic"
        )
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.dataset.image_size = 64
    config.model.update(variant="thin", dropout=0.4)
    config.augment.erase = 0.25
    config.train.update(epochs=20.0, ema_decay=0.995)
    config.evaluate.update(every_epochs=4.0, flip=True)
