"""SimMIM: hidden patches become one learned token, and a linear layer predicts the pixels.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, *SimMIM: A Simple Framework for Masked Image Modeling*,
2022: figure 1, section 3. The encoder sees the whole map, so Swin can learn this way, too.

Shapes: B batch, C channels, h and w of the map of patches, S side of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from saccade.models.parts.attention import STD
from saccade.models.parts.layers import starting
from saccade.models.parts.learner import Learner, draw, headless
from saccade.models.parts.network import Level
from saccade.objectives.masked import Masked, MaskedImages, Target
from saccade.objectives.masks import usual_unit


class Filler(nn.Module):
    """The token of hidden patches, and the layer that predicts pixels.

    ``channels`` is the width of a patch, ``last`` the last map of the encoder. *Source:* Xie et al.
    2022, sections 3.2 and 3.3; the published code.
    """

    no_decay = ("mask_token",)

    def __init__(self, channels: int, last: Level) -> None:
        super().__init__()
        self.stride = last.stride
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.starts = {"mask_token": (0.0, STD)}
        self.pixels = starting(nn.Conv2d(last.channels, 3 * last.stride**2, 1), weight=(0.0, STD))

    def hide(self, patches: Tensor, hidden: Tensor) -> Tensor:
        """Replace the patches (B, h, w, C) that are ``hidden`` (B, h, w) by the token."""
        return torch.where(hidden[..., None], self.mask_token.to(patches.dtype), patches)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last map (B, C', h', w') to pixels (B, 3, h' stride, w' stride)."""
        return pixel_shuffle(self.pixels(x), self.stride)


class MaskedModel(Learner):
    """A ViT or a Swin that sees a learned token instead of each hidden patch."""

    encoder: Any

    def __init__(self, encoder: nn.Module, filler: Filler) -> None:
        super().__init__(encoder)
        self.filler = filler

    def forward(self, masked: Masked) -> Tensor:
        """Return the predicted image, (B, 3, S, S), normalised."""
        patches = self.filler.hide(self.encoder.patches(masked.images), masked.hidden)
        pixels = self.filler(self.encoder.last_map(patches))
        # a map of odd sides was padded, and its pixels reach beyond the image
        height, width = masked.images.shape[2:]
        return pixels[:, :, :height, :width]


@dataclass(frozen=True)
class SimMim(MaskedImages):
    """The absolute error of hidden pixels.

    *Source:* Xie et al. 2022, section 3.4.
    """

    name: ClassVar[str] = "simmim"
    ratio: ClassVar[float] = 0.6

    def wrap(self, network: nn.Module) -> MaskedModel:
        """Return a ViT or Swin with the layer that predicts pixels; raises ConfigError for any
        other network."""
        levels = self.require_patches(network)
        encoder, _ = headless(network)
        filler = Filler(levels[0].channels, levels[-1])
        draw(filler, self.config.seed, "filler")
        return MaskedModel(encoder, filler)

    def usual_unit(self) -> int:
        """Return a sixth of the side, in whole patches: 32 px of 192."""
        return usual_unit(self.config.data.image_size, self.patch)

    def target(self, images: Tensor) -> Tensor:
        """Return the normalised images (B, 3, S, S) unchanged."""
        return images

    def distance(self, difference: Tensor) -> Tensor:
        """Return the absolute values, of the same shape (...)."""
        return difference.abs()

    def best_constant(self, target: Target) -> Tensor:
        """Return the median (3, 1, 1) of the hidden pixels of the cell."""
        hidden = target.hidden[:, 0]
        return torch.stack([one[hidden].median() for one in target.pixels.unbind(1)]).view(3, 1, 1)

    def as_pixels(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Return the predictions (B, 3, S, S): they are normalised pixels."""
        return predicted
