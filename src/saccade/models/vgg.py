"""VGG: nothing but 3x3 convolutions.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2015:
table 1, columns A, B, D and E. ``_bn`` puts a norm behind every convolution (Ioffe and Szegedy
2015), ``_xp5`` halves all widths.

| name  | convolutions per stage | parameters (1,000 classes) | with norms  |
|-------|------------------------|----------------------------|-------------|
| vgg11 | 1 1 2 2 2              | 132,863,336                | 132,868,840 |
| vgg13 | 2 2 2 2 2              | 133,047,848                | 133,053,736 |
| vgg16 | 2 2 3 3 3              | 138,357,544                | 138,365,992 |
| vgg19 | 2 2 4 4 4              | 143,667,240                | 143,678,248 |

Widths are 64 128 256 512 512, each stage ends with the maximum of 2x2 every 2 pixels, two hidden
layers have 4,096. Small images leave out those of the five pools whose stride is 1 (`strides_for`).

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import re
from functools import partial

from torch import nn

from saccade.models.parts.layers import strides_for
from saccade.models.parts.network import Level
from saccade.models.parts.plain import PlainNetwork, fan_in_start, quiet_head
from saccade.models.parts.registry import Entry, Options, multiplier, register, register_grammar

SOURCE = "Simonyan and Zisserman 2015, arXiv 1409.1556"
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(PlainNetwork):
    """Five stages of 3x3 convolutions and three full layers, dropout after the hidden ones."""

    def __init__(
        self, depths: tuple[int, ...], norms: bool, width: float, options: Options
    ) -> None:
        stages, levels, span, c_in, gain = [], [], 1, options.in_channels, 2.0
        strides = strides_for(options.image_size, options.strides)
        for depth, base, stride in zip(depths, WIDTHS, strides, strict=True):
            layers, c_out = [], round(base * width)
            for _ in range(depth):
                layers += _layer(c_in, c_out, norms, gain)
                c_in, gain = c_out, 2.0
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2) if stride == 2 else nn.Identity()))
            gain = 2.0 / stride  # the maximum of 2x2 about doubles the mean square (measured)
            span *= stride
            levels.append(Level(c_out, span))
        super().__init__(stages, levels, grid=7)
        rate, hidden = 0.5 if options.dropout is None else options.dropout, round(HIDDEN * width)
        self.dropout = nn.Dropout(rate)
        # Dropout doubles the mean square, so 1 is enough for a ReLU; behind norms the first steps
        # are large already.
        gain = 0.25 if norms else 1.0
        self.classifier = nn.Sequential(
            fan_in_start(nn.Linear(c_in * 49, hidden), gain),
            nn.ReLU(inplace=True),
            nn.Dropout(rate),
            # here `dropout` acts
            fan_in_start(nn.Linear(hidden, hidden), gain),
            nn.ReLU(inplace=True),
            nn.Identity(),
            quiet_head(hidden, options.num_classes),
        )


def _layer(c_in: int, c_out: int, norms: bool, gain: float) -> list[nn.Module]:
    convolution = nn.Conv2d(c_in, c_out, 3, padding=1)
    if norms:
        return [convolution, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
    return [fan_in_start(convolution, gain), nn.ReLU(inplace=True)]


def _variant(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``vgg16_bn_xp5``."""
    width = multiplier(match["width"])
    if match["base"] not in DEPTHS or WIDTHS[0] * width < 2:
        return None
    build = partial(VGG, DEPTHS[match["base"]], bool(match["norms"]), width)
    return Entry(match[0], build, "vgg", source=SOURCE, image_size=224, smallest=8)


def _register_all() -> None:
    for base, depths in DEPTHS.items():
        for norms in (False, True):
            name = base + "_bn" * norms
            aliases = (f"{name}_x1", name.replace("vgg", "vgg_"))
            build = partial(VGG, depths, norms, 1.0)
            register(
                name,
                build,
                family="vgg",
                source=SOURCE,
                image_size=224,
                smallest=8,
                aliases=aliases,
            )
    register_grammar(r"(?P<base>vgg\d+)(?P<norms>_bn)?_x(?P<width>\d*p?\d+)", _variant)


_register_all()
