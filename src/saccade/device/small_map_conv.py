"""Convolutions over small maps: on a CPU they are faster if the maps of many images are side by
side in one strip.
"""

from __future__ import annotations

from types import MethodType

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


def use_strips(model: nn.Module, precision: str, device: torch.device) -> None:
    """Let a model train with strips where that is faster: on a CPU in bfloat16.

    Call it once, on the network that trains. Outputs and gradients are sums of the same products
    as without, in another order. Only ``forward`` of single convolutions is replaced, on the
    instance: classes, names and weights stay as they are, copies keep their own, and a second call
    changes nothing. In evaluation mode each computes as before.
    """
    if precision != "bf16" or device.type != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _keeps_the_map(module):
            # a bound method, which deepcopy binds to the copy
            module.forward = MethodType(_convolve, module)  # type: ignore[method-assign]


def is_torchs(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution computes as torch's class does: neither its own class nor a patch
    of somebody computes something else.
    """
    own = (conv.forward, nn.Conv2d.forward), (conv._conv_forward, nn.Conv2d._conv_forward)
    return all(getattr(mine, "__func__", None) is torchs for mine, torchs in own)


def _keeps_the_map(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is a plain one that looks equally far to all sides and pads
    with zeros.
    """
    if not is_torchs(conv):
        return False
    if conv.bias is not None or conv.groups != 1:
        return False
    if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return False
    return conv.padding == tuple(side // 2 for side in conv.kernel_size) and all(
        side % 2 for side in conv.kernel_size
    )


def _convolve(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Take the place of ``nn.Conv2d.forward`` for (B, C, H, W)."""
    weight = conv.weight  # read once: a parametrised weight is computed here
    height, width = (
        (side - 1) // step + 1 for side, step in zip(images.shape[2:], conv.stride, strict=True)
    )

    small = FILTERS_PER_PLACE * height * width <= len(weight) and len(images) > 1
    trains = conv.training and weight.requires_grad
    if not small or not trains or images.dtype != torch.bfloat16:
        return functional.conv2d(images, weight, None, conv.stride, conv.padding)

    if conv.kernel_size == (1, 1):  # a linear layer over the places, which needs no strips
        seen = images[:, :, :: conv.stride[0], :: conv.stride[1]].permute(0, 2, 3, 1)
        return functional.linear(seen, weight.flatten(1)).permute(0, 3, 1, 2)
    return _in_strips(conv, images, weight)


def _in_strips(conv: nn.Conv2d, images: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, C, H, W) as (B / n, C, H, n x pitch), and cut the output apart again."""
    count, width = len(images), images.shape[3]
    step, border = conv.stride[1], conv.kernel_size[1] // 2

    # zeros between neighbours keep them from seeing each other
    # the pitch is a multiple of the stride, so every map begins at the same phase of it
    out_pitch, out_width = -(-(width + border) // step), (width - 1) // step + 1
    pitch = out_pitch * step
    per_strip = min(max(STRIP_WIDTH // pitch, 1), count)
    apart = functional.pad(
        images.permute(0, 2, 3, 1), (0, 0, 0, pitch - width, 0, 0, 0, -count % per_strip)
    )

    strips = apart.view(-1, per_strip, *apart.shape[1:]).transpose(1, 2).flatten(2, 3)
    out = functional.conv2d(strips.permute(0, 3, 1, 2), weight, None, conv.stride, conv.padding)

    out = out.permute(0, 2, 3, 1)
    # columns that lie over the zeros between two maps are cut off
    maps = out.view(*out.shape[:2], per_strip, out_pitch, -1)[:, :, :, :out_width]
    return maps.transpose(1, 2).flatten(0, 1)[:count].permute(0, 3, 1, 2)
