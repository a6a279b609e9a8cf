"""Vision transformers.

Dosovitskiy et al., *An Image Is Worth 16x16 Words*, 2021: figure 1, section 3.1, table 1; Ti and S
are those of Touvron et al. 2021, table 1. The image is cut into patches; each becomes a token;
blocks of attention follow.

| name      | patch | width | blocks | heads | parameters (1,000 classes) | GMACs at 224 |
|-----------|-------|-------|--------|-------|----------------------------|--------------|
| vit_ti_16 | 16    | 192   | 12     | 3     | 5,717,416                  | 1.254        |
| vit_s_16  | 16    | 384   | 12     | 6     | 22,050,664                 | 4.599        |
| vit_s_32  | 32    | 384   | 12     | 6     | 22,878,952                 | 1.143        |
| vit_b_16  | 16    | 768   | 12     | 12    | 86,567,656                 | 17.564       |
| vit_b_32  | 32    | 768   | 12     | 12    | 88,224,232                 | 4.409        |
| vit_l_16  | 16    | 1024  | 24     | 16    | 304,326,632                | 61.555       |
| vit_l_32  | 32    | 1024  | 24     | 16    | 306,535,400                | 15.378       |
| vit_base_16 | 16  | 768   | 12     | 12    | 86,533,864                 | 17.564       |

``vit_base_16`` is vit_b_16 with another beginning (norm, linear layer, norm instead of a
convolution) and no biases in attention. Suffixes: ``_mean`` averages the tokens instead of adding a
class token; ``_sincos`` gives positions as fixed waves instead of a learned table.
vit_s_16_mean_sincos is the baseline of Beyer, Zhai and Kolesnikov 2022.

Small images get small patches: 4 px below 48, half the name's below 96. Pixels that fill no patch
are left out. At another size than the one it was built for, a table is interpolated; waves are
computed anew.

Names of parameters are torchvision's where a module of torchvision's is one of ours;
`foreign_names` has the rest.

Shapes: B batch, N tokens, C channels, P side of a patch, H and W height and width of the image, h
and w of the map.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.attention import STD, Attention, Block, resized
from saccade.models.parts.layers import Permute, drop_path_rates, starting
from saccade.models.parts.network import Level, Network, renamed
from saccade.models.parts.registry import Entry, Options, register, register_grammar

SOURCE = "Dosovitskiy et al. 2021, arXiv 2010.11929"
BASELINE = "Beyer et al. 2022, arXiv 2205.01580"
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Design:
    """Sizes of a network, and its variants: ``plain`` is the usual beginning, ``mean`` and
    ``waves`` are suffixes.
    """

    width: int
    depth: int
    heads: int
    patch: int
    plain: bool = True
    mean: bool = False
    waves: bool = False


SIZES = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
LISTED = (
    "vit_ti_16",
    "vit_s_16",
    "vit_s_32",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
    "vit_base_16",
)
LONG = {"ti": "tiny", "s": "small", "b": "base", "l": "large"}

TORCHVISION = (
    (r"^position$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^fc\.", "heads.head."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
)
TIMM = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^position$", "pos_embed"),
    (r"^fc\.", "head."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)


class Patchify(nn.Module):
    """Cut an image into patches, each the vector of its pixels."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, h, w, C P P)."""
        # what does not fill a patch is cut off, as a strided convolution does
        height, width = (side // self.patch * self.patch for side in x.shape[2:])
        return nn.functional.pixel_unshuffle(x[:, :, :height, :width], self.patch).permute(
            0, 2, 3, 1
        )


class VisionTransformer(Network):
    """A vision transformer: patches, positions, blocks, a norm, one token (or the mean of all)
    for the linear head.
    """

    def __init__(self, design: Design, options: Options) -> None:
        super().__init__()
        self.design = design
        width, patch = design.width, _patch(design, options)
        side = options.image_size // patch
        self.levels = (Level(width, patch),)
        self.conv_proj = _embedding(design, options.in_channels, patch)

        self.starts: dict[str, tuple[float, float]] = {}
        if not design.mean:
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
            self.starts["class_token"] = (0.0, 0.0)
        if not design.waves:
            self.position = nn.Parameter(torch.zeros(1, side * side + (not design.mean), width))
            self.starts["position"] = (0.0, STD)
        self.no_decay = tuple(self.starts)

        self.blocks = nn.ModuleList(
            Block(Attention(width, design.heads, bias=design.plain), rate, EPS)
            for rate in drop_path_rates(options.drop_path or 0.0, design.depth)
        )

        self.norm = nn.LayerNorm(width, EPS)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(width, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the one map (B, C, h, w) of patches, class token left out, for images (B, 3, H,
        W).
        """
        return [self.last_map(self.patches(x))]

    def embed(self, x: Tensor) -> Tensor:
        """Return the class token, or the mean of all tokens, (B, C) of images (B, 3, H, W)."""
        tokens = self.encode(self.patches(x))
        return tokens.mean(1) if self.design.mean else tokens[:, 0]

    def patches(self, images: Tensor) -> Tensor:
        """Return the embedded patches (B, h, w, C) of images (B, 3, H, W), without positions."""
        return self.conv_proj(images).permute(0, 2, 3, 1)

    def last_map(self, patches: Tensor) -> Tensor:
        """Return the map (B, C, h, w) that the blocks and the norm make of patches (B, h, w, C)."""
        tokens = self.encode(patches)
        own = tokens if self.design.mean else tokens[:, 1:]
        return own.transpose(1, 2).reshape(-1, own.shape[2], *patches.shape[1:3])

    def encode(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the tokens (B, N, C) after the last norm, the class token first.

        ``patches`` is (B, h, w, C). Only those at the places ``keep``, int64 (B, n), row by row,
        go through the blocks where it is given; they keep their positions.
        """
        height, width = patches.shape[1:3]
        x = patches.flatten(1, 2) + self._positions(height, width)
        if keep is not None:
            x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        if not self.design.mean:
            first = (
                self.class_token if self.design.waves else self.class_token + self.position[:, :1]
            )
            x = torch.cat([first.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = self.run(block, x)
        return self.norm(x)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the positions (N, C) of ``height`` x ``width`` patches."""
        if self.design.waves:
            return waves(height, width, self.norm.weight)
        # the first row is the class token's, which has no place in the grid
        grid = self.position[0, 0 if self.design.mean else 1 :]
        side = math.isqrt(grid.shape[0])
        return resized(grid.view(side, side, -1), height, width).flatten(0, 1)

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to torchvision's or timm's.

        ``vit_base_16`` has no counterpart there.
        """
        return renamed(
            self.state_dict(), *{"torchvision": TORCHVISION, "timm": TIMM}.get(dialect, ())
        )


def waves(height: int, width: int, like: Tensor) -> Tensor:
    """Return fixed positions (height * width, C): sine and cosine of x and of y at C / 4
    wavelengths.

    The wavelengths go from 2 pi to 20,000 pi patches. C, the type and the device are those of
    ``like``, shape (C,). *Source:* Chen, Xie and He 2021; Beyer et al. 2022, section 2 and the
    published code.
    """
    frequency = 10_000 ** -torch.linspace(0, 1, len(like) // 4, device=like.device)
    rows, columns = (
        torch.arange(side, device=like.device)[:, None] * frequency for side in (height, width)
    )
    y = rows.repeat_interleave(width, 0)
    x = columns.repeat(height, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1).to(like.dtype)


def _patch(design: Design, options: Options) -> int:
    """Return the side of a patch; small images get small ones (`docs/models.md`)."""
    side = options.image_size
    patch = options.patch_size or (
        4 if side < 48 else design.patch // 2 if side < 96 else design.patch
    )
    if side < 2 * patch:
        raise ConfigError(
            f"an image of {side} px has fewer than 2x2 patches of {patch} px",
            where="model.patch_size",
            fix=f"use {side // 2} or less, or 0 to choose it by the image size",
        )
    return patch


def _embedding(design: Design, c_in: int, patch: int) -> nn.Module:
    """Return what maps images (B, C, H, W) to tokens (B, width, h, w)."""
    values = c_in * patch * patch
    start = (0.0, math.sqrt(1 / values))  # that of a linear layer over the values of a patch
    if design.plain:
        return starting(nn.Conv2d(c_in, design.width, patch, patch), weight=start)
    project = starting(nn.Linear(values, design.width), weight=start)
    return nn.Sequential(
        Patchify(patch),
        nn.LayerNorm(values),
        project,
        nn.LayerNorm(design.width),
        Permute(0, 3, 1, 2),
    )


def _entry(match: re.Match[str]) -> Entry:
    """Read a name such as ``vit_s_16_mean_sincos``."""
    sizes = SIZES[match["size"].replace("base", "b")]
    mean, sincos = bool(match["mean"]), bool(match["sincos"])
    design = Design(
        *sizes,
        patch=int(match["patch"]),
        plain=match["size"] != "base",
        mean=mean,
        waves=sincos,
    )
    source = BASELINE if mean and sincos else SOURCE
    return Entry(
        match[0],
        partial(VisionTransformer, design),
        "vit",
        source=source,
        image_size=224,
        smallest=8,
    )


def _aliases(size: str, patch: str) -> tuple[str, ...]:
    if size == "base":
        return f"vit_b_{patch}_nobias", f"vit_b{patch}_nobias"
    return f"vit_{size}{patch}", f"vit_{size}/{patch}", f"vit_{LONG[size]}_patch{patch}_224"


def _register_all() -> None:
    pattern = re.compile(
        r"vit_(?P<size>ti|s|b|l|base)_(?P<patch>16|32)(?P<mean>_mean)?(?P<sincos>_sincos)?"
    )
    for name in (*LISTED, "vit_s_16_mean_sincos"):
        match = pattern.fullmatch(name)
        assert match
        entry = _entry(match)
        register(
            name,
            entry.build,
            family=entry.family,
            source=entry.source,
            image_size=entry.image_size,
            smallest=entry.smallest,
            aliases=_aliases(match["size"], match["patch"]) if name in LISTED else (),
        )
    register_grammar(pattern.pattern, _entry)


_register_all()
