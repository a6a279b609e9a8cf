"""Crops, flips, resizing: the distributions and the pixels of torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from saccade import rng
from saccade.config import AugmentSection
from saccade.data import augment
from saccade.data.mix import Mix, apply_mix, draw_mix

AREA, RATIO = (0.08, 1.0), (0.75, 4 / 3)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    grid = np.sort(np.concatenate([a, b]))
    return float(np.abs(np.searchsorted(np.sort(a), grid, "right") / len(a)
                        - np.searchsorted(np.sort(b), grid, "right") / len(b)).max())  # fmt: skip


def test_crops_have_the_distribution_of_torchvision() -> None:
    n, width, height = 20_000, 500, 375
    draws = augment.crop_draws(0, np.zeros(n, np.int64), np.arange(n))
    ours = [augment.random_crop(row, width, height, AREA, RATIO) for row in draws]
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = [v2.RandomResizedCrop(224).make_params([blank]) for _ in range(n)]
    limit = 1.63 * np.sqrt(2 / n)
    for mine, other in (
        ([b.width * b.height for b in ours], [t["width"] * t["height"] for t in theirs]),
        ([b.width / b.height for b in ours], [t["width"] / t["height"] for t in theirs]),
        ([b.left for b in ours], [t["left"] for t in theirs]),
        ([b.top for b in ours], [t["top"] for t in theirs]),
    ):
        assert distance(np.array(mine), np.array(other)) < limit
    control = [augment.random_crop(row, width, height, (0.12, 1.0), RATIO) for row in draws]
    assert distance(np.array([b.width * b.height for b in control]),
                    np.array([t["width"] * t["height"] for t in theirs])) > limit  # fmt: skip


@given(width=st.integers(1, 300), height=st.integers(1, 300), sample=st.integers(0, 10**6))
def test_a_crop_lies_inside_the_image(width: int, height: int, sample: int) -> None:
    draws = rng.uniform(rng.key(sample), augment.CROP_DRAWS)
    box = augment.random_crop(draws, width, height, (0.35, 1.0), RATIO)
    assert box.left >= 0 and box.left + box.width <= width and box.width > 0
    assert box.top >= 0 and box.top + box.height <= height and box.height > 0


def test_flips_are_independent_of_image_and_epoch_or_alternate() -> None:
    samples = np.tile(np.arange(2000), 4)
    epochs = np.repeat(np.arange(4), 2000)
    flips = augment.flips(0, epochs, samples, 0.5, False).reshape(4, 2000)
    assert abs(flips.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(flips)[~np.eye(4, dtype=bool)]).max() < 0.08
    alternating = augment.flips(0, epochs, samples, 0.5, True).reshape(4, 2000)
    assert (alternating[0] != alternating[1]).all() and (alternating[0] == alternating[2]).all()
    assert abs(alternating[0].mean() - 0.5) < 0.05
    assert not augment.flips(0, epochs, samples, 0.0, True).any()


def photo(width: int, height: int) -> np.ndarray:
    rows = rng.uniform(rng.key(width, height), 25 * 3).reshape(5, 5, 3)
    small = Image.fromarray((rows * 255).astype(np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (224, 224), (301, 299), (640, 100)])
def test_the_evaluation_crop_is_bit_equal_to_torchvision(width: int, height: int) -> None:
    pixels = photo(width, height)
    reference = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(augment.central_crop(pixels, 224, 0.875), reference(tensor))
    on_pil = torch.from_numpy(np.array(reference(Image.fromarray(pixels)))).permute(2, 0, 1)
    difference = (augment.central_crop(pixels, 224, 0.875).int() - on_pil.int()).abs().float()
    assert difference.mean() < 0.1 and difference.max() <= 2


def test_a_crop_lands_in_its_slot_resized_and_mirrored() -> None:
    pixels = photo(120, 90)
    box = augment.Box(10, 20, 80, 60)
    slots = torch.zeros((3, 3, 32, 32), dtype=torch.uint8).to(memory_format=torch.channels_last)
    augment.resize_into(slots[0:1], pixels, box, False)
    augment.resize_into(slots[2:3], pixels, box, True)
    crop = torch.from_numpy(pixels[20:80, 10:90]).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        crop.contiguous(memory_format=torch.channels_last), (32, 32), mode="bilinear", antialias=True
    )
    assert torch.equal(slots[0:1], expected) and torch.equal(slots[2:3], expected.flip(-1))
    assert not slots[1].any(), "the neighbour was touched"


def test_mixing_keeps_the_share_it_reports() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).clone()
    mixed, share = apply_mix(images, Mix(0.7))
    assert share == 0.7 and torch.allclose(mixed[0], torch.tensor(0.7 * 0 + 0.3 * 3))
    pasted, share = apply_mix(images, Mix(box=(0.25, 0.5, 0.5, 0.25)))
    assert share == 1 - 8 * 4 / 256
    assert float((pasted[0] == 0).float().mean()) == pytest.approx(share)
    assert images[0].eq(0).all(), "the batch itself must stay as it was"


def test_a_mix_is_a_pure_function_of_step_and_cell() -> None:
    section = AugmentSection(mixup=0.4, cutmix=1.0)
    drawn = [draw_mix(section, 0, step, cell) for step in range(40) for cell in range(2)]
    assert drawn == [draw_mix(section, 0, step, cell) for step in range(40) for cell in range(2)]
    assert len(set(drawn)) == 80
    assert 20 < sum(m.box is None for m in drawn) < 60
