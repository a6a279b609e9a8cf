"""MAE: most patches are removed, and a small decoder predicts them.

He, Chen, Xie, Li, Dollar, Girshick, *Masked Autoencoders Are Scalable Vision Learners*, 2022:
figure 1, section 3. The encoder sees only the visible quarter, which makes it cheap.

Shapes: B batch, N patches of an image, n visible ones, C channels of the encoder, D of the decoder,
h and w of the map of patches, P side of a patch, S side of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from saccade.errors import ConfigError
from saccade.models.parts.attention import STD, Attention, Block, linear
from saccade.models.parts.learner import Learner, draw, headless
from saccade.models.vit import EPS, VisionTransformer, waves
from saccade.objectives.masked import Masked, MaskedImages, Target

CHANNELS_A_HEAD = 32
"""Of the decoder. *Source:* the published code: 512 channels, 16 heads."""
WIDEST = 512
"""Channels of the published decoder, beside encoders of 768 to 1280. *Source:* He et al. 2022,
table 1.
"""
SMALL = 1e-6
"""Added to the variance of a patch. *Source:* the published code."""


class Decoder(nn.Module):
    """The decoder: from tokens of the visible patches to pixels of all patches.

    *Source:* He et al. 2022, section 3; the published code.
    """

    no_decay = ("mask_token",)

    def __init__(self, channels: int, patch: int, *, depth: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = linear(channels, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.starts = {"mask_token": (0.0, STD)}
        heads = max(width // CHANNELS_A_HEAD, 1)
        self.blocks = nn.ModuleList(Block(Attention(width, heads), 0.0, EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.pixels = linear(width, 3 * patch**2)

    def forward(self, tokens: Tensor, masked: Masked) -> Tensor:
        """Map the tokens of the visible patches to pixels (B, 3, h P, w P).

        ``tokens`` is (B, n, C), or (B, 1 + n, C) with a class token, which stays first.
        """
        x = self.embed(tokens)
        hidden = masked.hidden.flatten(1)
        extra = x.shape[1] - masked.visible.shape[1]
        first, own = x[:, :extra], x[:, extra:]

        # every visible place takes the next token; what a hidden place takes is not looked at
        number = ((~hidden).cumsum(1) - 1).clamp(min=0)
        own = own.gather(1, number[:, :, None].expand(-1, -1, x.shape[2]))
        filled = torch.where(hidden[:, :, None], self.mask_token.to(x.dtype), own)

        height, width = masked.hidden.shape[1:]
        x = torch.cat([first, filled + waves(height, width, self.norm.weight)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.pixels(self.norm(x[:, extra:]))
        return pixel_shuffle(x.mT.unflatten(2, (height, width)), self.patch)


class MaskedAutoencoder(Learner):
    """A ViT that sees the visible patches, and the decoder."""

    encoder: VisionTransformer

    def __init__(self, encoder: VisionTransformer, decoder: Decoder) -> None:
        super().__init__(encoder)
        self.decoder = decoder

    def forward(self, masked: Masked) -> Tensor:
        """Return predictions for every patch, (B, 3, h P, w P), each with mean 0 and deviation
        1."""
        patches = self.encoder.patches(masked.images)
        return self.decoder(self.encoder.encode(patches, masked.visible), masked)


@dataclass(frozen=True)
class Mae(MaskedImages):
    """The squared error of hidden patches, each normalised by its own mean and deviation.

    *Source:* He et al. 2022, section 3, "reconstruction target".
    """

    name: ClassVar[str] = "mae"
    ratio: ClassVar[float] = 0.75

    def wrap(self, network: nn.Module) -> MaskedAutoencoder:
        """Return a ViT with the decoder beside it; raises ConfigError for any other network."""
        self.require_patches(network)
        if not isinstance(network, VisionTransformer):
            raise ConfigError(
                f"MAE removes hidden patches, but {type(network).__name__} needs all of them",
                where="pretrain.method",
                fix="use `simmim` for Swin, or use a ViT such as vit_s_16",
            )
        channels = network.levels[0].channels
        headless(network)
        section = self.config.pretrain
        width = section.decoder_width or _width_beside(channels)
        decoder = Decoder(channels, self.patch, depth=section.decoder_depth, width=width)
        draw(decoder, self.config.seed, "decoder")
        return MaskedAutoencoder(network, decoder)

    def usual_unit(self) -> int:
        """Return the side of a patch: patches are hidden one by one."""
        return self.patch

    def target(self, images: Tensor) -> Tensor:
        """Return images (B, 3, S, S) of which every patch has mean 0 and deviation 1."""
        patches = pixel_unshuffle(images, self.patch)
        mean, deviation = _moments(patches)
        return pixel_shuffle((patches - mean) / deviation, self.patch)

    def distance(self, difference: Tensor) -> Tensor:
        """Return the squares, of the same shape (...)."""
        return difference.square()

    def best_constant(self, target: Target) -> Tensor:
        """Return the mean of the hidden pixels, (3, 1, 1), close to 0."""
        total = (target.pixels * target.hidden).sum((0, 2, 3))
        return (total / target.hidden.sum()).view(3, 1, 1)

    def as_pixels(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Give each predicted patch (B, 3, S, S) the mean and deviation of the original one.

        The network does not predict these two values.
        """
        mean, deviation = _moments(pixel_unshuffle(images, self.patch))
        return pixel_shuffle(pixel_unshuffle(predicted, self.patch) * deviation + mean, self.patch)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (B, 1, h, w) of the values of each patch (B, 3 P P, h, w)."""
    return patches.mean(1, keepdim=True), (patches.var(1, keepdim=True) + SMALL).sqrt()


def _width_beside(channels: int) -> int:
    """Return the channels of the decoder: two thirds of the encoder's, in whole heads."""
    return min(max(channels * 2 // 3 // CHANNELS_A_HEAD, 1) * CHANNELS_A_HEAD, WIDEST)
