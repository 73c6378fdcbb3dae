"""Adience in five folds: an attentional and a residual net, averaged, the gender logits joined to the age features.

  python launch.py --config configs/adience_attention.py --manual_dir DIR --workdir runs/ensemble --folds all
  python launch.py --config configs/adience_attention.py:cpu --manual_dir DIR --workdir runs/ensemble_cpu --folds all
  python launch.py --config configs/adience_attention.py:synthetic --workdir runs/ensemble_synthetic
  agegender explain runs/ensemble_synthetic --method attention --out maps

DIR holds fold_0_data.txt to fold_4_data.txt and aligned/ (or faces/, with --config.dataset.config=faces).

A report on Adience has the abstract of Abdolrashidi et al. (2020, arXiv 2010.03791): an ensemble of attentional and
residual convolutional networks, gender and age group learned together, the predicted gender joined to the age
classifier's features, the attention maps shown. The abstract states no more, nor does the body of the report. The
rest is inferred here: the attentional network is Attention-56 (Wang et al. 2017), the
residual one ResNet-50, both from scratch at 224x224; they are averaged and trained as one net;
gender is joined as logits, with gradients from age (without them: --config.model.gender_to_age=stopped); Adam with
1e-4, batches of 32, 30 epochs, random mirror images.

Without an argument: the ensemble. `attention` and `residual` train one of its nets alone, with the same joining:

  python launch.py --config configs/adience_attention.py:attention --manual_dir DIR --workdir runs/attention
  python launch.py --config configs/adience_attention.py:residual --manual_dir DIR --workdir runs/residual
  agegender evaluate runs/attention runs/residual

averages two nets that were trained separately. `cpu` is for two cores: small nets at 64x64. `synthetic` is `cpu` on
2,000 synthetic faces: it tests the pipeline and says nothing about people.

The published size has not been trained: it needs a GPU and the photographs.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError

_BACKBONES = {
    "ensemble": "attention_ensemble",
    "attention": "residual_attention",
    "residual": "resnet50",
    "cpu": "attention_ensemble",
    "synthetic": "attention_ensemble",
}


def get_config(argument: str = "ensemble") -> ConfigDict:
    if argument not in _BACKBONES:
        raise UserError(
            f"configs/adience_attention.py has no argument {argument!r}; choose one of: {', '.join(_BACKBONES)}"
        )
    config = recipe.base()
    config.dataset.update(name="adience", image_size=224)
    config.split.update(folds=5, validation_fraction=0.1)
    config.age_groups = "levi_hassner"
    config.heads.age.weight = 0.0  # ranges are annotated, not years
    config.model.update(backbone=_BACKBONES[argument], gender_to_age="joined")
    config.augment.flip = True
    config.evaluate.flip = True
    if argument in ("cpu", "synthetic"):
        _two_cores(config)
    if argument == "synthetic":
        config.dataset.synthetic = 2000
        config.train.epochs = 12.0
    return config


def _two_cores(config: ConfigDict) -> None:
    recipe.for_two_cores(config)
    config.dataset.image_size = 64
    config.model.variant = "small"
    config.augment.erase = 0.25
    config.train.update(epochs=20.0, ema_decay=0.995)
    config.evaluate.every_epochs = 4.0
