"""Gradients of filters over small maps: on a CPU one matrix product is faster than the library's convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ROWS_PER_FILTER = 16
"""Above so many places of the output, batch included, for each filter, unfolding the input costs more than it saves.

*Source:* measured on two processors with bfloat16, `docs/LOG.md`, 2026-11-26.
"""


def quick_filter_gradients(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward and backward passes run; it changes nothing but on a CPU in bfloat16."""
    return MatrixGradients() if precision == "bf16" and device.type == "cpu" else nullcontext()


class MatrixGradients(TorchFunctionMode):
    """Takes the gradient of a filter as (gradients x unfolded input) wherever the map is small and the filter wide.

    The library spends a fixed time on such filters, however few places there are: 16 to 20 ms for 512 filters over 512
    maps of 4 x 4, against 4 ms. Outputs and the gradient of the input are the library's.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if func is torch.conv2d and not kwargs and _suits(*args):
            images, weight, _, stride, padding = args[:5]
            return _Convolution.apply(images, weight.to(images.dtype), stride, padding)
        return func(*args, **kwargs or {})


def _suits(
    images: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> bool:  # fmt: skip
    """Tell whether a convolution, its arguments as nn.Conv2d gives them, is a plain one over small maps."""
    if images.dtype != torch.bfloat16 or not weight.requires_grad or bias is not None or groups != 1:
        return False
    if not (isinstance(stride, tuple) and isinstance(padding, tuple) and dilation == (1, 1)):
        return False
    height, width = (_places(images, weight, stride, padding, axis) for axis in (0, 1))
    return 0 < len(images) * height * width <= ROWS_PER_FILTER * len(weight)


def _places(images: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], axis: int) -> int:
    """Return how many places a filter visits along an axis, 0 for rows of the image, 1 for columns."""
    return (images.shape[2 + axis] + 2 * padding[axis] - weight.shape[2 + axis]) // stride[axis] + 1


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, weight = ctx.saved_tensors
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        columns = _unfold(images, weight, ctx.stride, ctx.padding)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        out, channels, height, width = weight.shape
        of_weight = (rows.T @ columns).view(out, height, width, channels).permute(0, 3, 1, 2)
        return of_images, of_weight, None, None


def _unfold(images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return what each place of the output looks at: (B x places, height x width x channels) from (B, C, H, W)."""
    (rows, columns), (height, width) = padding, weight.shape[2:]
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, columns, columns, rows, rows))
    per_image, down, across, per_channel = padded.stride()
    shape = (len(images), *(_places(images, weight, stride, padding, axis) for axis in (0, 1)), height, width)
    strides = (per_image, stride[0] * down, stride[1] * across, down, across, per_channel)
    seen = padded.as_strided((*shape, images.shape[1]), strides)
    return seen.reshape(-1, height * width * images.shape[1])
