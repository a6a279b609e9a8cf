"""Erasing on the device: the distributions of torchvision, and nothing outside the box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_geometry import distance, views
from torchvision.transforms import v2

from saccade import rng
from saccade.data.augment import erase as erasing


@pytest.mark.spec(23)
def test_erased_boxes_have_the_distribution_of_torchvision() -> None:
    n, side = 6000, 64
    quarter = erasing.erased_boxes(0.25, views(n), side)
    assert (quarter[:, 2] > quarter[:, 0]).mean() == pytest.approx(0.25, abs=0.03)
    boxes = erased = erasing.erased_boxes(1.0, views(n), side)
    assert boxes.min() >= 0 and boxes.max() <= side
    torch.manual_seed(0)
    reference, blank = v2.RandomErasing(p=1), torch.zeros(3, side, side)
    theirs = [reference.make_params([blank]) for _ in range(len(erased))]
    limit = 1.63 * np.sqrt(2 / len(erased))
    left, top, right, bottom = erased.T
    for mine, name in ((left, "j"), (top, "i"), (right - left, "w"), (bottom - top, "h")):
        assert distance(mine, np.array([t[name] for t in theirs])) < limit
    assert boxes[:2].tolist() == [[24, 32, 58, 48], [12, 10, 34, 35]]


def test_cutout_takes_a_square_whose_centre_is_anywhere() -> None:
    n, side = 20_000, 32
    boxes = erasing.cutout_boxes(0.5, views(n), side)
    widths = boxes[:, 2] - boxes[:, 0]
    assert widths.max() == 16 and widths.min() == 8
    assert (widths == 16).mean() == pytest.approx(17 / 32, abs=0.02), (
        "centres from 8 to 24 leave it whole"
    )


def test_erasing_changes_its_box_alone() -> None:
    images = torch.full((3, 3, 16, 16), 9.0).contiguous(memory_format=torch.channels_last)
    boxes = np.array([[2, 3, 6, 8], [0, 0, 0, 0], [0, 0, 16, 4]])
    black = erasing.erase(images, boxes)
    assert black[0, :, 3:8, 2:6].eq(0).all() and int((black[0] == 0).sum()) == 3 * 20
    assert black[1].eq(9).all() and images.eq(9).all(), "the batch itself must stay as it was"
    keys = rng.key(5, np.arange(3))
    noisy = erasing.erase(images, boxes, keys)
    assert torch.equal(noisy == 9, black == 9)
    alone = erasing.erase(images[2:], boxes[2:], keys[2:])
    assert torch.equal(alone[0], noisy[2]), (
        "the noise of an image does not depend on its neighbours"
    )


def test_noise_on_the_device_is_the_noise_of_the_counters() -> None:
    keys = rng.key(1, np.arange(4))
    drawn = erasing.noise(keys, (3, 20, 20), torch.device("cpu"))
    assert np.allclose(drawn.view(4, -1).numpy(), rng.normal(rng.uniform(keys, 1200)), atol=2e-3)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.05) and float(
        drawn.std()
    ) == pytest.approx(1, abs=0.03)
