"""Swin transformers.

Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*, 2021: figure
3, sections 3.1 to 3.3. Attention stays inside windows of 7 x 7 tokens; every second block shifts
the windows by half, so that neighbours meet; between stages 2 x 2 tokens become one.
`docs/explain/` shows both ideas in pictures.

| name      | window | width | blocks   | heads      | drop path | usual image | parameters |
GMACs  |
|-----------|--------|-------|----------|------------|-----------|-------------|------------|--------|
| swin_t    | 7      | 96    | 2 2 6 2  | 3 6 12 24  | 0.2       | 224         | 28,288,354 |
4.491  |
| swin_s    | 7      | 96    | 2 2 18 2 | 3 6 12 24  | 0.3       | 224         | 49,606,258 |
8.741  |
| swin_b    | 7      | 128   | 2 2 18 2 | 4 8 16 32  | 0.5       | 224         | 87,768,224 |
15.431 |
| swin_b_w6 | 6      | 128   | 2 2 18 2 | 4 8 16 32  | 0.5       | 192         | 87,750,176 |
11.278 |

Suffixes: ``_w6`` is the side of the windows, ``_ape`` adds a learned table of absolute positions
(the paper's table 4). Small images get patches of 2 px (below 48) and windows of 4 (below 96): of
32 px, patches of 4 would leave one token, so they are for those who ask for them
(``patch_size=4``). Maps that windows do not fill are padded.

Parameter names are torchvision's, with ``stages`` for its ``features`` and ``fc`` for its ``head``.

Shapes: B batch, C channels, H and W height and width of a map, W windows, N tokens of a window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from saccade.errors import ConfigError
from saccade.models.parts.attention import STD, Attention, Block, linear, resized
from saccade.models.parts.layers import Permute, drop_path_rates, starting
from saccade.models.parts.network import Level, Network, renamed
from saccade.models.parts.registry import Entry, Options, register, register_grammar

SOURCE = "Liu et al. 2021, arXiv 2103.14030"
NEVER = -100.0
"""Added to the score of two tokens that must not meet. *Source:* the published code."""


@dataclass(frozen=True, slots=True)
class Design:
    """Sizes of a network; ``positions`` adds the table of absolute positions.

    *Source:* Liu et al. 2021, section 3.3; drop path from section 4.1.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float
    window: int = 7
    positions: bool = False


