"""MobileNetV3.

Howard, Sandler et al., *Searching for MobileNetV3*, 2019: tables 1 (large) and 2 (small). "Lite" is
the variant of edgeai-torchvision for quantisation: the same tables, ReLU everywhere, no squeeze and
excitation.

| name                         | stages of blocks | channels              | last, hidden |
parameters (1,000 classes) |
|------------------------------|------------------|-----------------------|--------------|----------------------------|
| mobilenet_v3_small           | 1 2 3 2 3        | 16 24 40 48 96        | 576, 1024    |
2,542,856                  |
| mobilenet_v3_large           | 1 2 3 4 2 3      | 16 24 40 80 112 160   | 960, 1280    |
5,483,032                  |
| mobilenetv3_lite_small_x1    | as small         | as small              | as small     |
2,081,216                  |
| mobilenetv3_lite_large_x1    | as large         | as large              | as large     |
3,970,752                  |
| mobilenetv3_lite_large_x2r   | as large         | doubled but the tail  | as large     |
5,539,288             |

A suffix multiplies all channels (``mobilenet_v3_small_xp75``), rounded to multiples of 8; an ``r``
behind it halves the tail: the last stage and what follows.
"""

from __future__ import annotations

import re
from functools import partial

from torch import nn

from saccade.models.parts.depthwise import Block, Design, Stage, StagedNetwork
from saccade.models.parts.layers import SqueezeExcitation, rounded
from saccade.models.parts.registry import Entry, Options, multiplier, register, register_grammar

SOURCE = "Howard et al. 2019, arXiv 1905.02244"

Row = tuple[int, int, int, bool, bool]
"""Side of the kernel, expanded channels, channels, squeeze and excitation, hard-swish (else
ReLU).
"""

LARGE: tuple[tuple[int, tuple[Row, ...]], ...] = (
    (0, ((3, 16, 16, False, False),)),
    (1, ((3, 64, 24, False, False), (3, 72, 24, False, False))),
    (2, ((5, 72, 40, True, False), (5, 120, 40, True, False), (5, 120, 40, True, False))),
    (
        3,
        (
            (3, 240, 80, False, True),
            (3, 200, 80, False, True),
            (3, 184, 80, False, True),
            (3, 184, 80, False, True),
        ),
    ),
    (0, ((3, 480, 112, True, True), (3, 672, 112, True, True))),
    (4, ((5, 672, 160, True, True), (5, 960, 160, True, True), (5, 960, 160, True, True))),
)
SMALL: tuple[tuple[int, tuple[Row, ...]], ...] = (
    (1, ((3, 16, 16, True, False),)),
    (2, ((3, 72, 24, False, False), (3, 88, 24, False, False))),
    (3, ((5, 96, 40, True, True), (5, 240, 40, True, True), (5, 240, 40, True, True))),
    (0, ((5, 120, 48, True, True), (5, 144, 48, True, True))),
    (4, ((5, 288, 96, True, True), (5, 576, 96, True, True), (5, 576, 96, True, True))),
)
"""Tables 2 and 1: stages with which of the five strides they take, as in `Stage`, and the rows
of their blocks.
"""

TABLES = {"small": (SMALL, 1024), "large": (LARGE, 1280)}


class MobileNetV3(StagedNetwork):
    """Stages of inverted residuals, some with squeeze-and-excitation, and a hidden linear layer."""

    def foreign_places(self, dialect: str) -> dict[str, str]:
        """Map the dotted names of our modules to theirs."""
        if dialect != "torchvision":
            return super().foreign_places(dialect)
        blocks = [place for place, _ in self.layers_of_blocks()]
        places = {place: f"features.{number}.block" for number, place in enumerate(blocks, start=1)}
        # torchvision numbers the blocks of all stages in one row
        places |= {"stem": "features.0", "last": f"features.{len(blocks) + 1}"}
        return places | {"hidden.0": "classifier.0", "classifier": "classifier.3"}


def _design(size: str, lite: bool, width: float, reduced_tail: bool) -> Design:
    table, hidden = TABLES[size]
    shrink = 2 if reduced_tail else 1
    stages = []
    for place, rows in table:
        tail = shrink if place == 4 else 1
        blocks = []
        for number, (kernel, expanded, channels, gated, hard) in enumerate(rows):
            # the first still expands what is no tail
            inner = rounded(expanded // (tail if number else 1) * width)
            c_out = rounded(channels // tail * width)
            act = nn.Hardswish if hard and not lite else nn.ReLU
            blocks.append(
                Block(
                    kernel,
                    inner,
                    c_out,
                    act=act,
                    squeezed=rounded(inner // 4) if gated and not lite else 0,
                )
            )
        stages.append(Stage(place, tuple(blocks)))
    return Design(
        rounded(16 * width),
        tuple(stages),
        nn.ReLU if lite else nn.Hardswish,
        last=6 * c_out,
        hidden=rounded(hidden // shrink * width),
        dropout=0.2,
        gate=partial(SqueezeExcitation, gate=nn.Hardsigmoid),
        eps=1e-3,
        momentum=0.01,
    )


def _build(
    size: str, lite: bool, width: float, reduced_tail: bool, options: Options
) -> MobileNetV3:
    return MobileNetV3(_design(size, lite, width, reduced_tail), options)


def _scaled(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``mobilenetv3_lite_large_x2r``."""
    width = multiplier(match["width"])
    if not width:
        return None
    build = partial(_build, match["size"], bool(match["lite"]), width, bool(match["tail"]))
    return Entry(match[0], build, "mobilenet_v3", source=SOURCE, image_size=224, smallest=8)


def _register_all() -> None:
    for size in TABLES:
        register(
            f"mobilenet_v3_{size}",
            partial(_build, size, False, 1.0, False),
            family="mobilenet_v3",
            source=SOURCE,
            image_size=224,
            smallest=8,
            aliases=(f"mobilenetv3_{size}",),
        )
        register(
            f"mobilenetv3_lite_{size}_x1",
            partial(_build, size, True, 1.0, False),
            family="mobilenet_v3",
            source=SOURCE,
            image_size=224,
            smallest=8,
            aliases=(f"mobilenetv3_lite_{size}",),
        )

    register_grammar(
        r"mobilenet_?v3(?P<lite>_lite)?_(?P<size>small|large)_x(?P<width>\d*p?\d+)(?P<tail>r)?",
        _scaled,
    )


_register_all()
