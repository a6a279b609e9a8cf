"""A first layer that is fitted to the images and not trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.models.parts.layers import starting

DAMPING = 5e-4
"""Added to the variances that the layer divides by. *Source:* Jordan 2024, listing 4."""

BIAS_SCALE = 8
"""Biases count so many times, so that a step moves them as if their rate were 64 times that of the
rest.

*Source:* Jordan 2024, section 3.4.
"""

IMAGES = 2048
"""How many images to fit the layer to."""


class Whitening(nn.Conv2d):
    """Fixed filters that decorrelate the pixels of a patch, each with both signs; trained bias.

    Until `fit` has seen images the filters are random. *Source:* Jordan 2024, section 3.2, for
    patches of 2 x 2.
    """

    def __init__(self, c_in: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        self.values = c_in * kernel**2
        super().__init__(c_in, 2 * self.values, kernel, stride, padding)
        self.weight.requires_grad_(False)
        starting(self, weight=(0.0, math.sqrt(1 / self.values)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to 2 ``kernel``^2 C channels, the map divided by ``stride``."""
        assert self.bias is not None
        return self._conv_forward(x, self.weight, BIAS_SCALE * self.bias)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the filters from the patches of images (B, C, H, W): eigenvectors over the root of
        their variance.
        """
        moments = torch.zeros(self.values, self.values, dtype=torch.float64, device=images.device)
        # patches overlap: those of all images would take many times their memory
        for part in torch.split(images, 16):
            patches = nn.functional.unfold(part.double(), self.kernel_size)
            moments += (patches @ patches.mT).mean(0) / patches.shape[2] * (len(part) / len(images))
        variances, vectors = torch.linalg.eigh(moments)
        rows = (vectors / (variances + DAMPING).sqrt()).T.flip(0)
        self.weight.copy_(torch.cat([rows, -rows]).view_as(self.weight))
