"""ConvNeXt.

Liu et al., *A ConvNet for the 2020s*, 2022: section 3, table 9. A residual network with the sizes,
norms and habits of a Swin transformer, and wide depthwise convolutions instead of attention.

| name           | widths           | blocks   | drop path | parameters (1,000 classes) | GMACs
at 224 |
|----------------|------------------|----------|-----------|----------------------------|--------------|
| convnext_tiny  | 96 192 384 768   | 3 3 9 3  | 0.1       | 28,589,128                 | 4.456
|
| convnext_small | 96 192 384 768   | 3 3 27 3 | 0.4       | 50,223,688                 | 8.684
|
| convnext_base  | 128 256 512 1024 | 3 3 27 3 | 0.5       | 88,591,464                 | 15.355
|

The first convolution takes patches of 4 x 4; small images keep their resolution longer
(`strides_for`): patches of 2 x 2 below 96 px, below 48 px a 3 x 3 convolution of stride 1.

Parameter names are torchvision's, ``stages`` for its ``features``.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from saccade.models.parts.attention import STD, linear
from saccade.models.parts.layers import (
    DepthwiseConv,
    DropPath,
    Permute,
    drop_path_rates,
    starting,
    strides_for,
)
from saccade.models.parts.network import Level, Network, renamed
from saccade.models.parts.registry import Options, register

SOURCE = "Liu et al. 2022, arXiv 2201.03545"
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Design:
    """Sizes of a network; drop path from table 5."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    drop_path: float


DESIGNS = {
    "tiny": Design((96, 192, 384, 768), (3, 3, 9, 3), 0.1),
    "small": Design((96, 192, 384, 768), (3, 3, 27, 3), 0.4),
    "base": Design((128, 256, 512, 1024), (3, 3, 27, 3), 0.5),
}


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # patches lie side by side and need no border
    padding = kernel // 2 if stride == 1 else 0
    return starting(nn.Conv2d(c_in, c_out, kernel, stride, padding), weight=(0.0, STD))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each place of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A 7x7 depthwise convolution, then two linear layers at each place, around a shortcut.

    *Source:* Liu et al. 2022, figure 4; the layer scale starts at 1e-6 (table 5).
    """

    no_decay = ("layer_scale",)

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            starting(DepthwiseConv(channels, 7), weight=(0.0, STD)),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, EPS),
            linear(channels, 4 * channels),
            nn.GELU(),
            linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.starts = {"layer_scale": (1e-6, 0.0)}
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.drop_path(self.layer_scale * self.block(x))


class ConvNeXt(Network):
    """A ConvNeXt: patches, four stages of blocks with halvings between, mean, norm, linear head.

    ``strides`` are those of the patches and of the three halvings.
    """

    head_name = "classifier.2"

    def __init__(self, design: Design, strides: tuple[int, ...], options: Options) -> None:
        super().__init__()
        channels, span = options.in_channels, 1
        last = design.drop_path if options.drop_path is None else options.drop_path

        rates = iter(drop_path_rates(last, sum(design.depths)))
        stages: list[nn.Module] = []
        levels = []

        for stage, (width, depth, stride) in enumerate(
            zip(design.widths, design.depths, strides, strict=True)
        ):
            # Later stages begin with a norm, the stem ends with one.
            if stage:
                stages.append(
                    nn.Sequential(
                        ChannelNorm(channels, EPS), _conv(channels, width, stride, stride)
                    )
                )
            else:
                conv = _conv(channels, width, stride if stride > 1 else 3, stride)
                stages.append(nn.Sequential(conv, ChannelNorm(width, EPS)))
            channels, span = width, span * stride
            stages.append(nn.Sequential(*(Block(channels, next(rates)) for _ in range(depth))))
            levels.append(Level(channels, span))

        self.levels = tuple(levels)
        self.stages = nn.ModuleList(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.classifier = nn.Sequential(
            ChannelNorm(channels, EPS), nn.Flatten(1), nn.Linear(channels, options.num_classes)
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, before any norm, finest first, for images (B, 3, H,
        W).
        """
        pairs = zip(self.stages[::2], self.stages[1::2], strict=True)
        return self.through(([halving, *blocks.children()] for halving, blocks in pairs), x)

    def embed(self, x: Tensor) -> Tensor:
        """Return the normed mean (B, C) of the last map of images (B, 3, H, W)."""
        return self.classifier[:2](self.avgpool(self.features(x)[-1]))

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to those of torchvision or timm."""
        return renamed(
            self.state_dict(), *{"torchvision": TORCHVISION, "timm": TIMM}.get(dialect, ())
        )


TORCHVISION = ((r"^stages\.", "features."),)
TIMM = (
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^stages\.0\.", "stem."),
    # in ascending order, so that no name that a rule made meets a later one
    *((rf"^stages\.{2 * s}\.(?!blocks|downsample)", f"stages.{s}.downsample.") for s in (1, 2, 3)),
    *((rf"^stages\.{2 * s + 1}\.(?!blocks|downsample)", f"stages.{s}.blocks.") for s in range(4)),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)


def _build(design: Design, options: Options) -> ConvNeXt:
    stem, pool, *halvings = strides_for(options.image_size, options.strides)
    return ConvNeXt(design, (stem * pool, *halvings), options)


for _size, _design in DESIGNS.items():
    register(
        f"convnext_{_size}",
        partial(_build, _design),
        family="convnext",
        source=SOURCE,
        image_size=224,
        smallest=8,
        aliases=(f"convnext_{_size[0]}",),
    )
