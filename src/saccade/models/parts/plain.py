"""What networks without shortcuts and norms share: initialisation, LRN, and the classifier.

Without a norm nothing repairs a signal that shrinks or grows from layer to layer: then the first
gradients are lost and the loss stays at that of guessing. So all of their layers start from
`fan_in_start`.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.parts.layers import ModuleT, grid_means, starting
from saccade.models.parts.network import Level, Network


def fan_in_start(layer: ModuleT, gain: float = 2.0) -> ModuleT:
    """Let a convolution or linear layer start so that its output has the mean square of its input.

    ``gain`` makes up for what follows: 2 for a ReLU, which loses half of the mean square, 1 for
    nothing or tanh. *Source:* He et al. 2015, equation 10.
    """
    weight = layer.get_parameter("weight")
    fan_in = weight.numel() / weight.shape[0]
    return starting(layer, weight=(0.0, math.sqrt(gain / fan_in)), bias=(0.0, 0.0))


def quiet_head(c_in: int, num_classes: int) -> nn.Linear:
    """Return a head for thousands of features without norm: its logits start near zero."""
    return starting(nn.Linear(c_in, num_classes), weight=(0.0, 0.002))


class LocalResponseNorm(nn.Module):
    """Divide each pixel of a channel by (2 + 1e-4 times the sum of squares in 5 neighbouring
    channels) ^ 0.75.

    torch's own layer divides the factor by 5 and takes 1 for the 2; on CUDA its backward pass adds
    in random order. *Source:* Krizhevsky et al. 2012, section 3.3.
    """

    reach = 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        # in float32: squares overflow in fp16
        squares = F.pad(x.float().square(), (0, 0, 0, 0, self.reach, self.reach))
        channels = x.shape[1]
        energy = sum(
            (squares[:, i : i + channels] for i in range(1, 2 * self.reach + 1)),
            squares[:, :channels],
        )
        return (x / (2.0 + 1e-4 * energy) ** 0.75).to(x.dtype)


class MeanGrid(nn.Module):
    """Means of ``side`` x ``side`` windows that cover a map of any size evenly."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, side, side)."""
        return x if x.shape[-2:] == (self.side, self.side) else grid_means(x, self.side, self.side)


class PlainNetwork(Network):
    """Stages of convolutions, a grid of means, and a classifier whose last layer, the seventh,
    is the head.
    """

    head_name: ClassVar[str] = "classifier.6"

    def __init__(self, stages: Sequence[nn.Sequential], levels: Sequence[Level], grid: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.levels = tuple(levels)
        self.avgpool = MeanGrid(grid)
        self.classifier: nn.Sequential

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map after each stage, finest first, for images (B, 3, H, W)."""
        return self.through(([stage] for stage in self.stages), x)

    def embed(self, x: Tensor) -> Tensor:
        """Return what the last hidden layer makes of images (B, 3, H, W): (B, hidden)."""
        return self.classifier[:-1](self.avgpool(self.features(x)[-1]).flatten(1))

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to torchvision's, which numbers the layers of all stages in one
        row.
        """
        if dialect != "torchvision":
            return {}
        layers = [layer for stage in self.stages for layer in stage.children()]
        ours = {layer: name for name, layer in self.named_modules()}
        return {
            f"{ours[layer]}.{leaf}": f"features.{row}.{leaf}"
            for row, layer in enumerate(layers)
            for leaf in layer.state_dict()
        }
