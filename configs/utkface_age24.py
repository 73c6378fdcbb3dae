"""The 24 age classes of Imamdin et al. (2025, section 3.6), and gender, on UTKFace.

  python launch.py --config configs/utkface_age24.py --manual_dir DIR --workdir runs/age24
  python launch.py --config configs/utkface_age24.py:cpu --manual_dir DIR --workdir runs/age24_cpu

DIR holds UTKFace.tar.gz. The paper does not define its classes. Groups of five years, the scheme `five_year`, are
exactly 24 on UTKFace and are used here. The oldest have few images each, so read the balanced accuracy beside the
accuracy. --config.heads.age_group.loss=coral (or corn) uses the order of the classes,
--config.heads.age_group.class_weights=True weights them equally.

Without an argument: VGG16, the paper's age net, at 180x180, from scratch, one net for both genders; the paper's two
age nets behind a gender net are in configs/utkface_routed.py. Batch, rate and epochs are this project's defaults
(32, Adam 1e-4, 30). The paper reports no accuracy for its age classes.
`cpu` is for two cores: 64x64, the thin variant of small_cnn, three epochs, a modern optimizer.
The full size has not been trained: it needs a GPU.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "paper") -> ConfigDict:
    config = recipe.base()
    config.age_groups = "five_year"
    config.heads.age.weight = 0.0
    if argument == "paper":
        config.dataset.image_size = 180
        config.model.backbone = "vgg16"
    elif argument == "cpu":
        _two_cores(config)
    else:
        raise UserError(f"configs/utkface_age24.py has no argument {argument!r}; choose one of: paper, cpu")
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.dataset.image_size = 64
    config.model.update(variant="thin", dropout=0.4)
    config.heads.gender.weight = 2.0  # its loss is the smaller of the two by far
    config.augment.update(flip=True, erase=0.25)
    config.train.update(epochs=3.0, ema_decay=0.99)
    config.evaluate.update(every_epochs=2.0, flip=True)
