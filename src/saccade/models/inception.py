"""Inception V3.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, *Rethinking the Inception Architecture for Computer
Vision*, 2016: table 1 and figures 5, 6, 7, 10; the auxiliary head is that of section 4, with norms.
Parameter names and the widths that the paper leaves open are torchvision's, which took them from
the authors' program. 27,161,264 parameters for 1,000 classes.

| place    | what                                       | map at 299 px |
|----------|--------------------------------------------|---------------|
| stem     | 3x3/2 32, 3x3 32, 3x3 64, pool/2           | 73x73         |
|          | 1x1 80, 3x3 192, pool/2                    | 35x35         |
| 5b 5c 5d | 1x1, 5x5, two 3x3, mean (figure 5)         | 35x35         |
| 6a       | 3x3/2, 3x3 and 3x3/2, pool/2 (figure 10)   | 17x17         |
| 6b ... 6e | 1x7 and 7x1 in a row (figure 6)           | 17x17         |
| 7a       | 3x3/2, 1x7 7x1 3x3/2, pool/2               | 8x8           |
| 7b 7c    | 1x3 beside 3x1 (figure 7)                  | 8x8           |

The stem and the halvings are not padded, which eats small maps: below 150 px they are padded here,
so that half of the image size, where training may start, still leaves a map. Small images take the
strides of `strides_for` in the first convolution, the two pools, 6a and 7a.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.googlenet import InceptionNetwork, window_means
from saccade.models.parts.layers import ConvNorm, starting, strides_for
from saccade.models.parts.network import Level
from saccade.models.parts.registry import Options, register

PADDED_BELOW = 150


def _layer(
    c_in: int,
    c_out: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: int | None = None,
) -> ConvNorm:
    return ConvNorm(c_in, c_out, kernel, stride=stride, padding=padding, eps=1e-3)


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, padding=1)


class InceptionA(nn.Module):
    """Branches of 1x1, 5x5, two 3x3, and a mean. *Source:* figure 5."""

    def __init__(self, c_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _layer(c_in, 64)
        self.branch5x5_1 = _layer(c_in, 48)
        self.branch5x5_2 = _layer(48, 64, 5)
        self.branch3x3dbl_1 = _layer(c_in, 64)
        self.branch3x3dbl_2 = _layer(64, 96, 3)
        self.branch3x3dbl_3 = _layer(96, 96, 3)
        self.branch_pool = _layer(c_in, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean(x))], 1)


class InceptionB(nn.Module):
    """Halve the side in three ways at once. *Source:* figure 10."""

    def __init__(self, c_in: int, stride: int, padding: int) -> None:
        super().__init__()
        self.branch3x3 = _layer(c_in, 384, 3, stride=stride, padding=padding)
        self.branch3x3dbl_1 = _layer(c_in, 64)
        self.branch3x3dbl_2 = _layer(64, 96, 3)
        self.branch3x3dbl_3 = _layer(96, 96, 3, stride=stride, padding=padding)
        self.pool = nn.MaxPool2d(3, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, 480 + c_in, H / stride, W / stride), one less when not
        padded.
        """
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, self.pool(x)], 1)


class InceptionC(nn.Module):
    """Branches whose 7x7 convolutions are rows of 1x7 and 7x1. *Source:* figure 6."""

    def __init__(self, c_in: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = _layer(c_in, 192)
        self.branch7x7_1 = _layer(c_in, inner)
        self.branch7x7_2 = _layer(inner, inner, row)
        self.branch7x7_3 = _layer(inner, 192, column)
        self.branch7x7dbl_1 = _layer(c_in, inner)
        self.branch7x7dbl_2 = _layer(inner, inner, column)
        self.branch7x7dbl_3 = _layer(inner, inner, row)
        self.branch7x7dbl_4 = _layer(inner, inner, column)
        self.branch7x7dbl_5 = _layer(inner, 192, row)
        self.branch_pool = _layer(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean(x))], 1)


