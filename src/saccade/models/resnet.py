"""Residual networks.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2016: table 1 (ImageNet) and section 4.2 (CIFAR).
Parameter names are torchvision's, so that weights move both ways.

| name      | block      | blocks     | widths            | parameters (1,000 classes) |
|-----------|------------|------------|-------------------|----------------------------|
| resnet18  | basic      | 2 2 2 2    | 64 128 256 512    | 11,689,512                 |
| resnet34  | basic      | 3 4 6 3    | 64 128 256 512    | 21,797,672                 |
| resnet50  | bottleneck | 3 4 6 3    | 64 128 256 512 x4 | 25,557,032                 |
| resnet101 | bottleneck | 3 4 23 3   | 64 128 256 512 x4 | 44,549,160                 |
| resnet152 | bottleneck | 3 8 36 3   | 64 128 256 512 x4 | 60,192,808                 |
| resnet8 ... resnet56 | basic | n n n  | 16 32 64 (times the suffix: ``resnet8_x2``) | depth 6n + 2   |

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from saccade.models.layers import DropPath, drop_path_rates, zero_start
from saccade.models.registry import Options, register

SOURCE = "He et al. 2016, arXiv 1512.03385"


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. *Source:* He et al. 2016, figure 5, left."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = zero_start(nn.BatchNorm2d(width))
        self.downsample = _shortcut(c_in, width, stride)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.drop_path(self.bn2(self.conv2(out)))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, the stride on the 3x3 ("v1.5").

    *Source:* He et al. 2016, figure 5, right; the place of the stride follows Goyal et al. 2017, section 5.1.
    """

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = _conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, c_out, 1)
        self.bn3 = zero_start(nn.BatchNorm2d(c_out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(c_in, c_out, stride)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.drop_path(self.bn3(self.conv3(out)))
        return self.relu(out + self.downsample(x))


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(_conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class ResNet(nn.Module):
    """A residual network: stem, stages of residual blocks, global average, linear head.

    ``stem`` is ``(kernel, stride, pool)``; ``strides`` holds one stride per stage.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        stem: tuple[int, int, bool],
        strides: tuple[int, ...],
        options: Options,
    ) -> None:
        super().__init__()
        kernel, stride, pool = stem
        channels = widths[0]
        self.conv1 = _conv(options.in_channels, channels, kernel, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if pool else nn.Identity()
        rates = iter(drop_path_rates(options.drop_path, sum(depths)))
        self.num_stages = len(depths)
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for place in range(depth):
                blocks.append(block(channels, width, strides[stage] if place == 0 else 1, next(rates)))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(channels, options.num_classes)

    @property
    def head(self) -> nn.Linear:
        """The linear layer that turns pooled features into logits."""
        return self.fc

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, finest first, for images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W)."""
        return self.avgpool(self.features(x)[-1]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, 3, H, W)."""
        return self.fc(self.dropout(self.embed(x)))


def _imagenet(block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], options: Options) -> ResNet:
    """Build a table 1 network; small images keep their resolution longer (`docs/models.md`)."""
    if options.image_size < 48:
        stem, strides = (7, 1, False), (1, 1, 2, 2)
    elif options.image_size < 96:
        stem, strides = (7, 2, False), (1, 2, 2, 2)
    else:
        stem, strides = (7, 2, True), (1, 2, 2, 2)
    return ResNet(block, depths, (64, 128, 256, 512), stem, strides, options)


def _cifar(num_blocks: int, width: int, options: Options) -> ResNet:
    """Build a section 4.2 network: 3x3 stem, three stages."""
    widths = (16 * width, 32 * width, 64 * width)
    return ResNet(BasicBlock, (num_blocks,) * 3, widths, (3, 1, False), (1, 2, 2), options)


def _register_all() -> None:
    tables: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
        "resnet18": (BasicBlock, (2, 2, 2, 2)),
        "resnet34": (BasicBlock, (3, 4, 6, 3)),
        "resnet50": (Bottleneck, (3, 4, 6, 3)),
        "resnet101": (Bottleneck, (3, 4, 23, 3)),
        "resnet152": (Bottleneck, (3, 8, 36, 3)),
    }
    for name, (block, depths) in tables.items():
        build: Callable[[Options], nn.Module] = partial(_imagenet, block, depths)
        aliases = (f"{name}_x1", name.replace("resnet", "resnet-"))
        register(name, build, family="resnet", source=SOURCE, image_size=224, aliases=aliases)
    for num_blocks in (1, 2, 3, 5, 9):
        for width in (1, 2, 4):
            name = f"resnet{6 * num_blocks + 2}" + (f"_x{width}" if width > 1 else "")
            build = partial(_cifar, num_blocks, width)
            register(name, build, family="resnet-cifar", source=SOURCE + ", section 4.2", image_size=32)


_register_all()
