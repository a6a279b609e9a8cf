"""AlexNet, three times.

Krizhevsky, Sutskever, Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*,
2012, section 3.5; V2 is the one-tower network of Krizhevsky, *One weird trick for parallelizing
convolutional neural networks*, 2014.

| name       | convolutions            | local response norms    | parameters (1,000 classes) |
|------------|-------------------------|-------------------------|----------------------------|
| alexnet_v1 | 96 256 384 384 256      | after the first two     | 62,378,344                 |
| alexnet_v2 | 64 192 384 384 256      | after the first two     | 61,838,248                 |
| alexnet    | 64 192 384 256 256      | none; torchvision's     | 61,100,840                 |

The first convolution is 11x11 every 4 pixels, the second 5x5, the others 3x3; the first, second and
fifth are followed by the maximum of 3x3 every 2 pixels; two hidden layers of 4,096. V1 has the
paper's two towers joined into one of double width. The norms are those of the paper, over five
channels.

Small images take smaller strides: the first convolution has the product of the first two of
`strides_for`, and is padded to keep the side then; the three pools have the others.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.parts.layers import strides_for
from saccade.models.parts.network import Level
from saccade.models.parts.plain import LocalResponseNorm, PlainNetwork, fan_in_start, quiet_head
from saccade.models.parts.registry import Options, register

HIDDEN = 4096


class Pool(nn.Module):
    """The maximum of 3x3 at every second pixel.

    A map narrower than that, which torch refuses, gives one point.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, (H - 1) // 2, (W - 1) // 2), at least one pixel."""
        return F.max_pool2d(x, 3, 2, ceil_mode=min(x.shape[-2:]) < 3)


def _pool(stride: int) -> nn.Module:
    return Pool() if stride == 2 else nn.Identity()


def _conv(
    c_in: int, c_out: int, kernel: int, gain: float = 2.0, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    # torchvision's 11x11 has 2; without a stride of 4 the side is kept
    padding = 2 if stride == 4 else kernel // 2
    return fan_in_start(nn.Conv2d(c_in, c_out, kernel, stride, padding), gain), nn.ReLU(
        inplace=True
    )


class AlexNet(PlainNetwork):
    """Five convolutions and three full layers, dropout before the hidden ones."""

    def __init__(
        self, widths: tuple[int, int, int, int, int], norms: bool, options: Options
    ) -> None:
        stem, pool, *strides = strides_for(options.image_size, options.strides)
        first, second, third, fourth, fifth = widths
        # The maximum of 3x3 raises the mean square about four times (measured); a response norm
        # takes it off again.
        gains = [2.0 if norms else 2.0 / stride**2 for stride in strides]
        norm = [LocalResponseNorm()] if norms else []
        stages = [
            nn.Sequential(
                *_conv(options.in_channels, first, 11, stride=stem * pool), *norm, _pool(strides[0])
            ),
            nn.Sequential(*_conv(first, second, 5, gains[0]), *norm, _pool(strides[1])),
            nn.Sequential(
                *_conv(second, third, 3, gains[1]),
                *_conv(third, fourth, 3),
                *_conv(fourth, fifth, 3),
                _pool(strides[2]),
            ),
        ]
        spans = [stem * pool * math.prod(strides[: place + 1]) for place in range(3)]
        super().__init__(
            stages,
            [Level(*level) for level in zip((first, second, fifth), spans, strict=True)],
            grid=6,
        )
        # *Source:* Krizhevsky et al. 2012, section 4.2
        rate = 0.5 if options.dropout is None else options.dropout
        self.classifier = nn.Sequential(
            nn.Dropout(rate),
            nn.Linear(fifth * 36, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(rate),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            quiet_head(HIDDEN, options.num_classes),
        )
        self.dropout = nn.Identity()  # none before the head


def _register_all() -> None:
    first, second = "Krizhevsky et al. 2012, section 3.5", "Krizhevsky 2014, arXiv 1404.5997"
    torchvision = f"{second}, as in torchvision"

    for name, widths, norms, source, aliases in (
        ("alexnet_v1", (96, 256, 384, 384, 256), True, first, ("alexnet1", "alexnetv1")),
        ("alexnet_v2", (64, 192, 384, 384, 256), True, second, ("alexnet2", "alexnetv2")),
        ("alexnet", (64, 192, 384, 256, 256), False, torchvision, ("alexnet_x1",)),
    ):
        build = partial(AlexNet, widths, norms)
        register(
            name,
            build,
            family="alexnet",
            source=source,
            image_size=224,
            smallest=16,
            aliases=aliases,
        )


_register_all()
