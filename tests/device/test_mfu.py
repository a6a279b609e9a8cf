"""Model FLOP utilisation: against a figure worked out by hand."""

from __future__ import annotations

import pytest

from saccade.device.mfu import mfu, peak_flops


def test_resnet50_at_2500_images_a_second_on_an_a100() -> None:
    found = mfu(4.09e9, 2500, ["NVIDIA A100-SXM4-40GB"])
    assert found == pytest.approx(0.1966, abs=1e-4)  # 6 x 4.09 G x 2,500 = 61.35 T of 312 T


def test_several_gpus_share_the_work() -> None:
    one, two = (mfu(1e9, 1000, ["NVIDIA H100 80GB HBM3"] * n) for n in (1, 2))
    assert one is not None and two == pytest.approx(one / 2)


def test_the_more_exact_name_counts_and_an_unknown_gpu_gives_no_figure() -> None:
    assert (
        peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    )
    assert mfu(1e9, 1000, ["Some GPU"]) is None and mfu(1e9, 1000, []) is None