DESIGNS = {
    "t": Design(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "s": Design(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "b": Design(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
}


@dataclass(frozen=True, slots=True)
class Windows:
    """How a map of ``height`` x ``width`` tokens is cut into windows of ``side`` x ``side``.

    The map is padded with zeros, below and on the right, until windows fill it. ``shifted``: it is
    first rolled up and left by half a window, except where one window spans it. *Source:* Liu et
    al. 2021, section 3.2 and figure 4.
    """

    height: int
    width: int
    side: int
    shifted: bool = False

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded map."""
        return -(-self.height // self.side) * self.side, -(-self.width // self.side) * self.side

    @property
    def shifts(self) -> tuple[int, int]:
        """By how many rows and columns the map is rolled."""
        down, right = (
            self.side // 2 if self.shifted and side > self.side else 0 for side in self.padded
        )
        return down, right

    def cut(self, x: Tensor) -> Tensor:
        """Turn a map (B, H, W, C) into its windows (B, windows, N, C)."""
        (rows, columns), (down, right) = self.padded, self.shifts
        if (rows, columns) != (self.height, self.width):
            x = pad(x, (0, 0, 0, columns - self.width, 0, rows - self.height))
        if down or right:
            x = x.roll((-down, -right), (1, 2))
        x = x.reshape(
            -1, rows // self.side, self.side, columns // self.side, self.side, x.shape[-1]
        )
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Turn windows (B, windows, N, C) into the map (B, H, W, C) again."""
        (rows, columns), (down, right) = self.padded, self.shifts
        x = x.reshape(
            -1, rows // self.side, columns // self.side, self.side, self.side, x.shape[-1]
        )
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, : self.height, : self.width]

    def mask(self, like: Tensor) -> Tensor | None:
        """Return what to add to the scores (windows, 1, N, N), type and device of ``like`` (any
        shape); None = nothing.

        Rolling brings rows from the top below those at the bottom, and columns likewise. Tokens of
        one window meet only if both were rolled around, or neither.
        """
        if not any(self.shifts):
            return None
        (rows, columns), (down, right) = self.padded, self.shifts
        around_y = torch.arange(rows, device=like.device) >= rows - down
        around_x = torch.arange(columns, device=like.device) >= columns - right
        kind = 2 * around_y.int()[:, None] + around_x.int()
        kind = Windows(rows, columns, self.side).cut(kind[None, :, :, None])[0, :, :, 0]
        # four kinds: rolled around downwards, sideways, both, neither
        strangers = kind[:, :, None] != kind[:, None, :]
        return NEVER * strangers[:, None].to(like.dtype)


def relative_positions(side: int) -> Tensor:
    """Return (N, N): the row of the bias table for each query and key of a window of ``side`` x
    ``side`` tokens.

    It is (2 side - 1)(dy + side - 1) + dx + side - 1, where (dy, dx) leads from the key to the
    query. *Source:* Liu et al. 2021, section 3.2.
    """
    y, x = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    dy, dx = y[:, None] - y, x[:, None] - x
    return (2 * side - 1) * (dy + side - 1) + dx + side - 1


class WindowAttention(Attention):
    """Attention inside the windows of a map, with a learned bias for each head and relative
    position.

    ``positions``, shape (N, N), are those of `relative_positions`. *Source:* Liu et al. 2021,
    equation 4.
    """

    no_decay = ("relative_position_bias_table",)
    positions: Tensor

    def __init__(self, channels: int, heads: int, side: int, shifted: bool) -> None:
        super().__init__(channels, heads)
        self.side, self.shifted = side, shifted
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.starts = {"relative_position_bias_table": (0.0, STD)}
        self.register_buffer("positions", relative_positions(side), persistent=False)

    def bias(self) -> Tensor:
        """Return what each head adds to the score of a query and a key, (heads, N, N)."""
        # indexing would do; the gradient of an embedding does not depend on the order of threads
        return embedding(self.positions, self.relative_position_bias_table).permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape.

        ``mask``, shape (windows, 1, N, N), is for shifted windows only.
        """
        windows = Windows(x.shape[1], x.shape[2], self.side, self.shifted)
        q, k, v = self.split(windows.cut(x))  # (B, windows, heads, N, C / heads)
        # torch's fast attention takes four axes: windows go with the batch, or, where each has a
        # mask, with the heads
        axis, bias = 0, self.bias()
        if self.shifted and mask is not None:
            axis, bias = 1, (bias + mask).flatten(0, 1)
        fewer = [t.flatten(axis, axis + 1) for t in (q, k, v)]
        out = scaled_dot_product_attention(fewer[0], fewer[1], fewer[2], attn_mask=bias[None])
        return windows.join(self.join(out.reshape(q.shape)))


class PatchMerging(nn.Module):
    """Turn 2 x 2 tokens into one with twice the channels. *Source:* Liu et al.

    2021, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.reshape(-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3])
        # of the 2 x 2, column by column
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinTransformer(Network):
    """A Swin transformer: patches, four stages of blocks with merging between, norm, mean,
    linear head.
    """

    def __init__(self, design: Design, options: Options) -> None:
        super().__init__()
        patch, window = _small(design, options)
        channels, side = design.width, options.image_size // patch
        project = starting(
            nn.Conv2d(options.in_channels, channels, patch, patch), weight=(0.0, STD)
        )
        stages: list[nn.Module] = [
            nn.Sequential(project, Permute(0, 2, 3, 1), nn.LayerNorm(channels))
        ]

        if design.positions:
            self.position = nn.Parameter(torch.zeros(side, side, channels))
            self.starts, self.no_decay = {"position": (0.0, STD)}, ("position",)

        last = design.drop_path if options.drop_path is None else options.drop_path
        rates = iter(drop_path_rates(last, sum(design.depths)))
        levels, self.sides = [], []

        for stage, (depth, heads) in enumerate(zip(design.depths, design.heads, strict=True)):
            if stage:
                stages.append(PatchMerging(channels))
                channels, side = 2 * channels, -(-side // 2)
            # a map smaller than a window is one window
            self.sides.append(min(window, side))
            attentions = (
                WindowAttention(channels, heads, self.sides[-1], place % 2 == 1)
                for place in range(depth)
            )
            stages.append(
                nn.Sequential(*(Block(attention, next(rates)) for attention in attentions))
            )
            levels.append(Level(channels, patch << stage))

        self.levels = tuple(levels)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(channels, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map (B, C, H, W) after each stage, before any norm, finest first, for
        images (B, 3, H, W).
        """
        return self._maps(self.patches(x))

    def embed(self, x: Tensor) -> Tensor:
        """Return the mean (B, C) of the normed tokens of images (B, 3, H, W)."""
        return self.norm(self.features(x)[-1].permute(0, 2, 3, 1)).mean((1, 2))

    def patches(self, images: Tensor) -> Tensor:
        """Return the embedded, normed patches (B, h, w, C) of images (B, 3, H, W), without
        positions.
        """
        return self.stages[0](images)

    def last_map(self, patches: Tensor) -> Tensor:
        """Return the last map (B, C, H, W), normed, that comes of patches (B, h, w, C)."""
        return self.norm(self._maps(patches)[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _maps(self, x: Tensor) -> list[Tensor]:
        if hasattr(self, "position"):
            x = x + resized(self.position, x.shape[1], x.shape[2])
        maps = []
        for stage, side in enumerate(self.sides):
            if stage:
                x = self.stages[2 * stage](x)
            # one mask for all blocks of a stage; those that are not shifted ignore it
            mask = Windows(x.shape[1], x.shape[2], side, shifted=True).mask(x)
            for block in self.stages[2 * stage + 1].children():
                x = self.run(partial(block, mask=mask), x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to those of torchvision or timm, which may have index buffers
        besides.
        """
        return renamed(
            self.state_dict(), *{"torchvision": TORCHVISION, "timm": TIMM}.get(dialect, ())
        )


TORCHVISION = ((r"^stages\.", "features."), (r"^fc\.", "head."))
TIMM = (
    (r"^stages\.0\.0\.", "patch_embed.proj."),
    (r"^stages\.0\.2\.", "patch_embed.norm."),
    *((rf"^stages\.{2 * stage}\.", f"layers.{stage}.downsample.") for stage in (1, 2, 3)),
    *((rf"^stages\.{2 * stage + 1}\.", f"layers.{stage}.blocks.") for stage in range(4)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^fc\.", "head.fc."),
)


def _small(design: Design, options: Options) -> tuple[int, int]:
    """Return the sides of a patch, in pixels, and of a window, in patches.

    Small images get small ones.
    """
    side = options.image_size
    patch = options.patch_size or (2 if side < 48 else 4)
    if side < 2 * patch:
        raise ConfigError(
            f"an image of {side} px has fewer than 2x2 patches of {patch} px",
            where="model.patch_size",
            fix=f"use {side // 2} or less, or 0 to choose it by the image size",
        )
    return patch, min(design.window, 4) if side < 96 else design.window


def _entry(match: re.Match[str]) -> Entry | None:
    """Read a name such as ``swin_b_w6_ape``."""
    window = int(match["window"] or 7)
    if window < 2:
        return None
    design = replace(DESIGNS[match["size"]], window=window, positions=bool(match["ape"]))
    return Entry(
        match[0],
        partial(SwinTransformer, design),
        "swin",
        source=SOURCE,
        image_size=32 * window,
        smallest=18,
    )


def _register_all() -> None:
    pattern = re.compile(r"swin_(?P<size>[tsb])(?:_w(?P<window>\d{1,2}))?(?P<ape>_ape)?")
    long_names = {"swin_t": "tiny", "swin_s": "small", "swin_b": "base", "swin_b_w6": "base"}
    for name, long in long_names.items():
        match = pattern.fullmatch(name)
        assert match
        entry, window = _entry(match), match["window"] or "7"
        assert entry

        register(
            name,
            entry.build,
            family=entry.family,
            source=entry.source,
            image_size=entry.image_size,
            smallest=entry.smallest,
            aliases=(
                f"swin_{long}_patch_4_window_{window}",
                f"swin_{long}_patch4_window{window}_{entry.image_size}",
            ),
        )
    register_grammar(pattern.pattern, _entry)


_register_all()
