"""Rounding to whole steps, with a gradient as if nothing was rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounded(x: Tensor, scale: Tensor, zero: Tensor, ends: tuple[int, int]) -> Tensor:
    """Return numbers (...) as whole steps of ``scale``, float32.

    ``zero``, int32, is the number of the step that means zero, and ``ends`` are the numbers of the
    first and last step. ``scale`` and ``zero`` are scalars, or have one number (n,) for each row
    of ``x`` (n, ...). The gradient is that of ``x`` within the ends, and 0 beyond.

    *Source:* straight-through estimator, Bengio et al. 2013; the same bits as torch's
    ``fake_quantize_per_tensor_affine`` and ``fake_quantize_per_channel_affine``.
    """
    if x.device.type == "cpu":
        # torch's kernels for CPUs handle one number at a time, which takes up to 60 times as long
        axes = (-1, *[1] * (x.ndim - 1)) if scale.ndim else ()
        answer = _Rounded.apply(x, scale.view(axes), zero.view(axes), ends)
        assert isinstance(answer, Tensor)
        return answer
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(x, scale, zero, 0, *ends)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, *ends)


class _Rounded(torch.autograd.Function):
    """`rounded` from whole operations on tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, ends: tuple[int, int]) -> Tensor:
        """Return numbers (...), float32, rounded."""
        steps = (x * (1.0 / scale)).round_().add_(zero)
        if ctx.needs_input_grad[0]:
            held = steps.clamp(*ends)
            ctx.save_for_backward(steps == held)
        else:
            held = steps.clamp_(*ends)
        return held.sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient (...) of the numbers."""
        (is_within,) = ctx.saved_tensors
        return grad * is_within, None, None, None
