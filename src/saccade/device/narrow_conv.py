"""Strided 1x1 convolutions of few channels, whose gradients the library of CPUs writes out of
bounds.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from saccade.device.small_map_conv import is_torchs

CHANNELS = 16
"""From this number of channels on a block of the library is full, with AVX-512; with AVX2 from 8.
"""


def stay_in_bounds(model: nn.Module, device: torch.device) -> None:
    """Let the narrow strided 1x1 convolutions of a model skip pixels before they convolve.

    On CPUs with AVX2, oneDNN's gradient of their weights writes past its memory: runs crash, hang
    or learn from wrong numbers (uxlfoundation/oneDNN, issue 6035; seen with torch 2.14.1). With
    stride 1 it does not, and the result is the same. Call it once, on the network that trains.
    Only ``forward`` is replaced, on the instance: names and weights stay as they are, copies keep
    their own, and a second call changes nothing.
    """
    if device.type != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_in_danger(module):
            # a bound method, which deepcopy binds to the copy
            module.forward = MethodType(_convolve, module)  # type: ignore[method-assign]


def _is_in_danger(conv: nn.Conv2d) -> bool:
    return (
        is_torchs(conv)
        and conv.groups == 1
        and conv.padding in ((0, 0), "valid")
        and conv.kernel_size == (1, 1)
        and max(conv.stride) > 1
        and conv.in_channels < CHANNELS
    )


def _convolve(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Take the place of ``nn.Conv2d.forward`` for (B, C, H, W) or (C, H, W)."""
    high, wide = conv.stride
    return functional.conv2d(images[..., ::high, ::wide], conv.weight, conv.bias)
