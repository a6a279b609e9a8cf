"""RegNetX and RegNetY: widths and depths from one line.

Radosavovic, Kosaraju, Girshick, He, Dollár, *Designing Network Design Spaces*, 2020: section 3.3,
equations 2 to 4, with the constants of its best networks. RegNetY adds squeeze-excitation after the
3x3 (section 5). Parameter names are torchvision's; `foreign_names` knows those of pycls and timm,
too.

| name             | widths            | blocks    | group width | parameters (1,000 classes) |
G multiply-accumulates |
|------------------|-------------------|-----------|-------------|----------------------------|------------------------|
| regnet_x_400mf   | 32 64 160 384     | 1 2 7 12  | 16          |   5,157,512                |
0.398                 |
| regnet_x_800mf   | 64 128 288 672    | 1 3 7 5   | 16          |   7,259,656                |
0.800                 |
| regnet_x_1_6gf   | 72 168 408 912    | 2 4 10 2  | 24          |   9,190,136                |
1.603                 |
| regnet_x_3_2gf   | 96 192 432 1008   | 2 6 15 2  | 48          |  15,296,552                |
3.177                 |
| regnet_x_8gf     | 80 240 720 1920   | 2 5 15 1  | 120         |  39,572,648                |
7.995                 |
| regnet_x_16gf    | 256 512 896 2048  | 2 6 13 1  | 128         |  54,278,536                |
15.941                 |
| regnet_x_32gf    | 336 672 1344 2520 | 2 7 13 1  | 168         | 107,811,560                |
31.736                 |
| regnet_y_400mf   | 48 104 208 440    | 1 3 6 6   | 8           |   4,344,144                |
0.402                 |
| regnet_y_800mf   | 64 128 320 768    | 1 3 8 2   | 16          |   6,263,168                |
0.797                 |
| regnet_y_1_6gf   | 48 120 336 888    | 2 6 17 2  | 24          |  11,202,430                |
1.612                 |
| regnet_y_3_2gf   | 72 216 576 1512   | 2 5 13 1  | 24          |  19,436,338                |
3.177                 |
| regnet_y_8gf     | 168 448 896 2016  | 2 4 10 1  | 56          |  39,180,068                |
7.963                 |
| regnet_y_16gf    | 224 448 1232 3024 | 2 4 11 1  | 112         |  83,590,140                |
15.912                 |
| regnet_y_32gf    | 232 696 1392 3712 | 2 5 12 1  | 232         | 145,046,770                |
32.280                 |

Torchvision rounds three of them wider. Those are `regnet_x_400mf_tv` (5,495,976),
`regnet_y_800mf_tv` (6,432,512) and `regnet_y_8gf_tv` (39,381,472), for its weights; the plain names
are the paper's networks, as in pycls and timm.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from torch import Tensor, nn

from saccade.models.parts.layers import (
    DropPath,
    SqueezeExcitation,
    conv_norm,
    drop_path_rates,
    rounded,
    strides_for,
    zero_start,
)
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Entry, Options, find, register, register_grammar

SOURCE = "Radosavovic et al. 2020, arXiv 2003.13678"
STEM_WIDTH = 32


@dataclass(frozen=True, slots=True)
class Design:
    """The line that gives the widths: ``depth`` blocks, from ``w_0`` with slope ``w_a``, in steps
    of a factor ``w_m``.

    Widths are rounded to whole groups: to the nearest number as in the authors' code, or, with
    ``tenth_at_most``, so that no stage loses more than a tenth of its width, as in torchvision.
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    tenth_at_most: bool = False

    def stages(self) -> list[tuple[int, int]]:
        """Return (width, number of blocks) of each stage.

        *Source:* equations 2 to 4 of the paper.
        """
        widths = []
        for j in range(self.depth):
            u = self.w_0 + self.w_a * j  # equation 2
            s = round(math.log(u / self.w_0, self.w_m))  # equation 3, rounded
            widths.append(8 * round(self.w_0 * self.w_m**s / 8))  # equation 4, in multiples of 8
        return [(self._whole_groups(width), len(list(blocks))) for width, blocks in groupby(widths)]

    def groups_of(self, width: int) -> int:
        """Return the number of groups of a 3x3 convolution.

        A stage narrower than a group is one group.
        """
        return width // min(self.group_width, width)

    def _whole_groups(self, width: int) -> int:
        group = min(self.group_width, width)
        return rounded(width, group) if self.tenth_at_most else group * round(width / group)


X_DESIGNS = {
    "400mf": Design(22, 24, 24.48, w_m=2.54, group_width=16),
    "800mf": Design(16, 56, 35.73, w_m=2.28, group_width=16),
    "1_6gf": Design(18, 80, 34.01, w_m=2.25, group_width=24),
    "3_2gf": Design(25, 88, 26.31, w_m=2.25, group_width=48),
    "8gf": Design(23, 80, 49.56, w_m=2.88, group_width=120),
    "16gf": Design(22, 216, 55.59, w_m=2.1, group_width=128),
    "32gf": Design(23, 320, 69.86, w_m=2.0, group_width=168),
}
Y_DESIGNS = {
    "400mf": Design(16, 48, 27.89, w_m=2.09, group_width=8),
    "800mf": Design(14, 56, 38.84, w_m=2.4, group_width=16),
    "1_6gf": Design(27, 48, 20.71, w_m=2.65, group_width=24),
    "3_2gf": Design(21, 80, 42.63, w_m=2.66, group_width=24),
    "8gf": Design(17, 192, 76.82, w_m=2.19, group_width=56),
    "16gf": Design(18, 200, 106.23, w_m=2.48, group_width=112),
    "32gf": Design(20, 232, 115.89, w_m=2.53, group_width=232),
}
X_DESIGNS |= {f"{size}_tv": replace(X_DESIGNS[size], tenth_at_most=True) for size in ("400mf",)}
Y_DESIGNS |= {
    f"{size}_tv": replace(Y_DESIGNS[size], tenth_at_most=True) for size in ("800mf", "8gf")
}


