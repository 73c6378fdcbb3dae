"""The backbones in PyTorch, layer for layer and name for name as ours, for the peer of the benchmarks.

It needs PyTorch alone. Images are NCHW (in memory NHWC, `channels_last`).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
_VGGS = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}
NETS = ("small_cnn", *_RESNETS, *_VGGS, "densenet161")
"""What `build` knows."""


def build(net: str, outputs: Mapping[str, int], image_size: int, dropout: float, layout: Any = None) -> "Model":
    """A model with fresh parameters.

    Args:
      net: of `NETS`.
      outputs: logits of each head.
      image_size: edge of the input, pixels.
      dropout: rate, where the net has it.
      layout: of `small_cnn`: `blocks` of (filters, kernel, stride, padding, (window, stride of the pooling) or None),
        `norm` ("batch" or "none") and `hidden`.
    """
    backbone: nn.Module
    if net == "small_cnn":
        backbone = SmallCNN(layout["blocks"], layout["norm"], layout["hidden"], image_size, dropout)
    elif net in _RESNETS:
        backbone = Backbone(ResNet(*_RESNETS[net]), Average())
    elif net in _VGGS:
        edge = min(image_size // 32, 7)
        backbone = Backbone(VGG(_VGGS[net]), Dense(edge * edge * 512, 7, (4096, 4096), dropout))
    else:
        backbone = Backbone(DenseNet(48, 96, (6, 12, 36, 24)), Average())
    model = Model(backbone, outputs)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class Model(nn.Module):
    """A backbone, and a linear layer for each head: float32, whatever the backbone computes in."""

    def __init__(self, backbone: nn.Module, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone = backbone
        features: Any = backbone.embedding_size
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
        self.embedding_size = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = norm(F.relu(conv(x)))
            if pool:
                x = F.max_pool2d(x, *pool)
        x = x.flatten(1)
        for dense in self.dense:
            x = self.dropout(F.relu(dense(x)))
        return x


class Backbone(nn.Module):
    def __init__(self, trunk: nn.Module, top: nn.Module) -> None:
        super().__init__()
        self.trunk, self.top = trunk, top
        self.embedding_size = getattr(top, "embedding_size", trunk.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.trunk(x))


class Average(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Dense(nn.Module):
    def __init__(self, features: int, grid: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = (features, *widths)
        self.dense = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))
        self.dropout, self.grid, self.embedding_size = nn.Dropout(dropout), grid, sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > self.grid:
            x = F.adaptive_avg_pool2d(x, self.grid)
        x = x.flatten(1)
        for dense in self.dense:
            x = self.dropout(F.relu(dense(x)))
        return x


class ConvNorm(nn.Module):
    def __init__(self, m: int, n: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(m, n, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Block(nn.Module):
    def __init__(self, channels: int, width: int, bottleneck: bool, stride: int) -> None:
        super().__init__()
        if bottleneck:
            self.filters = 4 * width
            convs = [
                ConvNorm(channels, width, 1),
                ConvNorm(width, width, 3, stride),
                ConvNorm(width, self.filters, 1),
            ]
        else:
            self.filters = width
            convs = [ConvNorm(channels, width, 3, stride), ConvNorm(width, width, 3)]
        self.convs = nn.ModuleList(convs)
        same = stride == 1 and channels == self.filters
        self.shortcut = None if same else ConvNorm(channels, self.filters, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs[:-1]:
            y = F.relu(conv(y), inplace=True)
        y = self.convs[-1](y)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    def __init__(self, bottleneck: bool, counts: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 64, 7, 2)
        blocks, channels = [], 64
        for stage, count in enumerate(counts):
            for number in range(count):
                blocks.append(Block(channels, 64 << stage, bottleneck, 2 if stage and not number else 1))
                channels = blocks[-1].filters
        self.blocks, self.channels = nn.ModuleList(blocks), channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return x


class VGG(nn.Module):
    def __init__(self, stages: Sequence[int]) -> None:
        super().__init__()
        convs, self.channels = [], 3
        for count, filters in zip(stages, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                convs.append(nn.Conv2d(self.channels, filters, 3, padding=1))
                self.channels = filters
        self.convs, self.stages = nn.ModuleList(convs), stages

    def forward(self, x: Tensor) -> Tensor:
        convs = iter(self.convs)
        for count in self.stages:
            for conv in itertools.islice(convs, count):
                x = F.relu(conv(x), inplace=True)
            x = F.max_pool2d(x, 2)
        return x


class NormConv(nn.Module):
    def __init__(self, m: int, n: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(m)
        self.conv = nn.Conv2d(m, n, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x), inplace=True))


class Layer(nn.Module):
    def __init__(self, channels: int, growth: int, transition: bool) -> None:
        super().__init__()
        self.reduce = NormConv(channels, 4 * growth, 1)
        self.grow = NormConv(4 * growth, growth, 3)
        wide = channels + growth
        self.filters = wide // 2 if transition else wide
        self.transition = NormConv(wide, self.filters, 1) if transition else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.grow(self.reduce(x))], 1)
        return x if self.transition is None else F.avg_pool2d(self.transition(x), 2)


class DenseNet(nn.Module):
    def __init__(self, growth: int, channels: int, counts: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        layers: list[Layer] = []
        for block, count in enumerate(counts, start=1):
            for place in range(1, count + 1):
                layers.append(Layer(channels, growth, place == count and block < len(counts)))
                channels = layers[-1].filters
        self.layers = nn.ModuleList(layers)
        self.last_norm, self.channels = nn.BatchNorm2d(channels), channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x)), inplace=True), 3, 2, 1)
        for layer in self.layers:
            x = layer(x)
        return F.relu(self.last_norm(x), inplace=True)
