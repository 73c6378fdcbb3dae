"""The two gender nets that Imamdin et al. (2025, section 3.5) describe, on UTKFace.

  python launch.py --config configs/utkface_gender.py:three --manual_dir DIR --workdir runs/gender
  python launch.py --config configs/utkface_gender.py:four_cpu --manual_dir DIR --workdir runs/gender_cpu

DIR holds UTKFace.tar.gz. `four` has four convolutions, each with pooling, a dense layer and one sigmoid node, which is
a softmax of two whose first logit is 0; `three` has three with batch normalisation, a dense layer with dropout 0.5 and
two outputs. The paper gives neither widths nor the input size (here 128x128) nor the training (here this project's
defaults). It reports 0.881 "precision" for the first, on a dataset of another origin.
`four_cpu` and `three_cpu` are for two cores: 48x48, three epochs, a modern optimizer.
The full size has not been trained: it needs a GPU.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError


def get_config(argument: str = "three") -> ConfigDict:
    if argument not in ("three", "four", "three_cpu", "four_cpu"):
        raise UserError(
            f"configs/utkface_gender.py has no argument {argument!r}; choose one of: three, four, three_cpu, four_cpu"
        )
    config = recipe.base()
    config.dataset.image_size = 128
    config.model.variant = "gender_" + argument.split("_")[0]
    config.model.dropout = 0.5 if argument.startswith("three") else 0.0
    config.heads.age_group.weight = 0.0
    config.heads.age.weight = 0.0
    config.evaluate.select = "gender/accuracy"
    if argument.endswith("_cpu"):
        config.dataset.image_size = 48
        config.augment.update(flip=True, shift=0.06, zoom=0.1, brightness=0.1, contrast=0.2, saturation=0.2)
        config.optimizer.update(
            name="adamw", learning_rate=1e-3, schedule="cosine", warmup=0.1, weight_decay=0.05, clip_norm=1.0
        )
        config.train.update(batch_size=64, epochs=3.0, ema_decay=0.99)
        config.evaluate.update(flip=True, batch_size=128)
    return config
