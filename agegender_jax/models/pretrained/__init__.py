"""Pretrained weights: from a file, a hub, or a run of this project.

    params, stats = load("efficientnet_lite0", "efficientnet_lite0", params, stats)

Files are those of Keras, torchvision and timm, whose names for our layers stand in each backbone's spec. Every leaf of
the backbone is matched by name and shape, and the weights bring the normalisation of the input that they were trained
with. No file can run code.
"""

from agegender_jax.models.pretrained.loading import load, load_tree, metadata, normalization
from agegender_jax.models.pretrained.sources import Weights, locate

__all__ = ["Weights", "load", "load_tree", "locate", "metadata", "normalization"]
