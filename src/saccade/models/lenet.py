"""LeNet-5, the first convolutional network that read cheques.

LeCun, Bottou, Bengio, Haffner, *Gradient-Based Learning Applied to Document Recognition*, 1998:
figure 2, section II.B. Parameters for 10 classes: 62,006 in colour, 61,706 in gray.

| layer | what                                    | map at 32 px |
|-------|-----------------------------------------|--------------|
| c1    | convolution 5x5, tanh                   | 6, 28x28     |
| s2    | mean of 2x2, tanh                       | 6, 14x14     |
| c3    | convolution 5x5, tanh                   | 16, 10x10    |
| s4    | mean of 2x2, tanh                       | 16, 5x5      |
| c5    | convolution 5x5, here a full layer, tanh | 120         |
| f6    | full layer, tanh                        | 84           |
| fc    | full layer                              | classes      |

As usual today c3 sees all six maps (the paper's table I leaves some out), the means have no
weights, and the last layer is linear. Digits of 28 px are padded to 32 in c1; below 28 px c3 is
padded, too. Maps of other sizes are averaged to 5x5.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.network import Level, Network
from saccade.models.parts.plain import MeanGrid, fan_in_start
from saccade.models.parts.registry import Options, register


class LeNet(Network):
    """LeNet-5 for images of any size."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        first, second = (2 if options.image_size < limit else 0 for limit in (32, 28))
        self.c1 = fan_in_start(nn.Conv2d(options.in_channels, 6, 5, padding=first), gain=1)
        self.c3 = fan_in_start(nn.Conv2d(6, 16, 5, padding=second), gain=1)
        self.pool = nn.AvgPool2d(2)
        self.tanh = nn.Tanh()
        self.grid = MeanGrid(5)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.levels = (Level(6, 2), Level(16, 4))
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(84, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return s2 and s4 of images (B, 3, H, W)."""
        s2 = self.tanh(self.pool(self.tanh(self.c1(x))))
        s4 = self.tanh(self.pool(self.tanh(self.c3(s2))))
        return [s2, s4]

    def embed(self, x: Tensor) -> Tensor:
        """Return f6 (B, 84) of images (B, 3, H, W)."""
        c5 = self.tanh(self.c5(self.grid(self.features(x)[-1]).flatten(1)))
        return self.tanh(self.f6(c5))


def _build(options: Options) -> LeNet:
    if options.strides:
        raise ConfigError(
            "LeNet has no strides to set",
            where="model.strides",
            fix="remove model.strides, or use resnet18",
        )
    return LeNet(options)


register(
    "lenet5",
    _build,
    family="lenet",
    source="LeCun et al. 1998, figure 2",
    image_size=32,
    smallest=8,
    aliases=("lenet", "lenet_5"),
)
