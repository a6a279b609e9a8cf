"""Layers that families share: depthwise convolutions in the precision that is fast."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saccade.models import meta_model
from saccade.models.parts.layers import DepthwiseConv


@pytest.mark.parametrize(
    ("kernel", "stride", "inside"), [(3, 1, "bf16"), (3, 2, "fp32"), (5, 1, "fp32"), (7, 2, "fp32")]
)
def test_slow_depthwise_convolutions_are_computed_in_float32(
    kernel: int, stride: int, inside: str
) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv(16, kernel, stride)
    x = torch.randn(2, 16, 9, 9).bfloat16().contiguous(memory_format=torch.channels_last)
    settings = {"stride": stride, "padding": kernel // 2, "groups": 16}
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    weight, bias = layer.weight, layer.bias
    assert bias is not None
    high = F.conv2d(x.float(), weight, bias, **settings).bfloat16()
    low = F.conv2d(x, weight.bfloat16(), bias.bfloat16(), **settings)
    assert got.dtype == torch.bfloat16 and not torch.equal(high, low)
    assert torch.equal(got, high if inside == "fp32" else low)
    assert torch.equal(layer(x.float()), F.conv2d(x.float(), weight, bias, **settings)), (
        "nothing changes elsewhere"
    )


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "shufflenet_v2_x1_0", "convnext_tiny", "spatialnet_0", "resnext50"]
)
def test_every_depthwise_convolution_of_ours_is_one(name: str) -> None:
    convs = [m for m in meta_model(name, num_classes=2).modules() if isinstance(m, nn.Conv2d)]
    assert [m for m in convs if m.groups == m.in_channels > 1] == [
        m for m in convs if isinstance(m, DepthwiseConv)
    ]
