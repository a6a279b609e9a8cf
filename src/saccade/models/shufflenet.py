"""ShuffleNet V2.

Ma, Zhang, Zheng, Sun, *ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design*,
2018: table 5. Half of the channels pass each block untouched; a shuffle mixes the halves
afterwards. Parameter names are torchvision's.

| stage                   | map at 224 px | x0.5 | x1.0 | x1.5 | x2.0 |
|-------------------------|---------------|------|------|------|------|
| 3x3 convolution, 3x3 max pool | 112, 56 | 24   | 24   | 24   | 24   |
| 4 blocks                | 28            | 48   | 116  | 176  | 244  |
| 8 blocks                | 14            | 96   | 232  | 352  | 488  |
| 4 blocks                | 7             | 192  | 464  | 704  | 976  |
| 1x1 convolution         | 7             | 1024 | 1024 | 1024 | 2048 |
| parameters (1,000 classes) |            | 1,366,792 | 2,278,604 | 3,503,624 | 7,393,996 |

Names are torchvision's, ``shufflenet_v2_x1_5``, and edgeai-torchvision's, ``shufflenetv2_x1p5``.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.layers import conv_norm, strides_for
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options, register

SOURCE = "Ma et al. 2018, arXiv 1807.11164"
DEPTHS = (4, 8, 4)
SCALES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "x0_5": (("xp5", "x0p5"), (48, 96, 192, 1024)),
    "x1_0": (("x1", "x1p0"), (116, 232, 464, 1024)),
    "x1_5": (("x1p5",), (176, 352, 704, 1024)),
    "x2_0": (("x2", "x2p0"), (244, 488, 976, 2048)),
}
"""Other spellings of the scale; channels of the three stages and of the last convolution."""


class ShuffleBlock(nn.Module):
    """One half of the channels passes, the other is convolved.

    Or both are, to halve the side or to widen.

    *Source:* figure 3 (c) and (d).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        half = c_out // 2
        self.splits = stride == 1 and c_in == c_out
        entering = half if self.splits else c_in
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_norm(c_in, c_in, 3, stride, groups=c_in, act=None), *conv_norm(c_in, half)
            )
        self.branch2 = nn.Sequential(
            *conv_norm(entering, half),
            *conv_norm(half, half, 3, stride, groups=half, act=None),
            *conv_norm(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, c_out, H / stride, W / stride)."""
        if self.splits:
            left, right = x.chunk(2, dim=1)
        else:
            left, right = self.branch1(x), x
        # without it the half that passes would never meet the other
        return nn.functional.channel_shuffle(torch.cat((left, self.branch2(right)), dim=1), 2)


class ShuffleNet(Network):
    """Stem, pool, three stages of shuffled blocks, a 1x1 convolution, global average, linear
    head.
    """

    def __init__(self, widths: tuple[int, ...], options: Options) -> None:
        super().__init__()
        stem, pool, *strides = strides_for(options.image_size, options.strides)
        channels, span = 24, stem * pool
        self.conv1 = conv_norm(options.in_channels, channels, 3, stem)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if pool == 2 else nn.Identity()
        levels = [Level(channels, stem), Level(channels, span)]
        for number, (depth, width, stride) in enumerate(
            zip(DEPTHS, widths, strides, strict=False), start=2
        ):
            blocks = [ShuffleBlock(channels, width, stride)]
            blocks += [ShuffleBlock(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
            channels, span = width, span * stride
            levels.append(Level(channels, span))
        self.levels = tuple(levels)
        self.conv5 = conv_norm(channels, widths[-1])
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(widths[-1], options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the stem, the pool and each stage, finest first, for images (B, 3,
        H, W).
        """
        stem = self.run(self.conv1, x)
        pooled = self.maxpool(stem)
        stages = (self.get_submodule(f"stage{2 + n}").children() for n in range(len(DEPTHS)))
        return [stem, pooled, *self.through(stages, pooled)]

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W)."""
        return self.conv5(self.features(x)[-1]).mean((2, 3))


def _build(widths: tuple[int, ...], options: Options) -> ShuffleNet:
    if options.drop_path:
        raise ConfigError(
            "ShuffleNet V2 has no residual branches to drop",
            where="model.drop_path",
            fix="remove model.drop_path, or use mobilenet_v2",
        )
    return ShuffleNet(widths, options)


for _suffix, (_spellings, _widths) in SCALES.items():
    register(
        f"shufflenet_v2_{_suffix}",
        partial(_build, _widths),
        family="shufflenet_v2",
        source=SOURCE,
        image_size=224,
        smallest=8,
        aliases=tuple(f"shufflenetv2_{x}" for x in _spellings),
    )
