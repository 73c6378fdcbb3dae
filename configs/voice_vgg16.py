"""VGG16 on voice spectrograms (Mansour & Abu-Naser 2022): the folders' own gender-and-age classes.

  python launch.py --config configs/voice_vgg16.py --manual_dir DIR --workdir runs/voice_vgg16 \
      --protocols paper,disjoint
  python launch.py --config configs/voice_vgg16.py:emodb --manual_dir DIR --workdir runs/emodb_vgg16 \
      --protocols paper,disjoint

DIR holds a folder for each class; name the speakers, as configs/voice_small.py describes. The paper: VGG16 with
ImageNet weights, global max pooling, batch normalisation, ReLU and a dense softmax, every layer trained, 224x224, Adam
1e-4, batch 32, 40 epochs, 60/20/20 at random. `literal` reads its two dense softmax layers as they stand in the text,
`scratch` begins without ImageNet's weights. The weights come from a model hub, which needs the extra `hub` and a
network, or from a file: --config.model.pretrained=vgg16.pth. ImageNet's images are for non-commercial research.

`emodb` and `emodb_classes` are for two CPU cores: 48x48, from scratch, few epochs; gender, or the ten folders. The
paper reports 0.99 on an unidentified dataset of 39 classes; with one or a few speakers per class a random split
measures how well these speakers are recognised. The full size has not been trained: it needs a GPU.
"""

from ml_collections import ConfigDict

from agegender_jax import recipe
from agegender_jax.errors import UserError

_ARGUMENTS = ("folders", "literal", "scratch", "emodb", "emodb_classes")


def get_config(argument: str = "folders") -> ConfigDict:
    if argument not in _ARGUMENTS:
        raise UserError(f"configs/voice_vgg16.py has no argument {argument!r}; choose one of: {', '.join(_ARGUMENTS)}")
    config = recipe.base()
    config.dataset.update(name="voice_age_gender", image_size=224)
    config.split.update(stratify="class", test_fraction=0.2, validation_fraction=0.25)  # 60/20/20
    config.model.update(backbone="vgg16", pooling="max", pretrained="vgg16")
    config.heads.gender.weight = 0.0
    config.heads.age_group.weight = 0.0
    config.heads.age.weight = 0.0
    config.heads.class_name.weight = 1.0
    config.train.epochs = 40.0
    config.evaluate.update(every_epochs=5.0, select="class_name/accuracy")
    if argument == "literal":
        config.model.pooling = "max_literal"
    elif argument == "scratch":
        config.model.pretrained = ""
    elif argument.startswith("emodb"):
        config.dataset.update(config="emodb", image_size=48)
        config.model.pretrained = ""
        config.optimizer.update(learning_rate=3e-4, schedule="cosine", warmup=0.1)
        config.train.update(epochs=12.0, steps_per_dispatch=5)
        config.evaluate.every_epochs = 6.0
    if argument == "emodb":
        config.heads.class_name.weight = 0.0
        config.heads.gender.weight = 1.0
        config.split.stratify = "gender"
        config.evaluate.select = "gender/accuracy"
    return config
