"""What networks without shortcuts share: pools of any size, response norms, a start that carries
through depth.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saccade.models.parts.layers import initialise
from saccade.models.parts.plain import LocalResponseNorm, MeanGrid, fan_in_start


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 7), (9, 13), (14, 14), (28, 5)])
@pytest.mark.parametrize("side", [4, 6, 7])
def test_a_grid_of_means_is_adaptive_pooling_backwards_too(
    size: tuple[int, int], side: int
) -> None:
    torch.manual_seed(0)
    ours = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_(True)
    got, expected = MeanGrid(side)(ours), F.adaptive_avg_pool2d(theirs, side)
    weights = torch.randn_like(expected)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_response_norm_is_torch_s_with_the_factor_of_the_paper() -> None:
    torch.manual_seed(0)
    x = 30 * torch.randn(2, 9, 5, 4)
    theirs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(x), theirs(x))
    assert LocalResponseNorm()(x.bfloat16()).dtype == torch.bfloat16


def mean_square_after(depth: int, start: bool) -> float:
    layers: list[nn.Module] = []
    for c_in, c_out in zip([3, *[64] * depth], [64] * depth, strict=False):
        convolution = nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="circular")
        layers += [fan_in_start(convolution) if start else convolution, nn.ReLU()]
    net = nn.Sequential(*layers)
    torch.manual_seed(0)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    if start:
        initialise(net, 1, head=None)
    with torch.no_grad():
        return float(net(torch.randn(4, 3, 16, 16)).square().mean())


def test_a_signal_keeps_its_size_through_twenty_layers() -> None:
    assert 0.3 < mean_square_after(20, start=True) < 3
    assert mean_square_after(20, start=False) < 1e-2, (
        "torch's own start should lose it: the control"
    )
