"""Gradients of filters over small maps, taken as a matrix product."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saccade.models import create_model
from saccade.training import filters
from saccade.training.filters import MatrixGradients, quick_filter_gradients

CPU = torch.device("cpu")
sides = st.integers(1, 5)


def gradients(conv: nn.Conv2d, images: Tensor, *, quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return output and gradients of images and filters, for a gradient of the output that follows from its shape."""
    images = images.detach().requires_grad_()
    conv.zero_grad()
    with MatrixGradients() if quick else nullcontext(), torch.autocast("cpu", torch.bfloat16):
        out = conv(images)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
    assert images.grad is not None
    assert conv.weight.grad is not None
    return out.detach(), images.grad, conv.weight.grad


def takes(conv: nn.Conv2d, images: Tensor) -> bool:
    return filters._suits(
        images, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )  # what nn.Conv2d calls torch.conv2d with


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(8, 40), st.tuples(sides, sides), st.tuples(sides, sides),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.booleans(),
)  # fmt: skip
def test_the_product_is_the_gradient_of_any_filter(
    batch: int, channels: int, filter_count: int, extra: tuple[int, int], kernel: tuple[int, int],
    stride: tuple[int, int], padding: tuple[int, int], channels_last: bool,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = nn.Conv2d(channels, filter_count, kernel, stride, padding, bias=False).to(memory_format=layout)
    images = torch.randn(batch, channels, kernel[0] + extra[0], kernel[1] + extra[1]).bfloat16()
    images = images.contiguous(memory_format=layout)
    assume(takes(conv, images))
    quick = gradients(conv, images, quick=True)
    plain = gradients(conv, images, quick=False)
    for ours, theirs in zip(quick, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.float().abs().max()) + 1e-6)
    assert torch.equal(quick[0], plain[0])
    assert torch.equal(quick[1], plain[1])


@pytest.mark.parametrize(
    ("conv", "side", "taken"),
    [
        (nn.Conv2d(64, 64, 3, padding=1, bias=False), 4, True),
        (nn.Conv2d(64, 64, 3, padding=1, bias=False), 40, False),
        (nn.Conv2d(64, 64, 3, padding=1), 4, False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), 4, False),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2, bias=False), 4, False),
        (nn.Conv2d(64, 64, 3, padding="same", bias=False), 4, False),
    ],
)
def test_only_plain_filters_over_small_maps_are_taken(conv: nn.Conv2d, side: int, taken: bool) -> None:
    images = torch.randn(8, 64, side, side).bfloat16()
    assert takes(conv, images) == taken
    for found in gradients(conv, images, quick=True):
        assert found.isfinite().all()


def test_a_network_of_small_maps_is_trained_with_products() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    with MatrixGradients():
        assert type(conv(torch.randn(2, 64, 4, 4)).grad_fn).__name__ == "ConvolutionBackward0"
        with torch.autocast("cpu", torch.bfloat16):
            assert type(conv(torch.randn(2, 64, 4, 4).bfloat16()).grad_fn).__name__ == "_ConvolutionBackward"


def test_it_is_used_on_a_cpu_in_bfloat16_alone() -> None:
    assert isinstance(quick_filter_gradients("bf16", CPU), MatrixGradients)
    assert not isinstance(quick_filter_gradients("fp32", CPU), MatrixGradients)
    assert not isinstance(quick_filter_gradients("bf16", torch.device("cuda")), MatrixGradients)


def test_recomputed_blocks_have_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        model = create_model("resnet18", num_classes=4, image_size=32, checkpointing=checkpointing)
        model = model.to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        with MatrixGradients(), torch.autocast("cpu", torch.bfloat16):
            model(images).float().square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for once, again in zip(*found, strict=True):
        assert torch.equal(once, again)
