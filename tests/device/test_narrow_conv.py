"""Strided 1x1 convolutions of few channels stay inside their memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saccade.device.narrow_conv import stay_in_bounds

CPU = torch.device("cpu")

WORST = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
"""Where the library writes out of bounds: with AVX2, in one thread. The C library then looks after
its memory, and stops the process where that is damaged."""


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 15),
    st.integers(1, 20),
    st.tuples(st.integers(1, 3), st.integers(1, 3)).filter(lambda stride: max(stride) > 1),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.booleans(),
)
def test_outputs_and_gradients_are_those_of_the_strided_convolution(
    few: int, filters: int, stride: tuple[int, int], sides: tuple[int, int], bias: bool
) -> None:
    conv = nn.Conv2d(few, filters, 1, stride=stride, bias=bias).double()
    # what the library computes in float64 is another program, and a right one
    mended = copy.deepcopy(conv)
    stay_in_bounds(mended, CPU)
    assert mended.forward.__func__ is not nn.Conv2d.forward
    images = torch.randn(3, few, *sides, dtype=torch.float64)
    results = []
    for one in (conv, mended):
        seen = images.clone().requires_grad_()
        out = one(seen)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape))
        results.append([out.detach(), seen.grad, *(p.grad for p in one.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


class Doubled(nn.Conv2d):
    """A convolution whose class computes something else below its forward pass."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


def test_what_computes_something_else_is_left_alone() -> None:
    conv = Doubled(3, 4, 1, stride=2).eval()
    images = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        before = conv(images)
        stay_in_bounds(conv, CPU)
        assert torch.equal(conv(images), before)


def test_a_narrow_network_trains_without_damage_to_memory(tmp_path: Path) -> None:
    names = ("--model", "resnet18_xp03125", "--image-size", "32", "--epochs", "30step")
    command = (sys.executable, "-m", "saccade", "train", "--data", "digits", *names)
    done = subprocess.run(
        (*command, "--precision", "fp32"),
        cwd=tmp_path,
        env=os.environ | WORST,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
