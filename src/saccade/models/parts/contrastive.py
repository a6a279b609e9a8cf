"""Contrastive learning: an encoder, and a projector whose outputs are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from saccade.models.parts.layers import starting
from saccade.models.parts.learner import Learner


class Projector(nn.Sequential):
    """Linear layers without bias, each with a BatchNorm and, but for the last, a ReLU.

    *Source:* Chen et al. 2020, "SimCLR", section 4.2; the norms are those of the published code.
    """

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in zip((width, *widths), widths, strict=False):
            # the norm takes the scale out, so it only decides how fast the layer turns
            layers += [starting(nn.Linear(c_in, c_out, bias=False), weight=(0, c_in**-0.5))]
            layers += [nn.BatchNorm1d(c_out), nn.ReLU()]
        super().__init__(*layers[:-1])


class ContrastiveLearner(Learner):
    """An encoder of features (B, ``width``) and a projector to (B, ``widths[-1]``)."""

    def __init__(self, encoder: nn.Module, width: int, widths: Sequence[int]) -> None:
        super().__init__(encoder)
        self.projector = Projector(width, widths)

    def project(self, features: Tensor) -> Tensor:
        """Return the projections (B, p) of features (B, d)."""
        projected: Tensor = self.projector(features)
        return projected

    def forward(self, images: Tensor) -> Tensor:
        """Return the projections (B, p) of normalised images (B, 3, S, S)."""
        return self.project(self.features(images))
