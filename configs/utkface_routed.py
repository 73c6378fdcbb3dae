"""Two age nets behind a gender net, and one net of as many parameters, on UTKFace (Imamdin et al. 2025, section 3.3).

  python launch.py --config configs/utkface_routed.py --manual_dir DIR --workdir runs/routed
  python launch.py --config configs/utkface_routed.py:shared --manual_dir DIR --workdir runs/shared
  python launch.py --config configs/utkface_routed.py:cpu --manual_dir DIR --workdir runs/routed_cpu
  python launch.py --config configs/utkface_routed.py:cpu_shared --manual_dir DIR --workdir runs/shared_cpu

DIR holds UTKFace.tar.gz. A small CNN (three convolutions) predicts the gender, and one of two VGG16, each for one
gender, the age: 24 groups of five years (`five_year`, see configs/utkface_age24.py), so read the balanced accuracy
beside the accuracy. One run reports the age in three ways: `age_group_true/*` routed by the labelled gender, which is
unknown in use, `age_group_predicted/*` by the predicted one, and `age_group_soft/*`, the mixture of both nets by the
gender's probabilities; `age_group_male/*` and `age_group_female/*` are of each net on the faces of its own gender.
`shared` is the control: one VGG16 with heads for gender and age group, widened until it has as many parameters (within
1 %). --config.heads.age.weight=1 --config.heads.age_group.weight=0, with --config.evaluate.select=age_predicted/mae, is
age in years instead.

Each of the three losses is a mean over the examples whose label its head knows, so the age counts twice, once for
each net.

The system is that of Raman et al. (2022), whose abstract reports more than 85 % for each age net and 80 % routed, on
coarse age groups. Imamdin et al. give no result of it: their table is of another, single net. They give neither the
widths of the gender net nor a comparison with one net of equal size.
Without an argument: 180x180, plain VGG16, from scratch, and this project's defaults (batch 32, Adam 1e-4, 30 epochs).
Both age nets process every image, so a routed step costs about as much as one of the shared net: 20.0 G and 20.5 G
multiply-adds per image in the forward pass. It has not been trained: it needs a GPU.

`cpu` and `cpu_shared` are for two cores: 32x32, half the width, batch normalisation so that the nets learn from scratch
in three epochs, AdamW. Batch normalisation of an age net uses the statistics of images of both genders.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "paper") -> ConfigDict:
    if argument not in ("paper", "shared", "cpu", "cpu_shared"):
        raise UserError(
            f"configs/utkface_routed.py has no argument {argument!r}; choose one of: paper, shared, cpu, cpu_shared"
        )
    config = recipe.base()
    config.age_groups = "five_year"
    config.dataset.image_size = 180
    config.heads.age.weight = 0.0
    small = argument.startswith("cpu")
    if small:
        _two_cores(config)
    if argument.endswith("shared"):
        config.model.backbone = "vgg16_bn" if small else "vgg16"
        config.model.width = 0.715 if small else 1.448  # as many parameters as the routed system's three nets
    else:
        config.model.update(backbone="routed", variant="bn" if small else "plain", width=0.5 if small else 1.0)
        config.evaluate.select = "age_group_predicted/accuracy"
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.dataset.image_size = 32
    config.augment.flip = True
    config.optimizer.learning_rate = 1e-3
    config.train.update(epochs=3.0, ema_decay=0.99)
    config.evaluate.flip = True
