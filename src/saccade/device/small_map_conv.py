"""Convolutions of small maps: on a CPU they are faster when the maps of many images lie side by
side in one strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIP_WIDTH = 64
"""Columns of a strip.

The library works row by row, and rows of 2 to 10 places leave its matrix units idle.

*Source:* measured, `docs/LOG.md`, 2026-11-26, as is the next one.
"""

FILTERS_PER_PLACE = 4
"""With fewer filters for each place of the output map the copies cost more than they save."""


@contextmanager
def quick_small_maps(model: nn.Module, precision: str, device: torch.device) -> Iterator[None]:
    """Let the convolutions of a model take strips where that is faster: on a CPU in bfloat16.

    Outputs and gradients are sums of the same products as without, in another order. It has to hold
    for the backward pass, too, in which checkpointed blocks are computed again.
    """
    if precision != "bf16" or device.type != "cpu":
        yield
        return
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and _keeps_the_map(m)]
    for conv in convs:
        conv._conv_forward = partial(_convolve, conv)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for conv in convs:
            del conv._conv_forward


def _keeps_the_map(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is a plain one that looks equally far to all sides and pads
    with zeros.
    """
    if (
        type(conv)._conv_forward is not nn.Conv2d._conv_forward
        or conv.bias is not None
        or conv.groups != 1
    ):
        return False
    if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return False
    return conv.padding == tuple(side // 2 for side in conv.kernel_size) and all(
        side % 2 for side in conv.kernel_size
    )


def _convolve(conv: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Take the place of ``nn.Conv2d._conv_forward`` for (B, C, H, W)."""
    height, width = (
        (side - 1) // step + 1 for side, step in zip(images.shape[2:], conv.stride, strict=True)
    )
    small = FILTERS_PER_PLACE * height * width <= len(weight) and len(images) > 1
    if not small or images.dtype != torch.bfloat16 or not weight.requires_grad:
        return nn.Conv2d._conv_forward(conv, images, weight, bias)
    if conv.kernel_size == (1, 1):  # a linear layer over the places, which needs no strips
        seen = images[:, :, :: conv.stride[0], :: conv.stride[1]].permute(0, 2, 3, 1)
        return functional.linear(seen, weight.flatten(1)).permute(0, 3, 1, 2)
    return _in_strips(conv, images, weight)


def _in_strips(conv: nn.Conv2d, images: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, C, H, W) as (B / n, C, H, n x pitch), zeros between neighbours, and cut the
    output apart again.
    """
    count, width, step, border = (
        len(images),
        images.shape[3],
        conv.stride[1],
        conv.kernel_size[1] // 2,
    )
    out_pitch, out_width = -(-(width + border) // step), (width - 1) // step + 1
    pitch = out_pitch * step
    per_strip = min(max(STRIP_WIDTH // pitch, 1), count)
    apart = functional.pad(
        images.permute(0, 2, 3, 1), (0, 0, 0, pitch - width, 0, 0, 0, -count % per_strip)
    )
    strips = (
        apart.view(-1, per_strip, *apart.shape[1:])
        .transpose(1, 2)
        .flatten(2, 3)
        .permute(0, 3, 1, 2)
    )
    out = functional.conv2d(strips, weight, None, conv.stride, conv.padding).permute(0, 2, 3, 1)
    maps = out.view(*out.shape[:2], per_strip, out_pitch, -1)[:, :, :, :out_width]
    return maps.transpose(1, 2).flatten(0, 1)[:count].permute(0, 3, 1, 2)
