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
from saccade.config.schema import AugmentSection
from saccade.data.augment import geometry
from saccade.data.augment.augmentation import Views
from saccade.data.augment.mix import Mix, apply_mix, draw_mix
from saccade.data.images.boxes import Box
from saccade.data.images.fit import Fit

AREA, RATIO = (0.08, 1.0), (0.75, 4 / 3)


def views(n: int) -> Views:
    """Return the views of n images in epoch 0."""
    return Views(0, np.zeros(n, np.int64), np.arange(n))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    grid = np.sort(np.concatenate([a, b]))
    return float(
        np.abs(
            np.searchsorted(np.sort(a), grid, "right") / len(a)
            - np.searchsorted(np.sort(b), grid, "right") / len(b)
        ).max()
    )


@pytest.mark.spec(23)
def test_crops_have_the_distribution_of_torchvision() -> None:
    n, width, height = 20_000, 500, 375
    draws = geometry.crop_draws(views(n))
    ours = [
        Box(*box)
        for box in geometry.random_crops(draws, np.full((n, 2), (width, height)), AREA, RATIO)
    ]
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
    control = geometry.random_crops(draws, np.full((n, 2), (width, height)), (0.12, 1.0), RATIO)
    assert (
        distance(
            control[:, 2] * control[:, 3], np.array([t["width"] * t["height"] for t in theirs])
        )
        > limit
    )


@given(width=st.integers(1, 300), height=st.integers(1, 300), sample=st.integers(0, 10**6))
def test_a_crop_lies_inside_the_image(width: int, height: int, sample: int) -> None:
    draws = rng.uniform(rng.key([sample]), geometry.CROP_DRAWS)
    box = Box(*geometry.random_crops(draws, np.array([[width, height]]), (0.35, 1.0), RATIO)[0])
    assert box.left >= 0 and box.left + box.width <= width and box.width > 0
    assert box.top >= 0 and box.top + box.height <= height and box.height > 0


def test_flips_are_independent_of_image_and_epoch_or_alternate() -> None:
    samples = np.tile(np.arange(2000), 4)
    epochs = np.repeat(np.arange(4), 2000)
    flips = geometry.flips(Views(0, epochs, samples), 0.5, False).reshape(4, 2000)
    assert abs(flips.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(flips)[~np.eye(4, dtype=bool)]).max() < 0.08
    alternating = geometry.flips(Views(0, epochs, samples), 0.5, True).reshape(4, 2000)
    assert (alternating[0] != alternating[1]).all() and (alternating[0] == alternating[2]).all()
    assert abs(alternating[0].mean() - 0.5) < 0.05
    assert not geometry.flips(Views(0, epochs, samples), 0.0, True).any()


def photo(width: int, height: int) -> np.ndarray:
    rows = rng.uniform(rng.key(width, height), 25 * 3).reshape(5, 5, 3)
    small = Image.fromarray((rows * 255).astype(np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (224, 224), (301, 299), (640, 100)]
)
@pytest.mark.spec("A14")
def test_the_evaluation_crop_is_bit_equal_to_torchvision(width: int, height: int) -> None:
    pixels = photo(width, height)
    reference = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(Fit().square(pixels, 224), reference(tensor))
    on_pil = torch.from_numpy(np.array(reference(Image.fromarray(pixels)))).permute(2, 0, 1)
    difference = (Fit().square(pixels, 224).int() - on_pil.int()).abs().float()
    assert difference.mean() < 0.1 and difference.max() <= 2


def test_a_crop_lands_in_its_slot_resized_and_mirrored() -> None:
    pixels = photo(120, 90)
    box = Box(10, 20, 80, 60)
    slots = torch.zeros((3, 3, 32, 32), dtype=torch.uint8).to(memory_format=torch.channels_last)
    geometry.resize_into(slots[0:1], pixels, box, False)
    geometry.resize_into(slots[2:3], pixels, box, True)
    crop = torch.from_numpy(pixels[20:80, 10:90]).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        crop.contiguous(memory_format=torch.channels_last),
        (32, 32),
        mode="bilinear",
        antialias=True,
    )
    assert torch.equal(slots[0:1], expected) and torch.equal(slots[2:3], expected.flip(-1))
    assert not slots[1].any(), "the neighbour was touched"


@pytest.mark.parametrize(("fill", "mode"), [("black", "constant"), ("reflect", "reflect")])
def test_padded_crops_are_torchvisions(fill: str, mode: str) -> None:
    pixels = photo(32, 32)
    padded = v2.functional.pad(torch.from_numpy(pixels).permute(2, 0, 1), [4], padding_mode=mode)
    shifted = {
        padded[:, y : y + 32, x : x + 32].numpy().tobytes(): (x, y)
        for x in range(9)
        for y in range(9)
    }
    n = 4000
    crops = geometry.Crops(section(fill), views(n), 32)
    slot = torch.zeros((1, 3, 32, 32), dtype=torch.uint8).to(memory_format=torch.channels_last)
    boxes = crops.choose(np.arange(n), np.full((n, 2), 32)).tolist()
    seen = np.zeros((9, 9), int)
    for place in range(n):
        crops.cut_into(slot, pixels, boxes[place], place)
        seen[shifted[slot[0].contiguous().numpy().tobytes()]] += 1
    assert abs(seen - n / 81).max() < 5 * np.sqrt(n / 81), "all 81 places are equally likely"


def section(fill: str) -> AugmentSection:
    return AugmentSection.model_validate(
        {"crop": "padded", "pad": 0.125, "pad_fill": fill, "flip": 0}
    )


@given(
    width=st.integers(8, 300),
    height=st.integers(8, 300),
    sample=st.integers(0, 10**6),
    flip=st.integers(0, 1),
)
def test_a_padded_crop_of_any_image_fills_its_square(
    width: int, height: int, sample: int, flip: int
) -> None:
    crops = geometry.Crops(
        section("reflect").model_copy(update={"flip": float(flip)}),
        Views(0, np.zeros(1, np.int64), np.array([sample])),
        24,
    )
    box = Box(*crops.choose(np.arange(1), np.array([[width, height]]))[0].tolist())
    assert (
        box.left >= 0
        and box.left + box.width <= width
        and box.top >= 0
        and box.top + box.height <= height
    )
    slot = torch.zeros((1, 3, 24, 24), dtype=torch.uint8).to(memory_format=torch.channels_last)
    crops.cut_into(slot, np.full((height, width, 3), 7, np.uint8), box, 0)
    assert slot.eq(7).all()


def test_the_area_of_a_crop_can_follow_a_beta_distribution() -> None:
    n = 4000
    draws = geometry.crop_draws(views(n), (2.0, 5.0))
    areas = draws[:, 0]
    assert areas.mean() == pytest.approx(2 / 7, abs=0.01) and areas.var() == pytest.approx(
        10 / 49 / 8, rel=0.08
    )
    uniform = geometry.crop_draws(views(n))
    assert np.array_equal(draws[:, 1::2], uniform[:, 1::2]) and np.array_equal(
        draws[:, 20], uniform[:, 20]
    )
    assert np.allclose(
        np.interp(uniform[:, 0], *rng.beta_table(1.0, 1.0)), uniform[:, 0], atol=1e-12
    )
    assert np.allclose(1 - (1 - areas) ** 5 * (1 + 5 * areas), uniform[:, 0], atol=1e-5), (
        "the CDF of Beta(2, 5)"
    )
    assert areas[0] == pytest.approx(0.13909914842535, abs=1e-12)


@pytest.mark.spec(23)
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
