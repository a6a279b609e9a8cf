"""Convolutions of small maps, laid side by side."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saccade.device.small_map_conv import use_strips
from saccade.models import create_model

CPU = torch.device("cpu")
sides = st.integers(1, 5)


def gradients(conv: nn.Conv2d, images: Tensor, *, quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return output and gradients of images and filters, for a gradient of the output that follows
    from its shape.

    All that goes in is in bfloat16 whatever the precision, so that only sums and results are
    rounded.
    """
    images = images.detach().requires_grad_()
    conv = copy.deepcopy(conv)
    use_strips(conv, "bf16" if quick else "fp32", CPU)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(images)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).bfloat16().to(out.dtype))
    assert images.grad is not None
    assert conv.weight.grad is not None
    return out.detach(), images.grad, conv.weight.grad


def takes(conv: nn.Conv2d, images: Tensor) -> bool:
    """Tell whether a convolution that trains in bfloat16 leaves the library's way: its graph
    does not begin with it.
    """
    conv = copy.deepcopy(conv)
    use_strips(conv, "bf16", CPU)
    return not is_plain(conv, images)


def is_plain(conv: nn.Conv2d, images: Tensor) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        return type(conv(images).grad_fn).__name__ == "ConvolutionBackward0"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(1, 6),
    st.integers(8, 80),
    st.tuples(sides, sides),
    st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 1), (5, 5)]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
)
def test_maps_side_by_side_give_what_each_gives_alone(
    batch: int,
    channels: int,
    filter_count: int,
    side: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    channels_last: bool,
) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(channels, filter_count, kernel, stride, padding, bias=False).to(
        memory_format=layout
    )
    images = torch.randn(batch, channels, *side).bfloat16().contiguous(memory_format=layout)
    assume(takes(conv, images))
    conv.weight.data = conv.weight.data.bfloat16().float()
    quick = gradients(conv, images, quick=True)
    # the library's bfloat16 reads foreign memory here:
    exact = gradients(conv.double(), images.double(), quick=False)
    for ours, theirs in zip(quick, exact, strict=True):  # strides such as (1, 2) over one column
        torch.testing.assert_close(
            ours.double(), theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()) + 1e-6
        )


@pytest.mark.parametrize("side", [2, 7, 8])
def test_neighbours_in_a_strip_do_not_see_each_other(side: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 256, 3, padding=1, bias=False)
    images = torch.randn(12, 8, side, side).bfloat16()
    changed = images.clone()
    changed[5] += 1
    assert takes(conv, images)
    before, after = (gradients(conv, x, quick=True)[0] for x in (images, changed))
    differs = (before != after).flatten(1).any(1)
    assert differs.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize(
    ("conv", "side", "taken"),
    [
        (nn.Conv2d(64, 64, 3, padding=1, bias=False), 4, True),
        (nn.Conv2d(64, 64, 3, padding=1, bias=False), 40, False),
        (nn.Conv2d(64, 64, 3, padding=1), 4, False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), 4, False),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2, bias=False), 4, False),
        (nn.Conv2d(64, 64, 3, padding="same", bias=False), 4, False),
        (nn.Conv2d(64, 64, 3, bias=False), 4, False),
        (nn.Conv2d(64, 64, 1, bias=False), 4, True),
        (nn.Conv2d(64, 64, 1, padding=1, bias=False), 4, False),
    ],
)
def test_only_plain_filters_over_small_maps_are_taken(
    conv: nn.Conv2d, side: int, taken: bool
) -> None:
    images = torch.randn(8, 64, side, side).bfloat16()
    assert takes(conv, images) == taken
    for found in gradients(conv, images, quick=True):
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("precision", "device"), [("fp32", CPU), ("fp16", CPU), ("bf16", torch.device("cuda"))]
)
def test_it_is_used_on_a_cpu_in_bfloat16_alone(precision: str, device: torch.device) -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    use_strips(conv, precision, device)
    assert is_plain(conv, torch.randn(2, 64, 4, 4).bfloat16())


def test_a_convolution_that_computes_otherwise_is_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return 2 * super()._conv_forward(input, weight, bias)

    conv = Doubled(8, 64, 3, padding=1, bias=False)
    images = torch.randn(4, 8, 2, 2).bfloat16()
    torch.testing.assert_close(
        gradients(conv, images, quick=True)[0], gradients(conv, images, quick=False)[0]
    )


def test_a_convolution_whose_forward_was_replaced_keeps_that_one() -> None:
    conv = nn.Conv2d(8, 64, 3, padding=1, bias=False)
    conv.forward = lambda images: images  # type: ignore[method-assign]
    use_strips(conv, "bf16", CPU)
    images = torch.randn(4, 8, 2, 2).bfloat16()
    assert conv(images) is images


def test_a_copy_computes_with_its_own_weights() -> None:
    conv = nn.Conv2d(8, 64, 3, padding=1, bias=False)
    use_strips(conv, "bf16", CPU)
    other = copy.deepcopy(conv)
    with torch.no_grad():
        other.weight.zero_()
    images = torch.randn(4, 8, 2, 2).bfloat16()
    assert not is_plain(other, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not other(images).any()
        assert conv(images).any()


def test_in_evaluation_it_computes_as_before() -> None:
    conv = nn.Conv2d(8, 64, 3, padding=1, bias=False).eval()
    use_strips(conv, "bf16", CPU)
    assert is_plain(conv, torch.randn(4, 8, 2, 2).bfloat16())


def test_names_and_class_stay_and_a_second_call_changes_nothing() -> None:
    model = create_model("resnet18", num_classes=4, image_size=32)
    names, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    use_strips(model, "bf16", CPU)
    once = [vars(m).get("forward") for m in model.modules()]
    use_strips(model, "bf16", CPU)
    assert any(once)
    assert [vars(m).get("forward") for m in model.modules()] == once
    assert list(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == kinds


def test_recomputed_blocks_have_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        model = create_model("resnet18", num_classes=4, image_size=32, checkpointing=checkpointing)
        model = model.to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        use_strips(model, "bf16", CPU)
        with torch.autocast("cpu", torch.bfloat16):
            model(images).float().square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for once, again in zip(*found, strict=True):
        assert torch.equal(once, again)
