"""DarkNet-53, the backbone of YOLOv3.

Redmon and Farhadi, *YOLOv3: An Incremental Improvement*, 2018, table 1. 41,609,928 parameters for
1,000 classes.

| stage | first convolution        | residual blocks (1x1, 3x3) | map at 256 px |
|-------|--------------------------|----------------------------|---------------|
| stem  | 3x3, 32                  |                            | 256x256       |
| 0     | 3x3 every 2 pixels, 64   | 1                          | 128x128       |
| 1     | 3x3 every 2 pixels, 128  | 2                          | 64x64         |
| 2     | 3x3 every 2 pixels, 256  | 8                          | 32x32         |
| 3     | 3x3 every 2 pixels, 512  | 8                          | 16x16         |
| 4     | 3x3 every 2 pixels, 1024 | 4                          | 8x8           |

Below zero the activations have slope 0.1, as in the author's program. timm's network of this name,
whose parameter names these are, has 0.01: its weights fit in but were trained for that slope.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from saccade.models.parts.layers import ConvNorm, DropPath, drop_path_rates, strides_for, zero_start
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options, register

WIDTHS = (64, 128, 256, 512, 1024)
DEPTHS = (1, 2, 8, 8, 4)


def _layer(c_in: int, c_out: int, kernel: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(c_in, c_out, kernel, stride, act=nn.LeakyReLU(0.1, inplace=True))


class Block(nn.Module):
    """Halve the channels by a 1x1 convolution, double them by a 3x3, add the input."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = _layer(channels, channels // 2, 1)
        self.conv2 = _layer(channels // 2, channels, 3)
        zero_start(self.conv2.bn)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.drop_path(self.conv2(self.conv1(x)))


class Stage(nn.Module):
    """One convolution that changes the width, and the side, then residual blocks."""

    def __init__(self, c_in: int, c_out: int, stride: int, rates: list[float]) -> None:
        super().__init__()
        self.conv_down = _layer(c_in, c_out, 3, stride)
        self.blocks = nn.Sequential(*(Block(c_out, rate) for rate in rates))

    def steps(self) -> Iterator[nn.Module]:
        """Yield the layers in order."""
        yield self.conv_down
        yield from self.blocks


class DarkNet(Network):
    """A stem, five stages that halve the side by `strides_for`, global average, linear head."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        channels, span, levels = 32, 1, []
        self.stem = _layer(options.in_channels, channels, 3)
        rates = drop_path_rates(options.drop_path or 0.0, sum(DEPTHS))
        self.stages = nn.ModuleList()
        for width, depth, stride in zip(
            WIDTHS, DEPTHS, strides_for(options.image_size, options.strides), strict=True
        ):
            own, rates = rates[:depth], rates[depth:]
            self.stages.append(Stage(channels, width, stride, own))
            channels, span = width, span * stride
            levels.append(Level(channels, span))
        self.levels = tuple(levels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(channels, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, finest first, for images (B, 3, H, W)."""
        return self.through((cast(Stage, stage).steps() for stage in self.stages), self.stem(x))

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to timm's: the stem and the head stand one floor deeper there."""
        if dialect != "timm":
            return {}
        deeper = {"stem.": "stem.conv1.", "fc.": "head.fc."}
        return {
            n: new + n.removeprefix(old)
            for old, new in deeper.items()
            for n in self.state_dict()
            if n.startswith(old)
        }


register(
    "darknet53",
    DarkNet,
    family="darknet",
    source="Redmon and Farhadi 2018, arXiv 1804.02767",
    image_size=256,
    smallest=8,
    aliases=("darknet_53",),
)
