"""MobileNetV1.

Howard et al., *MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications*,
2017: table 1; the activation is ReLU (figure 3). The published code has ReLU6 instead, and so has
timm: ``mobilenetv1_100``.

| stage                    | map at 224 px | channels |
|--------------------------|---------------|----------|
| 3x3 convolution          | 112           | 32       |
| 1 depthwise separable    | 112           | 64       |
| 2 depthwise separable    | 56            | 128      |
| 2 depthwise separable    | 28            | 256      |
| 6 depthwise separable    | 14            | 512      |
| 2 depthwise separable    | 7             | 1024     |

4,231,976 parameters at 1,000 classes. A suffix multiplies all channels, rounded to multiples of 8:
``mobilenet_v1_xp5`` (half), ``mobilenet_v1_xp75``, ``mobilenet_v1_x1p4``.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.depthwise import Activation, Block, Design, Stage, StagedNetwork
from saccade.models.parts.layers import conv_norm, rounded
from saccade.models.parts.registry import Entry, Options, multiplier, register, register_grammar

SOURCE = "Howard et al. 2017, arXiv 1704.04861"
STAGES = ((64, 1, 0), (128, 2, 1), (256, 2, 2), (512, 6, 3), (1024, 2, 4))
"""Channels, number of blocks, and which of the five strides, as in `Stage`."""


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1, each with norm and activation.

    *Source:* figure 3, right.
    """

    def __init__(
        self, c_in: int, block: Block, stride: int, _drop_path: float, _design: Design
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv_norm(c_in, c_in, block.kernel, stride=stride, groups=c_in, act=block.act),
            conv_norm(c_in, block.channels, act=block.act),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        return self.block(x)


class MobileNetV1(StagedNetwork):
    """Stages of depthwise separable convolutions, without shortcuts."""

    block_class = Separable


def _design(width: float, act: Activation) -> Design:
    stem = c_in = rounded(32 * width)
    stages = []
    for channels, depth, place in STAGES:
        c_out = rounded(channels * width)
        blocks = []
        for _ in range(depth):
            blocks.append(Block(3, c_in, c_out, act))
            c_in = c_out
        stages.append(Stage(place, tuple(blocks)))
    return Design(stem, tuple(stages), act)


def _build(width: float, act: Activation, options: Options) -> MobileNetV1:
    if options.drop_path:
        raise ConfigError(
            "MobileNetV1 has no residual branches to drop",
            where="model.drop_path",
            fix="remove model.drop_path, or use mobilenet_v2",
        )
    return MobileNetV1(_design(width, act), options)


def _scaled(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``mobilenet_v1_xp5``."""
    width = multiplier(match["width"])
    if not width:
        return None
    return Entry(
        match[0],
        partial(_build, width, nn.ReLU),
        "mobilenet_v1",
        source=SOURCE,
        image_size=224,
        smallest=8,
    )


register(
    "mobilenet_v1",
    partial(_build, 1.0, nn.ReLU),
    family="mobilenet_v1",
    source=SOURCE,
    image_size=224,
    smallest=8,
    aliases=("mobilenet1", "mobilenetv1", "mobilenetv1_x1", "mobilenet_v1_x1"),
)
register(
    "mobilenetv1_100",
    partial(_build, 1.0, nn.ReLU6),
    family="mobilenet_v1",
    source=SOURCE,
    image_size=224,
    smallest=8,
)
register_grammar(r"mobilenet_?v1_x(?P<width>\d*p?\d+)", _scaled)
