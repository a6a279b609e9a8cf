"""Rounding to steps gives the bits of torch's own kernels, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade.models.quantized.rounding import rounded

Rounding = tuple[Tensor, Tensor]


def with_gradient(answer: Tensor, x: Tensor) -> Rounding:
    (gradient,) = torch.autograd.grad(answer, x, torch.linspace(-1, 1, x.numel()).view(x.shape))
    return answer.detach(), gradient


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=40),
    st.floats(2.0**-20, 8, width=32),
    st.integers(0, 255),
)
def test_one_scale_gives_the_bits_of_torch(numbers: list[float], step: float, middle: int) -> None:
    scale, zero = torch.tensor(step), torch.tensor(middle, dtype=torch.int32)
    # and numbers half way between two steps
    x = torch.cat([torch.tensor(numbers), (torch.arange(-300, 300) + 0.5) * scale])
    x.requires_grad_(True)
    ours = with_gradient(rounded(x, scale, zero, (0, 255)), x)
    judge = with_gradient(torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), x)
    assert torch.equal(ours[0], judge[0]) and torch.equal(ours[1], judge[1])


@pytest.mark.parametrize("shape", [(6, 40), (6, 4, 3, 3)])
def test_a_scale_for_each_row_gives_the_bits_of_torch(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    scale = torch.tensor([0.003, 0.01, 0.02, 0.05, 0.3, 9.0])
    zero = torch.zeros(6, dtype=torch.int32)
    ours = with_gradient(rounded(x, scale, zero, (-127, 127)), x)
    judge = with_gradient(torch.fake_quantize_per_channel_affine(x, scale, zero, 0, -127, 127), x)
    assert torch.equal(ours[0], judge[0]) and torch.equal(ours[1], judge[1])
    assert 0 < int((ours[1] == 0).sum()) < x.numel(), "some lie beyond the ends"
