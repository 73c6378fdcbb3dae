"""The small CNN of Uraimov & Yoo (2022) on UTKFace: age group, age in years and gender together.

  python launch.py --config configs/utkface_small.py --manual_dir DIR --workdir runs/small
  python launch.py --config configs/utkface_small.py:weighted --manual_dir DIR --workdir runs/weighted
  python launch.py --config configs/utkface_small.py:cpu --manual_dir DIR --workdir runs/cpu

DIR holds UTKFace.tar.gz. Without an argument: the paper's training (variant `a`, 256x256, batch 32, Adam 1e-4, 30
epochs), `weighted` adds its class-weighted loss, and `cpu` is for two cores: 64x64, a thin variant, a modern optimizer.
The paper has no head for age in years; --config.heads.age.weight=0 leaves it out.

`cpu`, two CPU cores, protocol disjoint, 21,447 faces: 15 to 22 minutes; gender 0.930, age group (nearest) 0.681, age
MAE 5.18 years. The other two have not been trained: they need a GPU. The paper reports gender 0.887 and age group
0.613 (0.529 weighted) on the in-the-wild release, with its own split and a grouping that it does not name, so its
results cannot be compared with the above.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "paper") -> ConfigDict:
    config = recipe.base()  # its defaults are the paper's
    if argument == "paper":
        pass
    elif argument == "weighted":
        config.heads.age_group.class_weights = True
    elif argument == "cpu":
        _two_cores(config)
    else:
        raise UserError(f"configs/utkface_small.py has no argument {argument!r}; choose one of: paper, weighted, cpu")
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.dataset.image_size = 64
    config.model.update(variant="thin", dropout=0.4)
    config.heads.gender.weight = 2.0  # its loss is the smallest of the three by far
    config.heads.age.loss = "dldl"
    config.augment.update(flip=True, erase=0.25)
    config.train.update(epochs=26.0, ema_decay=0.998)
    config.evaluate.update(every_epochs=2.0, flip=True)
