"""EfficientNet.

Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, 2019: table
1 (B0) and section 3.3 (the others: width, depth and resolution grow together); coefficients from
the published code. Stochastic depth with survival 0.8 at the end, dropout from 0.2 to 0.5 (section
5.2). The norms of B5 to B7 have torchvision's epsilon, 0.001, and momentum, 0.01; those of the
others the usual ones.

| stage of B0                         | map at 224 px | channels |
|-------------------------------------|---------------|----------|
| 3x3 convolution                     | 112           | 32       |
| 1 inverted residual, expansion 1    | 112           | 16       |
| 2 inverted residuals of 3x3         | 56            | 24       |
| 2 inverted residuals of 5x5         | 28            | 40       |
| 3 of 3x3, 3 of 5x5                  | 14            | 80, 112  |
| 4 of 5x5, 1 of 3x3                  | 7             | 192, 320 |
| 1x1 convolution                     | 7             | 1280     |

| name            | width | depth | pixels | dropout | parameters (1,000 classes) |
|-----------------|-------|-------|--------|---------|----------------------------|
| efficientnet_b0 | 1.0   | 1.0   | 224    | 0.2     | 5,288,548                  |
| efficientnet_b1 | 1.0   | 1.1   | 240    | 0.2     | 7,794,184                  |
| efficientnet_b2 | 1.1   | 1.2   | 260    | 0.3     | 9,109,994                  |
| efficientnet_b3 | 1.2   | 1.4   | 300    | 0.3     | 12,233,232                 |
| efficientnet_b4 | 1.4   | 1.8   | 380    | 0.4     | 19,341,616                 |
| efficientnet_b5 | 1.6   | 2.2   | 456    | 0.4     | 30,389,784                 |
| efficientnet_b6 | 1.8   | 2.6   | 528    | 0.5     | 43,040,704                 |
| efficientnet_b7 | 2.0   | 3.1   | 600    | 0.5     | 66,347,960                 |
"""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from saccade.models.parts.depthwise import Block, Design, Stage, StagedNetwork
from saccade.models.parts.layers import SqueezeExcitation, rounded
from saccade.models.parts.registry import Options, register

SOURCE = "Tan and Le 2019, arXiv 1905.11946"
STAGES = (
    (1, 3, 16, 1, 0),
    (6, 3, 24, 2, 1),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 3),
    (6, 5, 112, 3, 0),
    (6, 5, 192, 4, 4),
    (6, 3, 320, 1, 0),
)
"""Expansion, side of the kernel, channels, number of blocks, and which of the five strides, as
in `Stage`.
"""

LEVELS = (
    (1.0, 1.0, 224, 0.2),
    (1.0, 1.1, 240, 0.2),
    (1.1, 1.2, 260, 0.3),
    (1.2, 1.4, 300, 0.3),
    (1.4, 1.8, 380, 0.4),
    (1.6, 2.2, 456, 0.4),
    (1.8, 2.6, 528, 0.5),
    (2.0, 3.1, 600, 0.5),
)
"""Multipliers of width and depth, side of the images in pixels, dropout."""


class EfficientNet(StagedNetwork):
    """Stages of inverted residuals that weigh their channels."""

    def foreign_places(self, dialect: str) -> dict[str, str]:
        """Map the dotted names of our modules to theirs."""
        if dialect != "torchvision":
            return super().foreign_places(dialect)
        places = {f"stages.{i}": f"features.{i + 1}" for i in range(len(self.stages))}
        places |= {"stem": "features.0", "last": f"features.{len(self.stages) + 1}"}
        return places | {"classifier": "classifier.1"}


def _design(level: int) -> Design:
    width, depth, _, dropout = LEVELS[level]
    stem = c_in = rounded(32 * width)

    stages = []
    for expansion, kernel, channels, repeats, place in STAGES:
        c_out = rounded(channels * width)
        blocks = []
        for _ in range(math.ceil(repeats * depth)):
            # the gate is a quarter of the block's input, not of its widened map
            blocks.append(Block(kernel, c_in * expansion, c_out, nn.SiLU, squeezed=c_in // 4))
            c_in = c_out
        stages.append(Stage(place, tuple(blocks)))

    # as in torchvision, whose weights are computed with these
    eps, momentum = (1e-3, 0.01) if level >= 5 else (1e-5, 0.1)
    return Design(
        stem,
        tuple(stages),
        nn.SiLU,
        last=4 * c_in,
        dropout=dropout,
        drop_path=0.2,
        gate=partial(SqueezeExcitation, act=nn.SiLU),
        eps=eps,
        momentum=momentum,
    )


def _build(level: int, options: Options) -> EfficientNet:
    return EfficientNet(_design(level), options)


for _level, (_, _, _side, _) in enumerate(LEVELS):
    register(
        f"efficientnet_b{_level}",
        partial(_build, _level),
        family="efficientnet",
        source=SOURCE,
        image_size=_side,
        smallest=8,
        aliases=(f"efficientnetb{_level}",),
    )
