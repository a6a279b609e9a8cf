"""GoogLeNet, or Inception V1: as published, and with norms.

Szegedy et al., *Going Deeper with Convolutions*, 2015: table 1; section 5 for the auxiliary heads
and their weight 0.3; figure 3 for the local response norms, whose constants are AlexNet's here
since the paper names none.

| name         | norms                       | third branch, last pool | dropout | parameters
(1,000 classes) |
|--------------|-----------------------------|-------------------------|---------|----------------------------|
| inception_v1 | local response, in the stem | 5x5, 3x3                | 0.4     | 13,378,280
|
| googlenet    | batch norm everywhere       | 3x3, 2x2; torchvision's | 0.2     | 13,004,888
|

| place     | what                                               | map at 224 px |
|-----------|----------------------------------------------------|---------------|
| stem      | 7x7 every 2 pixels 64, pool, 1x1 64, 3x3 192, pool | 28x28         |
| 3a 3b     | two modules, pool                                  | 14x14         |
| 4a ... 4e | five modules, pool; auxiliary heads see 4a and 4d  | 7x7           |
| 5a 5b     | two modules, global average, dropout, head         | 7x7           |

Parameters include the auxiliary heads, which work in training only. Small images take the strides
of `strides_for` in the first convolution and the four pools.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.parts.layers import ConvNorm, starting, strides_for
from saccade.models.parts.network import Level, Network
from saccade.models.parts.plain import LocalResponseNorm, MeanGrid, fan_in_start
from saccade.models.parts.registry import Options, register

SOURCE = "Szegedy et al. 2015, arXiv 1409.4842"

MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Widths: 1x1; 1x1 and 3x3; 1x1 and 5x5; 1x1 after the pool."""