class Block(nn.Module):
    """1x1, grouped 3x3, 1x1, all of one width, around a shortcut.

    *Source:* Radosavovic et al. 2020, figure 4; in RegNetY ``squeezed`` channels of
    squeeze-excitation follow the 3x3.
    """

    def __init__(
        self, c_in: int, width: int, stride: int, groups: int, squeezed: int, drop_path: float
    ) -> None:
        super().__init__()
        projects = stride > 1 or c_in != width
        self.proj = conv_norm(c_in, width, 1, stride, act=None) if projects else nn.Identity()
        self.f = nn.Sequential()
        self.f.add_module("a", conv_norm(c_in, width, 1))
        self.f.add_module("b", conv_norm(width, width, 3, stride=stride, groups=groups))
        if squeezed:
            self.f.add_module("se", SqueezeExcitation(width, squeezed))
        last = conv_norm(width, width, 1, act=None)
        zero_start(last[1])
        self.f.add_module("c", last)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H / stride, W / stride)."""
        return self.activation(self.proj(x) + self.drop_path(self.f(x)))


class RegNet(Network):
    """A 3x3 stem, four stages of residual blocks, global average, linear head.

    Each stage halves the side in its first block. ``squeeze`` is the share of a block's input
    channels that its squeeze-excitation keeps, 0 for none.
    """

    def __init__(self, design: Design, squeeze: float, options: Options) -> None:
        super().__init__()
        stem, *strides = strides_for(options.image_size, options.strides)
        self.stem = conv_norm(options.in_channels, STEM_WIDTH, 3, stem)

        rates = iter(drop_path_rates(options.drop_path or 0.0, design.depth))
        self.trunk_output = nn.Sequential()
        levels, channels, span = [], STEM_WIDTH, stem

        for number, ((width, depth), stride) in enumerate(
            zip(design.stages(), strides, strict=True), 1
        ):
            stage = nn.Sequential()
            for place in range(depth):
                block = Block(
                    channels,
                    width,
                    stride if place == 0 else 1,
                    groups=design.groups_of(width),
                    # a share of the block's input, not of its own width
                    squeezed=round(squeeze * channels),
                    drop_path=next(rates),
                )
                stage.add_module(f"block{number}-{place}", block)
                channels = width

            self.trunk_output.add_module(f"block{number}", stage)
            span *= stride
            levels.append(Level(width, span))

        self.levels = tuple(levels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(channels, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, finest first, for images (B, 3, H, W)."""
        return self.through(
            (stage.children() for stage in self.trunk_output.children()), self.stem(x)
        )

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to those of ``pycls`` or ``timm``; torchvision's are ours."""
        rules = DIALECTS.get(dialect, ())
        theirs = {}
        for name in self.state_dict():
            theirs[name] = name
            for pattern, replacement in rules:
                theirs[name] = re.sub(pattern, replacement, theirs[name])
        return {ours: name for ours, name in theirs.items() if name != ours}


BLOCK = (r"^trunk_output\.block\d\.block(\d)-(\d+)", lambda m: f"s{m[1]}.b{int(m[2]) + 1}")
DIALECTS = {
    "pycls": (
        BLOCK,
        (r"^stem\.0", "stem.conv"),
        (r"^stem\.1", "stem.bn"),
        (r"proj\.0", "proj"),
        (r"proj\.1", "bn"),
        (r"f\.([abc])\.0", r"f.\1"),
        (r"f\.([abc])\.1", r"f.\1_bn"),
        (r"se\.fc1", "se.f_ex.0"),
        (r"se\.fc2", "se.f_ex.2"),
        (r"^fc", "head.fc"),
    ),
    "timm": (
        BLOCK,
        (r"^stem\.0", "stem.conv"),
        (r"^stem\.1", "stem.bn"),
        (r"proj\.0", "downsample.conv"),
        (r"proj\.1", "downsample.bn"),
        (r"f\.se", "se"),
        (r"f\.([abc])\.0", lambda m: f"conv{'abc'.index(m[1]) + 1}.conv"),
        (r"f\.([abc])\.1", lambda m: f"conv{'abc'.index(m[1]) + 1}.bn"),
        (r"^fc", "head.fc"),
    ),
}
"""How other projects spell our state names: replacements in their order."""


def _spelled_otherwise(match: re.Match[str]) -> Entry | None:
    """Find the network behind a name such as ``regnetx1p6gf_bgr``, where the suffix says what it
    was trained on.
    """
    size = re.sub("[p.]", "_", match["size"])
    designs = X_DESIGNS if match["kind"] == "x" else Y_DESIGNS
    return find(f"regnet_{match['kind']}_{size}") if size in designs else None


for _kind, _designs, _squeeze in (("x", X_DESIGNS, 0.0), ("y", Y_DESIGNS, 0.25)):
    for _size, _design in _designs.items():
        register(
            f"regnet_{_kind}_{_size}",
            partial(RegNet, _design, _squeeze),
            family="regnet",
            source=SOURCE,
            image_size=224,
            smallest=8,
        )
register_grammar(
    r"regnet_?(?P<kind>[xy])_?(?P<size>\d+(?:[p._]\d)?[mg]f)(?:_x1)?(?:_bgr)?", _spelled_otherwise
)
