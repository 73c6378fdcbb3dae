"""The nets of the benchmarks' peer: torchvision's, and in PyTorch the small CNN, which torchvision has not.

Images are NCHW (in memory NHWC, `channels_last`).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn


def build(net: str, outputs: Mapping[str, int], image_size: int, dropout: float, layout: Any = None) -> "Model":
    """Returns a model with fresh parameters.

    Args:
      net: `small_cnn`, or a name of torchvision's, of a ResNet, DenseNet, VGG or AlexNet.
      outputs: the number of logits of each head.
      image_size: edge of the input, pixels.
      dropout: its rate, where the net has dropout.
      layout: the layers of `small_cnn`: `blocks` of (filters, kernel, stride, padding, (window, stride of the pooling)
        or None), `norm` ("batch" or "none") and `hidden`.
    """
    if net == "small_cnn":
        backbone: nn.Module = SmallCNN(layout["blocks"], layout["norm"], layout["hidden"], image_size, dropout)
    else:
        backbone = torchvision_backbone(net, image_size, dropout)
    model = Model(backbone, outputs, image_size)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def torchvision_backbone(net: str, image_size: int, dropout: float) -> nn.Module:
    """Returns a net of torchvision's without its last layer.

    AlexNet and VGG pool to a fixed grid (6x6, 7x7); like ours, they are given the feature map as it is where it is
    smaller, instead of torchvision's enlarged one.
    """
    dense = net.startswith(("alexnet", "vgg"))
    model = torchvision.models.get_model(net, weights=None, **({"dropout": dropout} if dense else {}))
    if dense:
        features = model.features.eval()(torch.zeros(1, 3, image_size, image_size))
        model.train()
        edge = min(features.shape[2], model.avgpool.output_size[0])
        model.avgpool = nn.AdaptiveAvgPool2d(edge)
        first = next(i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear))
        model.classifier[first] = nn.Linear(edge * edge * features.shape[1], model.classifier[first].out_features)
        model.classifier[-1] = nn.Identity()
    else:
        setattr(model, "fc" if hasattr(model, "fc") else "classifier", nn.Identity())
    return model


class Model(nn.Module):
    """A backbone, and a linear layer for each head: float32, whatever the backbone computes in."""

    def __init__(self, backbone: nn.Module, outputs: Mapping[str, int], image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1]
        backbone.train()
        self.heads = nn.ModuleDict({name: nn.Linear(features, size) for name, size in outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.backbone(x)
        with torch.autocast(x.device.type, enabled=False):
            return {name: head(embedding.float()) for name, head in self.heads.items()}


class SmallCNN(nn.Module):
    def __init__(
        self, blocks: Sequence[Any], norm: str, hidden: Sequence[int], image_size: int, dropout: float
    ) -> None:
        super().__init__()
        convs, norms, self.pools = [], [], []
        channels, size = 3, image_size
        for filters, kernel, stride, padding, pool in blocks:
            if padding == "SAME" and (stride != 1 or kernel % 2 == 0):
                raise ValueError("padding SAME is written for odd kernels and stride 1 alone")
            pixels = kernel // 2 if padding == "SAME" else 0
            convs.append(nn.Conv2d(channels, filters, kernel, stride, pixels))
            norms.append(nn.BatchNorm2d(filters) if norm == "batch" else nn.Identity())
            self.pools.append(pool)
            channels, size = filters, (size + 2 * pixels - kernel) // stride + 1
            if pool:
                size = (size - pool[0]) // pool[1] + 1
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(norms)
        widths = (size * size * channels, *hidden)
        self.dense = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = norm(F.relu(conv(x)))
            if pool:
                x = F.max_pool2d(x, *pool)
        x = x.flatten(1)
        for dense in self.dense:
            x = self.dropout(F.relu(dense(x)))
        return x