class InceptionNetwork(Network):
    """A row of named layers, some of whose maps are features, some seen by auxiliary heads."""

    row: ClassVar[tuple[str, ...]]
    """The layers in order, by name."""
    level_names: ClassVar[tuple[str, ...]]
    """The layers whose maps are `features`; the last one is pooled."""
    aux_places: ClassVar[dict[str, str]]
    """Auxiliary heads, in the order of their logits, and the layers whose maps they see."""
    avgpool: nn.Module

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of ``level_names``, finest first, for images (B, 3, H, W)."""
        maps = self._maps(x)
        return [maps[name] for name in self.level_names]

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W)."""
        return self._pooled(self._maps(x))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]  # a tuple only in training
        """Return logits (B, num_classes) for images (B, 3, H, W).

        In training those of auxiliary heads follow.
        """
        maps = self._maps(x)
        logits = self.head(self.dropout(self._pooled(maps)))
        if not self.training:
            return logits
        return logits, *(
            self.get_submodule(aux)(maps[seen]) for aux, seen in self.aux_places.items()
        )

    def _pooled(self, maps: dict[str, Tensor]) -> Tensor:
        return self.avgpool(maps[self.level_names[-1]]).flatten(1)

    def _maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps that somebody asks for; the others are freed on the way."""
        maps, kept = {}, {*self.level_names, *self.aux_places.values()}
        for name in self.row:
            x = self.run(self.get_submodule(name), x)
            if name in kept:
                maps[name] = x
        return maps


def window_means(x: Tensor, side: int) -> Tensor:
    """Average a map (B, C, H, W) to (B, C, side, side) in overlapping windows of one size.

    5x5 every 3 pixels for 4 of 14, or 5 of 17, as published; a map smaller than ``side`` is
    stretched.
    """
    height, width = x.shape[-2:]
    if min(height, width) < side:
        return MeanGrid(side)(x)
    strides = height // side, width // side
    # windows that overlap just enough to end at the border
    kernel = height - (side - 1) * strides[0], width - (side - 1) * strides[1]
    return F.avg_pool2d(x, kernel, strides)


def _layer(c_in: int, c_out: int, kernel: int, norms: bool, stride: int = 1) -> nn.Module:
    """Return a convolution and its activation, a norm between them or a start that needs none."""
    if norms:
        return ConvNorm(c_in, c_out, kernel, stride, eps=1e-3)
    layer = nn.Sequential()
    layer.add_module(
        "conv", fan_in_start(nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2))
    )
    layer.add_module("act", nn.ReLU(inplace=True))
    return layer


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3, 5x5 and a pool. *Source:* section 4, figure 2b."""

    def __init__(self, c_in: int, widths: Sequence[int], norms: bool) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        self.branch1 = _layer(c_in, one, 1, norms)
        self.branch2 = nn.Sequential(
            _layer(c_in, three_in, 1, norms), _layer(three_in, three, 3, norms)
        )
        self.branch3 = nn.Sequential(
            _layer(c_in, five_in, 1, norms), _layer(five_in, five, 3 if norms else 5, norms)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _layer(c_in, pooled, 1, norms))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, sum of the branches' widths, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxHead(nn.Module):
    """A small classifier in the middle of the network.

    *Source:* section 5, "the exact structure".
    """

    def __init__(self, c_in: int, num_classes: int, norms: bool, dropout: float) -> None:
        super().__init__()
        self.grid = MeanGrid(4) if norms else None
        self.conv = _layer(c_in, 128, 1, norms)
        self.fc1 = nn.Linear(128 * 16, 1024)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = starting(nn.Linear(1024, num_classes), weight=(0.0, 0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, num_classes)."""
        x = self.grid(x) if self.grid else window_means(x, 4)
        hidden = F.relu(self.fc1(self.conv(x).flatten(1)))
        return self.fc2(self.dropout(hidden))


class GoogLeNet(InceptionNetwork):
    """A stem and nine Inception modules.

    ``norms`` chooses torchvision's network with batch norm.
    """

    row = (
        "conv1",
        "maxpool1",
        "norm1",
        "conv2",
        "conv3",
        "norm2",
        "maxpool2",
        "inception3a",
        "inception3b",
        "maxpool3",
        "inception4a",
        "inception4b",
        "inception4c",
        "inception4d",
        "inception4e",
        "maxpool4",
        "inception5a",
        "inception5b",
    )
    level_names = ("conv3", "inception3b", "inception4e", "inception5b")
    aux_places: ClassVar[dict[str, str]] = {"aux1": "inception4a", "aux2": "inception4d"}
    aux_names = ("aux1.fc2", "aux2.fc2")
    aux_weight = 0.3

    def __init__(self, norms: bool, options: Options) -> None:
        super().__init__()
        strides = strides_for(options.image_size, options.strides)
        self.conv1 = _layer(options.in_channels, 64, 7, norms=norms, stride=strides[0])
        self.norm1 = nn.Identity() if norms else LocalResponseNorm()
        self.conv2 = _layer(64, 64, 1, norms)
        self.conv3 = _layer(64, 192, 3, norms)
        self.norm2 = nn.Identity() if norms else LocalResponseNorm()

        for place, stride in enumerate(strides[1:], 1):
            # torchvision's last pool is 2x2
            kernel = 2 if norms and place == 4 else 3
            # rounded up, as the published map of 7x7 needs
            pool = nn.MaxPool2d(kernel, stride, ceil_mode=True) if stride == 2 else nn.Identity()
            self.add_module(f"maxpool{place}", pool)

        c_in, channels = 192, {"": 192}
        for name, widths in MODULES.items():
            self.add_module(f"inception{name}", Inception(c_in, widths, norms))
            one, _, three, _, five, pooled = widths
            channels[name] = c_in = one + three + five + pooled

        dropout, aux_dropout = (
            (0.2 if norms else 0.4, 0.7) if options.dropout is None else (options.dropout,) * 2
        )
        self.aux1 = AuxHead(channels["4a"], options.num_classes, norms, aux_dropout)
        self.aux2 = AuxHead(channels["4d"], options.num_classes, norms, aux_dropout)

        spans = [math.prod(strides[:halvings]) for halvings in range(2, 6)]
        ends = [channels[name] for name in ("", "3b", "4e", "5b")]
        self.levels = tuple(Level(*level) for level in zip(ends, spans, strict=True))

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels["5b"], options.num_classes)


register(
    "inception_v1",
    partial(GoogLeNet, False),
    family="inception",
    source=SOURCE,
    image_size=224,
    smallest=8,
    aliases=("inception1", "inceptionv1", "inception_1"),
)
register(
    "googlenet",
    partial(GoogLeNet, True),
    family="inception",
    source=SOURCE + ", with batch norm",
    image_size=224,
    smallest=8,
    aliases=("googlenet_bn", "inception_v1_bn"),
)
