"""SpatialNet 0-7, and the EfficientNet that shares its skeleton.

Both follow Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*,
2019: inverted residual blocks (Sandler et al. 2018, section 3.3), depth and width scaled together.
They differ in what stands between the depthwise and the last convolution of a block:
squeeze-excitation in the one (Hu et al. 2018); in SpatialNet two gates, one for each channel,
computed from a *learned* pooling, and one for each place (`docs/explain/spatialnet.md`).

Against table 1 of the EfficientNet paper all depthwise kernels are 3x3, the stem is 1x1, there is
no dropout, convolutions before a norm have a bias, and every level sees 224 px. The published
EfficientNet is another family.

| stage           | stem | 1  | 2  | 3  | 4  | 5   | 6   | 7   | last |
|-----------------|------|----|----|----|----|-----|-----|-----|------|
| channels, x w   | 32   | 16 | 24 | 40 | 80 | 112 | 192 | 320 | 1280 (never scaled) |
| blocks, x d     |      | 1  | 2  | 2  | 3  | 3   | 4   | 1   |      |
| expansion       |      | 1  | 6  | 6  | 6  | 6   | 6   | 6   |      |
| stride          | 2    | 1  | 2  | 2  | 2  | 1   | 2   | 1   |      |
| side at 224 px  | 113  | 113 | 57 | 29 | 15 | 15 | 8   | 8   |      |

| level | d   | w   | SpatialNet: parameters, G multiply-accumulates | EfficientNet         |
|-------|-----|-----|------------------------------------------------|----------------------|
| 0     | 1.0 | 1.0 |  5,503,768   0.429                             |  5,206,957   0.424   |
| 1     | 1.1 | 1.0 |  8,124,397   0.644                             |  7,689,486   0.636   |
| 2     | 1.2 | 1.1 |  9,259,207   0.746                             |  8,823,096   0.738   |
| 3     | 1.4 | 1.2 | 12,212,566   1.087                             | 11,721,730   1.076   |
| 4     | 1.8 | 1.4 | 18,957,607   1.709                             | 18,354,041   1.693   |
| 5     | 2.2 | 1.6 | 29,665,438   2.698                             | 28,917,572   2.676   |
| 6     | 2.6 | 1.8 | 41,860,130   3.855                             | 40,996,350   3.827   |
| 7     | 3.1 | 2.0 | 64,739,386   5.967                             | 63,672,117   5.929   |

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from saccade.models.parts.layers import (
    DepthwiseConv,
    DropPath,
    SqueezeExcitation,
    drop_path_rates,
    grid_means,
    resized_sum,
    rounded,
    starting,
    strides_for,
    zero_start,
)
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options, register

DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1)
WIDTHS = (1.0, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)
CHANNELS = (32, 16, 24, 40, 80, 112, 192, 320)
REPEATS = (1, 2, 2, 3, 3, 4, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
LAST_CHANNELS = 1280
GRID = 8
SQUEEZE = 24


class LearnedPooling(nn.Module):
    """Sum the places of a map with learned weights, the same for all channels.

    They start as the mean.

    There is one weight for each place of a ``side`` x ``side`` map, stored times ``side``; a map of
    another size gets them resized. Unscaled they would start at 1 / side², and steps that suit all
    other weights would drown them: after 50 steps of SGD at 96 px those of stage 1 were spread 88
    times as wide as their start.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.place_weights = nn.Parameter(torch.empty(side * side))
        starting(self, place_weights=(1 / side, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        weight = self.weight_for(x.shape[-2], x.shape[-1]).view(1, -1, 1)
        return torch.bmm(x.flatten(2), weight.expand(x.shape[0], -1, -1)).flatten(1)

    def weight_for(self, height: int, width: int) -> Tensor:
        """Return weights (height, width) with the sum of the learned ones: a constant map pools
        to the same value.
        """
        return resized_sum(self.place_weights.view(self.side, self.side) / self.side, height, width)


class OneChannel(nn.Conv2d):
    """A 1x1 convolution to a single map.

    The bias is added outside of it: on processors with AMX the library's gradient of the bias, in
    bfloat16 and above 2,048 inputs, writes past its memory (`docs/LOG.md`, 2026-11-26).
    """

    def __init__(self, c_in: int) -> None:
        super().__init__(c_in, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 1, H, W)."""
        out = nn.functional.conv2d(x, self.weight)
        assert self.bias is not None
        return out + self.bias.to(out.dtype)


class SpatialAttention(nn.Module):
    """Scale a map by 1 + a gate for each channel + a gate for each place, and clip it to 0 ... 6.

    Places are seen on a coarse grid of 8 x 8, and every cell of the grid gates its part of the map.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        squeezed, cells = max(1, channels // SQUEEZE), GRID**2
        self.pool = LearnedPooling(side)
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, squeezed),
            nn.SiLU(inplace=True),
            nn.Linear(squeezed, channels),
            nn.Sigmoid(),
        )
        # Fan-out, the rule of the other convolutions, would let the one channel grow with the
        # number of its inputs.
        self.merge = starting(OneChannel(channels), weight=(0.0, math.sqrt(1 / channels)))
        self.place_gate = nn.Sequential(
            nn.Linear(cells, 2 * cells),
            nn.SiLU(inplace=True),
            nn.Linear(2 * cells, cells),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        channel = self.channel_gate(self.pool(x))[:, :, None, None]
        cells = self.place_gate(grid_means(self.merge(x), GRID, GRID).flatten(1))
        place = spread(cells.view(-1, 1, GRID, GRID), x.shape[-2], x.shape[-1])
        return nn.functional.relu6(x * (1 + channel + place))


def spread(cells: Tensor, height: int, width: int) -> Tensor:
    """Repeat the cells of a grid (B, C, H, W) over a finer map, or average them over a coarser
    one, (height, width).
    """
    if height < cells.shape[-2] or width < cells.shape[-1]:
        return grid_means(cells, height, width)  # repeating would drop some
    return nn.functional.interpolate(cells, (height, width), mode="nearest")


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    """Return a convolution, BatchNorm and SiLU.

    The bias before the norm is part of the architecture's parameter count. The norm takes it out
    again, so that its gradient is zero up to rounding: do not wonder when it never moves.
    """
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.SiLU(inplace=True))


class Block(nn.Module):
    """Expand 1x1, depthwise 3x3, attention, project 1x1, around a shortcut where the shape stays.

    *Source:* Tan and Le 2019, table 1 (MBConv); ``side`` is that of the map after the depthwise
    convolution.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        expansion: int,
        stride: int,
        side: int,
        spatial: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        inner = c_in * expansion
        self.expand = _normed(nn.Conv2d(c_in, inner, 1)) if expansion > 1 else nn.Identity()
        self.depthwise = _normed(DepthwiseConv(inner, 3, stride))
        self.attention = (
            SpatialAttention(inner, side)
            if spatial
            else SqueezeExcitation(inner, max(1, inner // SQUEEZE), nn.SiLU)
        )
        self.adds = stride == 1 and c_in == c_out
        norm = nn.BatchNorm2d(c_out)
        self.project = nn.Sequential(
            nn.Conv2d(inner, c_out, 1), zero_start(norm) if self.adds else norm
        )
        self.drop_path = DropPath(drop_path) if drop_path and self.adds else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        out = self.project(self.attention(self.depthwise(self.expand(x))))
        return x + self.drop_path(out) if self.adds else out


class SpatialNet(Network):
    """Stem, seven stages of inverted residual blocks, a 1x1 convolution, the mean, a linear head.

    ``spatial`` chooses the attention of SpatialNet instead of squeeze-excitation. Of the five
    strides of `strides_for` one belongs to the stem, the others to stages 2, 3, 4 and 6.
    """

    def __init__(self, level: int, spatial: bool, options: Options) -> None:
        super().__init__()
        stem, *halvings = strides_for(options.image_size, options.strides)
        strides = (1, halvings[0], halvings[1], halvings[2], 1, halvings[3], 1)
        channels = [rounded(c * WIDTHS[level]) for c in CHANNELS]
        depths = [math.ceil(r * DEPTHS[level]) for r in REPEATS]
        # The border of one pixel makes 113 of 224; where the stem keeps the resolution there is
        # nothing to pad for.
        padding = stem - 1
        self.stem = _normed(nn.Conv2d(options.in_channels, channels[0], 1, stem, padding))
        # the learned pooling has a weight for each place, so each block must know its map
        side = (options.image_size + 2 * padding - 1) // stem + 1
        rates = iter(drop_path_rates(options.drop_path or 0.0, sum(depths)))
        self.stages = nn.ModuleList()
        levels, span = [], stem
        for (c_in, c_out), depth, expansion, stride in zip(
            pairwise(channels), depths, EXPANSIONS, strides, strict=True
        ):
            side, span = (side - 1) // stride + 1, span * stride
            first = Block(
                c_in,
                c_out,
                expansion,
                stride=stride,
                side=side,
                spatial=spatial,
                drop_path=next(rates),
            )
            rest = [
                Block(
                    c_out,
                    c_out,
                    expansion,
                    stride=1,
                    side=side,
                    spatial=spatial,
                    drop_path=next(rates),
                )
                for _ in range(depth - 1)
            ]
            self.stages.append(nn.Sequential(first, *rest))
            levels.append(Level(c_out, span))
        self.levels = tuple(levels[stage] for stage in ENDS)
        self.last = _normed(nn.Conv2d(channels[-1], LAST_CHANNELS, 1))
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(LAST_CHANNELS, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after stages 1, 2, 3, 5 and 7, finest first, for images (B, 3, H, W)."""
        maps = self.through((stage.children() for stage in self.stages), self.stem(x))
        return [maps[stage] for stage in ENDS]

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, 1280) of images (B, 3, H, W)."""
        return self.last(self.features(x)[-1]).mean((2, 3))


ENDS = (0, 1, 2, 4, 6)
"""The stages, counted from 0, after which the resolution changes or the network ends."""

for _level in range(len(DEPTHS)):
    register(
        f"spatialnet_{_level}",
        partial(SpatialNet, _level, True),
        family="spatialnet",
        source="prakharg24/spatialnet, blocks and levels; Tan and Le 2019, arXiv 1905.11946",
        image_size=224,
        smallest=8,
        aliases=(f"SpatialNet:{_level}", f"spatialnet{_level}"),
    )
    register(
        f"efficientnet_spec_{_level}",
        partial(SpatialNet, _level, False),
        family="spatialnet",
        source="Tan and Le 2019, arXiv 1905.11946, with 3x3 kernels and SpatialNet's stem",
        image_size=224,
        smallest=8,
        aliases=(f"EfficientNet:{_level}",),
    )
