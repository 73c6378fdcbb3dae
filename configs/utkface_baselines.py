"""Uraimov & Yoo's (2022) comparison on UTKFace: four published nets and theirs, age group and gender together.

  python launch.py --config configs/utkface_baselines.py:resnet18 --manual_dir DIR --workdir runs/resnet18
  python launch.py --config configs/utkface_baselines.py:ours_weighted --manual_dir DIR --workdir runs/ours_weighted
  python launch.py --config configs/utkface_baselines.py:densenet161_cpu --manual_dir DIR --workdir runs/densenet161_cpu

DIR holds UTKFace.tar.gz. The nets are alexnet, vgg11, resnet18, densenet161 and ours (variant `a` of small_cnn);
`_weighted` after a name weights the age groups in the loss as the paper does, and `_cpu` is a size for two CPU cores:
32x32, three epochs, AdamW. All five share one recipe, so only the net differs.

Without `_cpu`: the paper's training, 256x256, batch 32, Adam 1e-4, 30 epochs, from scratch (the paper does not
state whether its nets were pretrained, nor their input size). The paper reports, in per cent of age group and
gender, 55.96 and 85.10 (AlexNet), 57.06 and 83.63 (VGG11), 58.60 and 87.40 (ResNet18), 59.22 and 87.28 (DenseNet161),
61.34 and 88.67 (ours), 52.85 and nothing (ours, weighted), on the in-the-wild release with a grouping that it does
not name. The full size has not been trained: it needs a GPU. The results of `_cpu` are in docs/RESULTS.md.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError

NETS = ("alexnet", "vgg11", "resnet18", "densenet161", "ours")


def get_config(argument: str = "ours") -> ConfigDict:
    net, *options = argument.split("_")
    if net not in NETS or options not in ([], ["weighted"], ["cpu"], ["weighted", "cpu"]):
        raise UserError(
            f"configs/utkface_baselines.py has no argument {argument!r}; add _weighted, _cpu or _weighted_cpu to a "
            f"net, and choose one of: {', '.join(NETS)}"
        )
    config = recipe.base()
    config.model.backbone = "small_cnn" if net == "ours" else net
    config.heads.age.weight = 0.0
    config.heads.age_group.class_weights = "weighted" in options
    if "cpu" in options:
        config.dataset.image_size = 32
        config.augment.flip = True
        config.optimizer.update(
            name="adamw", learning_rate=5e-4, schedule="cosine", warmup=0.1, weight_decay=0.05, clip_norm=1.0
        )
        config.train.update(batch_size=64, epochs=3.0)
    return config
