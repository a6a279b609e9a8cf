"""Residual networks.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2016: table 1 (ImageNet) and
section 4.2 (CIFAR). Parameter names are torchvision's, so that weights move both ways.

| name             | block      | blocks     | widths            | parameters (1,000 classes) |
|------------------|------------|------------|-------------------|----------------------------|
| resnet18         | basic      | 2 2 2 2    | 64 128 256 512    | 11,689,512                 |
| resnet34         | basic      | 3 4 6 3    | 64 128 256 512    | 21,797,672                 |
| resnet50         | bottleneck | 3 4 6 3    | 64 128 256 512 x4 | 25,557,032                 |
| resnet101        | bottleneck | 3 4 23 3   | 64 128 256 512 x4 | 44,549,160                 |
| resnet152        | bottleneck | 3 8 36 3   | 64 128 256 512 x4 | 60,192,808                 |
| resnext50_32x4d  | bottleneck of 32 groups, 4 wide | 3 4 6 3 | as resnet50 | 25,028,904       |
| resnext101_32x8d | bottleneck of 32 groups, 8 wide | 3 4 23 3 | as resnet50 | 88,791,336      |
| wide_resnet50_2  | bottleneck, inner width doubled | 3 4 6 3 | as resnet50 | 68,883,240       |
| resnet8 ... resnet56 | basic | n n n  | 16 32 64 (times the suffix: ``resnet8_x2``) | depth 6n
+ 2   |

Suffixes of the five ResNets, in this order: ``_v1`` puts the stride on the first 1x1 as published
(without: on the 3x3, "v1.5"), ``_c`` takes a stem of three 3x3 convolutions, ``_d`` also an
averaging shortcut, ``_blur`` low-passes before every stride, ``_silu`` takes SiLU for ReLU,
``_xp5`` halves all widths (``_x2``, ``_x1p5``). ``_white`` after ``_c`` or ``_d`` fits the first
convolution to the images before the first step instead of training it.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.layers import BlurPool, DropPath, drop_path_rates, strides_for, zero_start
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Entry, Options, multiplier, register, register_grammar
from saccade.models.parts.whitening import Whitening

SOURCE = "He et al. 2016, arXiv 1512.03385"


@dataclass(frozen=True, slots=True)
class Design:
    """What the blocks of a network have in common.

    ``groups`` and ``group_width`` are ResNeXt's cardinality and width (Xie et al. 2017, table 1).
    ``early_stride`` puts a bottleneck's stride on its first convolution. ``deep_stem`` and
    ``mean_shortcut`` are the changes C and D of He et al. 2019, figure 2. ``white`` fits the first
    convolution of a deep stem to the images (Jordan 2024, section 3.2). ``blur`` low-passes before
    every stride (Zhang 2019, section 3.2). ``smooth`` takes SiLU for ReLU (Ramachandran et al.
    2017, section 4).
    """

    bottleneck: bool
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    group_width: int = 64
    early_stride: bool = False
    deep_stem: bool = False
    mean_shortcut: bool = False
    white: bool = False
    blur: bool = False
    smooth: bool = False

    def activation(self) -> nn.Module:
        """Return what follows a norm."""
        return nn.SiLU() if self.smooth else nn.ReLU(inplace=True)


DESIGNS = {
    "resnet18": Design(False, (2, 2, 2, 2)),
    "resnet34": Design(False, (3, 4, 6, 3)),
    "resnet50": Design(True, (3, 4, 6, 3)),
    "resnet101": Design(True, (3, 4, 23, 3)),
    "resnet152": Design(True, (3, 8, 36, 3)),
}
OTHERS = {
    "resnext50_32x4d": (
        Design(True, (3, 4, 6, 3), groups=32, group_width=4),
        "Xie et al. 2017, arXiv 1611.05431",
    ),
    "resnext101_32x8d": (
        Design(True, (3, 4, 23, 3), groups=32, group_width=8),
        "Xie et al. 2017, arXiv 1611.05431",
    ),
    "wide_resnet50_2": (
        Design(True, (3, 4, 6, 3), group_width=128),
        "Zagoruyko and Komodakis 2016, arXiv 1605.07146",
    ),
}


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. *Source:* He et al. 2016, figure 5, left."""

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int, drop_path: float, design: Design
    ) -> None:
        super().__init__()
        blurred = design.blur and stride > 1
        self.conv1 = _conv(c_in, width, 3, 1 if blurred else stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = design.activation()
        self.blur = BlurPool(width) if blurred else nn.Identity()
        self.conv2 = _conv(width, width, 3)
        self.bn2 = zero_start(nn.BatchNorm2d(width))
        self.downsample = _shortcut(c_in, width, stride, design)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        out = self.blur(self.relu(self.bn1(self.conv1(x))))
        out = self.drop_path(self.bn2(self.conv2(out)))
        out += self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, the stride on the 3x3 ("v1.5") unless the
    design says otherwise.

    *Source:* He et al. 2016, figure 5, right; the place of the stride follows Goyal et al. 2017,
    section 5.1.
    """

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, drop_path: float, design: Design
    ) -> None:
        super().__init__()
        c_out = width * self.expansion
        # 64 is the width of the first stage, for which the papers name the width of a group
        inner = width * design.group_width // 64 * design.groups
        blurred = design.blur and stride > 1
        left = 1 if blurred else stride

        # The paper strides in the first 1x1, everybody since in the 3x3 ("v1.5").
        early, late = (left, 1) if design.early_stride else (1, left)
        self.conv1 = _conv(c_in, inner, 1, early)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, stride=late, groups=design.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.blur = BlurPool(inner) if blurred else nn.Identity()

        self.conv3 = _conv(inner, c_out, 1)
        self.bn3 = zero_start(nn.BatchNorm2d(c_out))
        self.relu = design.activation()
        self.downsample = _shortcut(c_in, c_out, stride, design)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.blur(self.relu(self.bn2(self.conv2(out))))
        out = self.drop_path(self.bn3(self.conv3(out)))
        out += self.downsample(x)
        return self.relu(out)


def _shortcut(c_in: int, c_out: int, stride: int, design: Design) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    norm = nn.BatchNorm2d(c_out)
    if stride > 1 and design.blur:
        return nn.Sequential(BlurPool(c_in), _conv(c_in, c_out, 1), norm)
    if design.mean_shortcut:
        mean = (
            # rounded up as a strided convolution does; the border does not count
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )
        return nn.Sequential(mean, _conv(c_in, c_out, 1), norm)
    return nn.Sequential(_conv(c_in, c_out, 1, stride), norm)


def _stem(c_in: int, width: int, kernel: int, stride: int, design: Design) -> nn.Module:
    if not design.deep_stem:
        return _conv(c_in, width, kernel, stride)
    half = width // 2
    first: list[nn.Module] = [_conv(c_in, half, 3, stride), nn.BatchNorm2d(half)]
    inner = half
    if design.white:
        # the Identity keeps the places of the layers, and so the names of the weights
        first = [white := Whitening(c_in, 3, stride, padding=1), nn.Identity()]
        inner = white.out_channels
    return nn.Sequential(
        *first,
        design.activation(),
        _conv(inner, half, 3),
        nn.BatchNorm2d(half),
        design.activation(),
        _conv(half, width, 3),
    )


def _pool(channels: int, stride: int, blur: bool) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    if blur:
        # the maximum at every place first, then low-passed and thinned
        return nn.Sequential(nn.MaxPool2d(3, 1, padding=1), BlurPool(channels))
    return nn.MaxPool2d(3, stride, padding=1)


class ResNet(Network):
    """A residual network: stem, stages of residual blocks, global average, linear head.

    ``kernel`` is that of the stem; ``strides`` holds those of the stem, the pool (1 = no pool) and
    each stage.
    """

    def __init__(
        self, design: Design, kernel: int, strides: tuple[int, ...], options: Options
    ) -> None:
        super().__init__()
        channels, span = design.widths[0], strides[0] * strides[1]
        self.conv1 = _stem(options.in_channels, channels, kernel, stride=strides[0], design=design)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = design.activation()
        self.maxpool = _pool(channels, strides[1], design.blur)

        rates = iter(drop_path_rates(options.drop_path or 0.0, sum(design.depths)))
        block = Bottleneck if design.bottleneck else BasicBlock
        levels = []
        for stage, (depth, width) in enumerate(zip(design.depths, design.widths, strict=True)):
            stride = strides[2 + stage]
            blocks = []
            for place in range(depth):
                blocks.append(
                    block(channels, width, stride if place == 0 else 1, next(rates), design)
                )
                channels = width * block.expansion

            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            span *= stride
            levels.append(Level(channels, span))

        self.levels = tuple(levels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(channels, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, finest first, for images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.through(
            (self.get_submodule(f"layer{n + 1}").children() for n in range(len(self.levels))), x
        )


def _imagenet(design: Design, options: Options) -> ResNet:
    """Build a table 1 network; small images keep their resolution longer (`docs/models.md`)."""
    stem, pool, *stages = strides_for(options.image_size, options.strides)
    return ResNet(design, 7, (stem, pool, 1, *stages), options)


def _cifar(num_blocks: int, width: int, options: Options) -> ResNet:
    """Build a section 4.2 network: 3x3 stem, three stages."""
    if options.strides:
        raise ConfigError(
            "ResNets for small images have no strides to set",
            where="model.strides",
            fix="remove model.strides, or use resnet18",
        )
    design = Design(False, (num_blocks,) * 3, (16 * width, 32 * width, 64 * width))
    return ResNet(design, 3, (1, 1, 1, 2, 2), options)


def _variant(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``resnet50_d_xp5``."""
    design = DESIGNS.get(match["base"])
    if design is None:
        return None
    width = multiplier(match["width"] or "1")
    changed = replace(
        design,
        early_stride=bool(match["v1"]),
        deep_stem=bool(match["stem"]),
        mean_shortcut=match["stem"] == "_d",
        white=bool(match["white"]),
        blur=bool(match["blur"]),
        smooth=bool(match["silu"]),
        widths=tuple(round(w * width) for w in design.widths),
    )
    # a name such as `resnet18_xp01` means nothing
    if min(changed.widths) < 2:
        return None
    return Entry(
        match[0], partial(_imagenet, changed), "resnet", source=SOURCE, image_size=224, smallest=8
    )


def _register_all() -> None:
    for name, design in DESIGNS.items():
        aliases = (f"{name}_x1", f"{name}_v1p5", name.replace("resnet", "resnet_"))
        build = partial(_imagenet, design)
        register(
            name, build, family="resnet", source=SOURCE, image_size=224, smallest=8, aliases=aliases
        )

    for name, (design, source) in OTHERS.items():
        short = ("resnext50",) if name == "resnext50_32x4d" else ()
        build = partial(_imagenet, design)
        register(
            name, build, family="resnet", source=source, image_size=224, smallest=8, aliases=short
        )

    for num_blocks in (1, 2, 3, 5, 9):
        for width in (1, 2, 4):
            name = f"resnet{6 * num_blocks + 2}" + (f"_x{width}" if width > 1 else "")
            register(
                name,
                partial(_cifar, num_blocks, width),
                family="resnet-cifar",
                source=SOURCE + ", section 4.2",
                image_size=32,
                smallest=8,
            )

    register_grammar(
        r"(?P<base>resnet\d+)(?P<v1>_v1)?(?:(?P<stem>_[cd])(?P<white>_white)?)?"
        r"(?P<blur>_blur)?(?P<silu>_silu)?(?:_x(?P<width>\d*p?\d+))?",
        _variant,
    )


_register_all()
