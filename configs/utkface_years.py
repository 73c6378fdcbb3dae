"""Age in years by regression, and gender, from one net on UTKFace (Imamdin et al. 2025, table 1).

  python launch.py --config configs/utkface_years.py --manual_dir DIR --workdir runs/years
  python launch.py --config configs/utkface_years.py:cpu --manual_dir DIR --workdir runs/years_cpu
  python launch.py --config configs/utkface_years.py:thin --config.heads.age.loss=coral --manual_dir DIR \
      --workdir runs/coral --repeats 3

DIR holds UTKFace.tar.gz. Without an argument: the paper's net, cnn180 at 180x180, with batches of 32 and Adam, 80 % for
training and 20 % for testing; validation is taken from the training part. The age's loss is the absolute error in
years (the paper's `age_out_loss`), which is about ten times as large as the gender's cross-entropy and has a weight of
one tenth; the paper does not state its weights. Learning rate and epochs are this project's defaults.
agegender_jax/models/backbones/cnn180.py lists what is stated about the net and what is inferred.

`cpu` is the same net for two cores: 64x64, three epochs, a modern optimizer. `thin` compares the losses of age on one
small net and budget: 32x32, three epochs, the age alone, --config.heads.age.loss=NAME with NAME cross_entropy, dldl,
mean_variance, l1, huber, coral or corn. Gradients are not clipped there, so that the scale of a loss, which differs by
a factor of a hundred among them, changes nothing under Adam.

The paper reports an age loss of 5.7 and a gender accuracy of 0.925 in training, 6.7 and 0.89 in validation, and nothing
on images that were in neither. --config.split.protocol=paper splits at random as it does, copies included.
The full size has not been trained: it needs a GPU.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "paper") -> ConfigDict:
    config = recipe.base()
    config.model.update(backbone="cnn180", variant="age", dropout=0.3, spatial_dropout=0.15)
    config.heads.age_group.weight = 0.0
    config.heads.age.update(loss="l1", weight=0.1)
    config.evaluate.select = "age/mae"
    if argument == "paper":
        config.dataset.image_size = 180
    elif argument == "cpu":
        config.dataset.image_size = 64
        _two_cores(config)
        config.train.epochs = 3.0
    elif argument == "thin":
        config.dataset.image_size = 32
        config.model.update(backbone="small_cnn", variant="thin")
        config.heads.gender.weight = 0.0
        config.heads.age.update(loss="cross_entropy", weight=1.0)
        _two_cores(config)
        config.optimizer.clip_norm = 0.0
        config.train.epochs = 3.0
    else:
        raise UserError(f"configs/utkface_years.py has no argument {argument!r}; choose one of: paper, cpu, thin")
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.augment.flip = True
    config.train.ema_decay = 0.99
    config.evaluate.update(every_epochs=2.0, flip=True)
