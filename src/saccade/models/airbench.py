"""The small plain network of the CIFAR-10 speed records, and its like for photographs.

Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, section 3 and listing 4; the sizes
are those of its public code. No shortcuts: what replaces them is a start near the identity (section
3.3), and a first layer that takes the correlations between neighbouring pixels out of the images
instead of learning to (section 3.2).

| layer       | what                                                   | map at 32 px   |
|-------------|--------------------------------------------------------|----------------|
| whiten      | fixed 2x2 filters with a trained bias, GELU            | 24, 31x31      |
| group 1     | 3x3, max of 2x2, norm, GELU; ``depth`` - 1 times 3x3, norm, GELU | w1, 15x15 |
| group 2     | the same                                               | w2, 7x7        |
| group 3     | the same                                               | w3, 3x3        |
| head        | max over the map, full layer                           | classes        |

| name       | widths      | depth | parameters (10 classes) | G multiply-accumulates |
|------------|-------------|-------|-------------------------|------------------------|
| airbench94 | 64 256 256  | 2     | 1,971,640               | 0.118                  |
| airbench95 | 128 384 384 | 2     | 4,604,728               | 0.302                  |
| airbench96 | 128 384 512 | 3     | 9,915,704               | 0.452                  |

Norms have a bias and no scale, the head has no bias. The second and third convolution of each group
of ``airbench96`` stand beside a shortcut.

For photographs the first layer looks at 3x3 pixels, every other place, and there is a fourth group.
These are ours: in five epochs of Imagenette they learn more than residual networks of the same cost
(`docs/LOG.md`, 2026-11-26).

| name             | widths          | depth | parameters (10 classes) | G multiply-accumulates
at 128 px |
|------------------|-----------------|-------|-------------------------|----------------------------------|
| airbench_photo_s | 64 128 256 512  | 2     | 4,721,384               | 0.511
|
| airbench_photo_m | 128 256 512 512 | 2     | 9,361,384               | 1.507
|

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.layers import starting
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options, register
from saccade.models.parts.whitening import BIAS_SCALE, Whitening

SOURCE = "Jordan 2024, arXiv 2404.00498"
FEATURE_SCALE = 1 / 9
"""*Source:* Jordan 2024, listing 4, the scale of the logits."""


class NearIdentity(nn.Conv2d):
    """A 3x3 convolution without bias whose first filters start by passing a channel on as it is.

    *Source:* Jordan 2024, section 3.3; the other filters start as torch's do.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1, bias=False)
        # the variance of torch's own start, a uniform one of bound 1 / sqrt(fan in)
        starting(self, weight=(0.0, math.sqrt(1 / (3 * 9 * c_in))))

    def finish_start(self) -> None:
        """Let the first filters, one for each channel as far as they go, pass it on."""
        nn.init.dirac_(self.weight[: min(self.in_channels, self.out_channels)])


class ShiftNorm(nn.BatchNorm2d):
    """BatchNorm without a scale, whose bias is ``BIAS_SCALE`` times the trained ``shift``.

    ``weight`` is one throughout: without a weight torch's kernels on a GPU give the bias no
    gradient.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6, momentum=0.4, affine=False)
        # the parameter goes, and a buffer takes its place under the same name
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)
        self.shift = nn.Parameter(torch.zeros(channels))
        starting(self, shift=(0.0, 0.0))

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        """What is added to each channel, (C,)."""
        return BIAS_SCALE * self.shift


class Group(nn.Module):
    """Convolutions at half the side of what comes in, rounded down or up.

    See the table of the module.
    """

    def __init__(self, c_in: int, c_out: int, depth: int, rounds_up: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=rounds_up)
        self.convs = nn.ModuleList(
            [NearIdentity(c_in if n == 0 else c_out, c_out) for n in range(depth)]
        )
        self.norms = nn.ModuleList([ShiftNorm(c_out) for _ in range(depth)])
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H / 2, W / 2)."""
        # pooled before the norm, as in the published code
        first = x = self.gelu(self.norms[0](self.pool(self.convs[0](x))))
        for number, (conv, norm) in enumerate(zip(self.convs[1:], self.norms[1:], strict=True)):
            out = norm(conv(x))
            x = self.gelu(out + first if number else out)
        return x


class Airbench(Network):
    """A whitening layer, groups of convolutions, the maximum over the last map, a linear head.

    The first layer takes patches of side ``patch``, ``stride`` pixels apart; with a stride odd
    sides are rounded up.
    """

    def __init__(
        self, patch: int, stride: int, widths: tuple[int, ...], depth: int, options: Options
    ) -> None:
        super().__init__()
        if options.strides:
            raise ConfigError(
                "airbench networks have no strides to set",
                where="model.strides",
                fix="remove model.strides, or use resnet18",
            )
        self.whiten = Whitening(options.in_channels, patch, stride, padding=(patch - 1) // 2)
        self.gelu = nn.GELU()
        inputs = (self.whiten.out_channels, *widths)
        self.groups = nn.ModuleList(
            [Group(a, b, depth, stride > 1) for a, b in zip(inputs, widths, strict=False)]
        )
        self.levels = tuple(Level(width, 2 * stride << n) for n, width in enumerate(widths))
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(widths[-1], options.num_classes, bias=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each group, finest first, for images (B, 3, H, W)."""
        return self.through(([group] for group in self.groups), self.gelu(self.whiten(x)))

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W)."""
        return FEATURE_SCALE * self.features(x)[-1].amax((2, 3))


for _name, _widths, _depth in (
    ("airbench94", (64, 256, 256), 2),
    ("airbench95", (128, 384, 384), 2),
    ("airbench96", (128, 384, 512), 3),
):
    register(
        _name,
        partial(Airbench, 2, 1, _widths, _depth),
        family="airbench",
        source=SOURCE,
        image_size=32,
        smallest=20,
    )
for _size, _wider in (("s", (64, 128, 256, 512)), ("m", (128, 256, 512, 512))):
    register(
        f"airbench_photo_{_size}",
        partial(Airbench, 3, 2, _wider, 2),
        family="airbench",
        source=f"{SOURCE}, changed",
        image_size=128,
        smallest=33,
    )
