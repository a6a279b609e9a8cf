"""Attention, the block around it, and tables of positions: what transformers share.

Vaswani et al. 2017 (attention); Dosovitskiy et al. 2021, figure 1 (the pre-norm block).

Shapes: B batch, N tokens, C channels, H and W height and width of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from saccade.models.parts.layers import DropPath, starting

STD = 0.02
"""Of linear layers and tables of positions at the start. *Source:* Touvron et al. 2021; Liu et al.

2021 (the code).
"""


def linear(c_in: int, c_out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer that starts at N(0, 0.02^2)."""
    return starting(nn.Linear(c_in, c_out, bias), weight=(0.0, STD))


class Attention(nn.Module):
    """Multi-head self-attention. *Source:* Vaswani et al. 2017, section 3.2."""

    def __init__(self, channels: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(channels, 3 * channels, bias)
        self.proj = linear(channels, channels, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, C) to the same shape; ``mask`` (N, N) is added to the scores."""
        q, k, v = self.split(x)
        return self.join(scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (..., heads, N, C / heads), of tokens (..., N,
        C).
        """
        return (
            self.qkv(x)
            .unflatten(-1, (3, self.heads, -1))
            .movedim(-3, 0)
            .transpose(-3, -2)
            .unbind(0)
        )

    def join(self, x: Tensor) -> Tensor:
        """Mix the answers of all heads, (..., heads, N, C / heads), into tokens (..., N, C)."""
        return self.proj(x.transpose(-3, -2).flatten(-2))


class Block(nn.Module):
    """Attention, then an MLP for each token, each behind a norm and around a shortcut.

    *Source:* Dosovitskiy et al. 2021, equations 2 and 3. Names are those of torchvision's Swin.
    """

    def __init__(self, attention: Attention, drop_path: float, eps: float = 1e-5) -> None:
        super().__init__()
        channels = attention.proj.out_features
        self.norm1 = nn.LayerNorm(channels, eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps)
        hidden = 4 * channels
        # the Identity stands where torchvision has a Dropout, so that the names agree
        self.mlp = nn.Sequential(
            linear(channels, hidden), nn.GELU(), nn.Identity(), linear(hidden, channels)
        )
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens, (B, N, C) or a map (B, H, W, C), to the same shape.

        ``mask`` goes to the attention.
        """
        x = x + self.drop_path1(self.attn(self.norm1(x), mask))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def resized(table: Tensor, height: int, width: int) -> Tensor:
    """Interpolate a table of positions (H, W, C) bilinearly to (height, width, C).

    Two matrix products instead of torch's interpolation, whose gradient on CUDA depends on chance.
    *Source:* Dosovitskiy et al. 2021, section 3.2, and the published code (order 1).
    """
    if table.shape[:2] == (height, width):
        return table
    rows, columns = (
        _hats(*sides, table) for sides in zip(table.shape[:2], (height, width), strict=True)
    )
    return torch.einsum("hi,wj,ijc->hwc", rows, columns, table)


def _hats(old: int, new: int, like: Tensor) -> Tensor:
    """Return the weights (new, old) that interpolate ``old`` equidistant values linearly at
    ``new`` places.
    """
    # the centres of pixels are matched, as with align_corners off
    places = (torch.arange(new, device=like.device, dtype=torch.float32) + 0.5) * (old / new) - 0.5
    known = torch.arange(old, device=like.device, dtype=torch.float32)
    distance = (places.clamp(0, old - 1)[:, None] - known).abs()
    return (1 - distance).clamp(min=0).to(like.dtype)
