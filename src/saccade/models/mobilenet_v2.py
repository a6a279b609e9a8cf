"""MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov, Chen, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*,
2018: table 2.

| stage                              | map at 224 px | channels |
|------------------------------------|---------------|----------|
| 3x3 convolution                    | 112           | 32       |
| 1 inverted residual, expansion 1   | 112           | 16       |
| 2 inverted residuals, expansion 6  | 56            | 24       |
| 3 inverted residuals, expansion 6  | 28            | 32       |
| 4 and 3 inverted residuals, 6      | 14            | 64, 96   |
| 3 and 1 inverted residuals, 6      | 7             | 160, 320 |
| 1x1 convolution                    | 7             | 1280     |

| name                   | activation | expansion | parameters (1,000 classes) |
|------------------------|------------|-----------|----------------------------|
| mobilenet_v2           | ReLU6      | 6         | 3,504,872                  |
| mobilenetv2_tv_x1      | ReLU       | 6         | 3,504,872                  |
| mobilenetv2_tv_x2_t2   | ReLU       | 2         | 6,562,792                  |

Suffixes, in this order: ``_xp5`` multiplies the channels (rounded to multiples of 8; the last
convolution is never narrowed, section 6.1), ``_t2`` sets the expansion. ``mobilenet_v2_x1p4`` is
the paper's network, with ReLU6; ``mobilenetv2_x1p4`` and ``mobilenetv2_tv_x1p4``, as
edgeai-torchvision spells them, are its networks: ReLU, which is easier to quantise, and no dropout.
"""

from __future__ import annotations

import re
from functools import partial

from torch import nn

from saccade.models.parts.depthwise import Activation, Block, Design, Stage, StagedNetwork
from saccade.models.parts.layers import rounded
from saccade.models.parts.registry import Entry, Options, multiplier, register, register_grammar

SOURCE = "Sandler et al. 2018, arXiv 1801.04381"
STAGES = (
    (1, 16, 1, 0),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 3),
    (6, 96, 3, 0),
    (6, 160, 3, 4),
    (6, 320, 1, 0),
)
"""Expansion, channels, number of blocks, and which of the five strides, as in `Stage`."""


class MobileNetV2(StagedNetwork):
    """Stages of inverted residuals."""

    def foreign_places(self, dialect: str) -> dict[str, str]:
        """Map the dotted names of our modules to theirs."""
        if dialect != "torchvision":
            return super().foreign_places(dialect)
        places = {"stem": "features.0", "classifier": "classifier.1"}
        blocks = self.layers_of_blocks()
        for number, (place, layers) in enumerate(blocks, start=1):
            *others, narrow = range(len(layers))
            places |= {f"{place}.{i}": f"features.{number}.conv.{i}" for i in others}
            places |= {
                f"{place}.{narrow}.{i}": f"features.{number}.conv.{narrow + i}" for i in (0, 1)
            }
        return places | {"last": f"features.{len(blocks) + 1}"}


def _design(width: float, expansion: int, act: Activation, dropout: float) -> Design:
    stem = c_in = rounded(32 * width)
    stages = []
    for factor, channels, depth, place in STAGES:
        c_out = rounded(channels * width)
        blocks = []
        for _ in range(depth):
            blocks.append(Block(3, c_in * (expansion if factor > 1 else 1), c_out, act))
            c_in = c_out
        stages.append(Stage(place, tuple(blocks)))
    return Design(stem, tuple(stages), act, last=rounded(1280 * max(1.0, width)), dropout=dropout)


def _published(width: float, expansion: int, options: Options) -> MobileNetV2:
    return MobileNetV2(_design(width, expansion, nn.ReLU6, dropout=0.2), options)


def _for_quantisation(width: float, expansion: int, options: Options) -> MobileNetV2:
    return MobileNetV2(_design(width, expansion, nn.ReLU, dropout=0.0), options)


def _scaled(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``mobilenet_v2_xp5_t4`` or ``mobilenetv2_tv_x2_t2``."""
    width, expansion = multiplier(match["width"]), int(match["expansion"] or 6)
    if not width or not expansion:
        return None
    build = _published if match[0].startswith("mobilenet_v2_x") else _for_quantisation
    return Entry(
        match[0],
        partial(build, width, expansion),
        "mobilenet_v2",
        source=SOURCE,
        image_size=224,
        smallest=8,
    )


register(
    "mobilenet_v2",
    partial(_published, 1.0, 6),
    family="mobilenet_v2",
    source=SOURCE,
    image_size=224,
    smallest=8,
    aliases=("mobilenetv2", "mobilenet2", "mobilenet_v2_x1", "mobilenetv2_100"),
)
register(
    "mobilenetv2_tv_x1",
    partial(_for_quantisation, 1.0, 6),
    family="mobilenet_v2",
    source=SOURCE,
    image_size=224,
    smallest=8,
    aliases=("mobilenetv2_tv", "mobilenetv2_x1"),
)
register(
    "mobilenetv2_tv_x2_t2",
    partial(_for_quantisation, 2.0, 2),
    family="mobilenet_v2",
    source=SOURCE,
    image_size=224,
    smallest=8,
    aliases=("mobilenetv2_x2_t2",),
)
register_grammar(
    r"mobilenet(?:_v2|v2|v2_tv)_x(?P<width>\d*p?\d+)(?:_t(?P<expansion>\d+))?", _scaled
)