class InceptionD(nn.Module):
    """Halve the side once more."""

    def __init__(self, c_in: int, stride: int, padding: int) -> None:
        super().__init__()
        self.branch3x3_1 = _layer(c_in, 192)
        self.branch3x3_2 = _layer(192, 320, 3, stride=stride, padding=padding)
        self.branch7x7x3_1 = _layer(c_in, 192)
        self.branch7x7x3_2 = _layer(192, 192, (1, 7))
        self.branch7x7x3_3 = _layer(192, 192, (7, 1))
        self.branch7x7x3_4 = _layer(192, 192, 3, stride=stride, padding=padding)
        self.pool = nn.MaxPool2d(3, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, 512 + c_in, H / stride, W / stride), one less when not
        padded.
        """
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), self.pool(x)], 1)


class InceptionE(nn.Module):
    """Branches that end in 1x3 beside 3x1. *Source:* figure 7."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch1x1 = _layer(c_in, 320)
        self.branch3x3_1 = _layer(c_in, 384)
        self.branch3x3_2a = _layer(384, 384, (1, 3))
        self.branch3x3_2b = _layer(384, 384, (3, 1))
        self.branch3x3dbl_1 = _layer(c_in, 448)
        self.branch3x3dbl_2 = _layer(448, 384, 3)
        self.branch3x3dbl_3a = _layer(384, 384, (1, 3))
        self.branch3x3dbl_3b = _layer(384, 384, (3, 1))
        self.branch_pool = _layer(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, 2048, H, W)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(_mean(x)),
        ]
        return torch.cat(branches, 1)


class AuxHead(nn.Module):
    """A small classifier behind 6e, with norms. *Source:* section 4."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = _layer(c_in, 128)
        self.conv1 = _layer(128, 768, 5, padding=0)
        self.fc = starting(nn.Linear(768, num_classes), weight=(0.0, 0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, num_classes)."""
        return self.fc(self.conv1(self.conv0(window_means(x, 5))).flatten(1))


class InceptionV3(InceptionNetwork):
    """A stem and eleven Inception modules."""

    row = (
        "Conv2d_1a_3x3",
        "Conv2d_2a_3x3",
        "Conv2d_2b_3x3",
        "maxpool1",
        "Conv2d_3b_1x1",
        "Conv2d_4a_3x3",
        "maxpool2",
        "Mixed_5b",
        "Mixed_5c",
        "Mixed_5d",
        "Mixed_6a",
        "Mixed_6b",
        "Mixed_6c",
        "Mixed_6d",
        "Mixed_6e",
        "Mixed_7a",
        "Mixed_7b",
        "Mixed_7c",
    )
    level_names = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    aux_places: ClassVar[dict[str, str]] = {"AuxLogits": "Mixed_6e"}
    aux_names = ("AuxLogits.fc",)
    aux_weight = 0.4
    """*Source:* the authors' program; the paper names no figure."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        strides = strides_for(options.image_size, options.strides)
        pad = 1 if options.image_size < PADDED_BELOW else 0

        self.Conv2d_1a_3x3 = _layer(options.in_channels, 32, 3, stride=strides[0], padding=pad)
        self.Conv2d_2a_3x3 = _layer(32, 32, 3, padding=pad)
        self.Conv2d_2b_3x3 = _layer(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2, pad) if strides[1] == 2 else nn.Identity()
        self.Conv2d_3b_1x1 = _layer(64, 80)
        self.Conv2d_4a_3x3 = _layer(80, 192, 3, padding=pad)
        self.maxpool2 = nn.MaxPool2d(3, 2, pad) if strides[2] == 2 else nn.Identity()

        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)

        self.Mixed_6a = InceptionB(288, strides[3], pad)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)

        self.AuxLogits = AuxHead(768, options.num_classes)
        self.Mixed_7a = InceptionD(768, strides[4], pad)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)

        channels = (64, 192, 288, 768, 2048)
        self.levels = tuple(
            Level(c, math.prod(strides[: place + 1])) for place, c in enumerate(channels)
        )

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5 if options.dropout is None else options.dropout)
        self.fc = nn.Linear(2048, options.num_classes)


register(
    "inception_v3",
    InceptionV3,
    family="inception",
    source="Szegedy et al. 2016, arXiv 1512.00567",
    image_size=299,
    smallest=8,
    aliases=("inception3", "inceptionv3", "inception_3"),
)
