"""Operations and policies: the pixels and the distributions of torchvision.

Draws that no version may change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from test_geometry import views
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from saccade import rng
from saccade.config.schema import AugmentSection
from saccade.data.augment import policies
from saccade.data.augment.chain import Chain
from saccade.data.augment.colour import JITTER, Gray, Jitter
from saccade.data.augment.operations import OPERATIONS, STANDARD, WIDE, Step, in_turn
from saccade.data.augment.policies import Policy

SIDE = 96
BILINEAR = InterpolationMode.BILINEAR


def photo() -> Image.Image:
    rows = rng.uniform(rng.key(8), 9 * 9 * 3).reshape(9, 9, 3)
    small = Image.fromarray((40 + rows * 180).astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def theirs(name: str) -> str:
    """Return torchvision's name of an operation: ``shear_x`` is ShearX, ``autocontrast``
    AutoContrast.
    """
    return (
        "AutoContrast"
        if name == "autocontrast"
        else "".join(word.capitalize() for word in name.split("_"))
    )


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@pytest.mark.parametrize("name", [*STANDARD, "invert"])
@pytest.mark.spec(23)
def test_an_operation_is_torchvisions_pixel_for_pixel(name: str) -> None:
    image, reference = photo(), v2.RandAugment(interpolation=BILINEAR)
    scales = [space[name] for space in (STANDARD, WIDE) if name in space]
    magnitudes = {
        s.magnitude(level, sign, SIDE)
        for s in scales
        for level in (0, 0.3, 0.7, 1)
        for sign in (0, 1)
    }
    for magnitude in magnitudes or {0.0}:
        given = magnitude / 255 if name == "solarize" else magnitude
        expected = reference._apply_image_or_video_transform(
            image, theirs(name), given, BILINEAR, {}
        )
        rounding = 1 if "shear" in name else 0  # theirs goes through degrees
        assert difference(OPERATIONS[name](image, magnitude), expected) <= rounding, magnitude
    changed = max(
        difference(OPERATIONS[name](image, magnitude), image) for magnitude in magnitudes or {0.0}
    )
    assert (changed > 1) == (name != "identity")


@pytest.mark.parametrize(
    ("name", "magnitude", "reference"),
    [
        ("hue", 0.07, lambda image: F.adjust_hue(image, 0.07)),
        ("hue", -0.5, lambda image: F.adjust_hue(image, -0.5)),
        ("gray", 0.0, lambda image: F.rgb_to_grayscale(image, 3)),
    ],
)
def test_hue_and_gray_are_torchvisions(
    name: str, magnitude: float, reference: Callable[[Image.Image], Image.Image]
) -> None:
    assert difference(OPERATIONS[name](photo(), magnitude), reference(photo())) == 0


def test_on_tensors_torchvision_differs_by_its_own_rounding_only() -> None:
    image = photo()
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for name in ("brightness", "color", "contrast", "posterize", "equalize", "autocontrast"):
        magnitude = 4.0 if name == "posterize" else 0.5
        expected = v2.RandAugment()._apply_image_or_video_transform(
            tensor, theirs(name), magnitude, BILINEAR, {}
        )
        ours = np.asarray(OPERATIONS[name](image, magnitude), int).transpose(2, 0, 1)
        assert np.abs(ours - expected.int().numpy()).max() <= 2, name


def test_a_blur_has_the_width_that_it_says() -> None:
    dot = np.zeros((33, 33, 3), np.uint8)
    dot[16, 16] = 255
    for radius in (1.0, 2.0):
        weights = np.asarray(OPERATIONS["blur"](Image.fromarray(dot), radius), float)[..., 0]
        places = np.arange(33) - 16.0
        assert math.sqrt((weights.sum(0) * places**2).sum() / weights.sum()) == pytest.approx(
            radius, rel=0.2
        )


@pytest.mark.parametrize(
    ("space", "reference", "bins"),
    [
        (STANDARD, v2.AutoAugment, 10),
        (STANDARD, v2.RandAugment, 31),
        (WIDE, v2.TrivialAugmentWide, 31),
    ],
)
def test_the_magnitudes_are_torchvisions(space: dict, reference: type, bins: int) -> None:
    table = reference._AUGMENTATION_SPACE
    assert {theirs(name) for name in space} | {"Invert"} == set(table) | {"Identity", "Invert"}
    for name, scale in space.items():
        magnitudes, signed = table.get(theirs(name), (lambda *_: None, False))
        expected = magnitudes(bins, SIDE, SIDE)
        assert scale.signed == signed
        if expected is not None:
            factor = 255 if name == "solarize" else 1
            ours = [scale.magnitude(i / (bins - 1), False, SIDE) for i in range(bins)]
            np.testing.assert_allclose(ours, expected.numpy() * factor, atol=1e-4)


@pytest.mark.parametrize("name", policies.AUTOAUGMENT)
@pytest.mark.spec(23)
def test_the_autoaugment_tables_are_torchvisions(name: str) -> None:
    reference = v2.AutoAugment(v2.AutoAugmentPolicy(name.removeprefix("autoaugment-")))._policies
    ours = [
        [(theirs(c.name), c.chance, c.level) for c in row] for row in policies.AUTOAUGMENT[name]
    ]
    assert ours == [[(n, chance, level or 0) for n, chance, level in row] for row in reference]


def drawn(n: int = 20_000, **settings: object) -> list[list[Step]]:
    section = AugmentSection.model_validate(settings)
    policy, jitter = Policy(section, views(n)), Jitter(section, views(n))
    return [policy.steps(place, SIDE) + jitter.steps(place) for place in range(n)]


def assert_even(counts: Counter, kinds: int) -> None:
    """Demand that all kinds occur about equally often: within five standard deviations."""
    n = counts.total()
    assert len(counts) == kinds
    assert max(abs(c - n / kinds) for c in counts.values()) < 5 * math.sqrt(n / kinds)


def test_trivialaugment_draws_operations_levels_and_signs_evenly() -> None:
    steps = [step for (step,) in drawn(policy="trivialaugment")]
    assert_even(Counter(name for name, _ in steps), 14)
    angles = Counter(round(m / 4.5) for name, m in steps if name == "rotate")
    assert set(angles) == set(range(-30, 31))
    assert_even(Counter(abs(a) for a in angles.elements()), 31)
    assert_even(Counter(a > 0 for a in angles.elements() if a), 2)


def test_randaugment_draws_as_many_operations_as_asked_with_noise_on_the_strength() -> None:
    lists = drawn(policy="randaugment", rand_ops=3, rand_magnitude=7, rand_std=1.5)
    assert {len(steps) for steps in lists} == {3}
    assert_even(Counter(name for steps in lists for name, _ in steps), 14)
    angles = np.array([abs(m) for steps in lists for name, m in steps if name == "rotate"]) / 3
    assert angles.mean() == pytest.approx(7, abs=0.1) and angles.std() == pytest.approx(
        1.5, rel=0.1
    )
    assert angles.max() == 10
    half = drawn(policy="randaugment", rand_chance=0.5)
    assert np.mean([len(steps) for steps in half]) == pytest.approx(1, abs=0.03)
    assert {abs(m) for steps in half for name, m in steps if name == "rotate"} == {27.0}


@pytest.mark.spec(23)
def test_randaugment_has_the_frequencies_of_torchvision() -> None:
    """Compare how often whole chains change an image, and by how much on average, with
    torchvision's own draws.
    """
    image, n = photo().resize((32, 32)), 1500
    section = AugmentSection(policy="randaugment", rand_magnitude=3)
    policy = Policy(section, views(n))
    reference = v2.RandAugment(2, 9, interpolation=BILINEAR)
    torch.manual_seed(0)
    plain = np.asarray(image, float)

    def changes(picture: Callable[[int], Image.Image]) -> np.ndarray:
        return np.array([np.abs(np.asarray(picture(i), float) - plain).mean() for i in range(n)])

    ours, other = (
        changes(lambda i: in_turn(image, policy.steps(i, 32))),
        changes(lambda _: reference(image)),
    )
    grid = np.sort(np.concatenate([ours, other]))
    gaps = np.searchsorted(np.sort(ours), grid, "right") - np.searchsorted(
        np.sort(other), grid, "right"
    )
    assert np.abs(gaps).max() / n < 1.63 * math.sqrt(2 / n), "Kolmogorov-Smirnov at 1 %"


def test_autoaugment_applies_its_operations_as_often_as_its_table_says() -> None:
    for name, rows in policies.AUTOAUGMENT.items():
        lists = drawn(policy=name)
        counts = Counter(op for steps in lists for op, _ in steps)
        expected: Counter = Counter()
        for choice in (c for row in rows for c in row):
            expected[choice.name] += choice.chance * len(lists) / len(rows)
        for op, number in expected.items():
            assert counts[op] == pytest.approx(number, abs=5 * math.sqrt(number) + 1), (name, op)


def test_three_augment_and_gray_have_their_chances() -> None:
    steps = [step for (step,) in drawn(policy="3augment")]
    assert_even(Counter(name for name, _ in steps), 3)
    radii = np.array([m for name, m in steps if name == "blur"])
    assert (
        radii.min() < 0.11 and radii.max() > 1.99 and radii.mean() == pytest.approx(1.05, abs=0.02)
    )
    assert {m for name, m in steps if name == "solarize"} == {128.0}
    gray, image = Gray(AugmentSection(gray=0.2), views(20_000)), photo()
    turned = [gray.apply(image, place) is not image for place in range(20_000)]
    assert np.mean(turned) == pytest.approx(0.2, abs=0.015)


@pytest.mark.spec(23)
def test_jitter_has_every_order_and_the_ranges_of_torchvision() -> None:
    lists = drawn(jitter=(0.4, 0.3, 0.2, 0.1))
    assert_even(Counter(tuple(name for name, _ in steps) for steps in lists), 24)
    for name, most in (("brightness", 0.4), ("contrast", 0.3), ("color", 0.2), ("hue", 0.1)):
        values = np.array([m for steps in lists for n, m in steps if n == name]) / most
        assert values.min() < -0.99 and values.max() > 0.99 and abs(values.mean()) < 0.02
        assert values.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)
    assert {tuple(n for n, _ in steps) for steps in drawn(200, jitter=(0.4, 0, 0, 0))} == {
        ("brightness",)
    }


def test_a_policy_comes_before_jitter_and_gray() -> None:
    section = AugmentSection(policy="3augment", jitter=(0.4, 0.4, 0.4, 0.1), gray=1)
    one = views(1)
    steps = Policy(section, one).steps(0, SIDE) + Jitter(section, one).steps(0)
    assert steps[0][0] in policies.THREE and {n for n, _ in steps[1:5]} == set(JITTER)
    expected = in_turn(photo(), [*steps, ("gray", 0.0)])
    slots = torch.zeros((1, 3, SIDE, SIDE), dtype=torch.uint8)
    slots = slots.contiguous(memory_format=torch.channels_last)
    whole = section.model_copy(update={"crop": "none", "flip": 0.0})
    Chain(whole, one, SIDE).render(slots, np.array(photo()), (0, 0, SIDE, SIDE), 0)
    assert np.array_equal(slots[0].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_golden_draws() -> None:
    def first(name: str, **more: object) -> list[list[Step]]:
        return [[(op, round(m, 6)) for op, m in steps] for steps in drawn(3, policy=name, **more)]

    assert first("none", jitter=(0.4, 0.4, 0.4, 0.1))[0] == [
        ("color", 0.070401),
        ("brightness", 0.382239),
        ("hue", 0.059447),
        ("contrast", -0.013337),
    ]
    assert first("trivialaugment") == [
        [("translate_y", 7.466667)],
        [("contrast", 0.198)],
        [("contrast", 0.165)],
    ]
    assert first("randaugment", rand_std=0.5)[:2] == [
        [("translate_y", -42.0501), ("color", -0.815629)],
        [("contrast", -0.855267), ("posterize", 5)],
    ]
    assert first("autoaugment-svhn") == [
        [("invert", 0.0), ("autocontrast", 0.0)],
        [("invert", 0.0)],
        [("contrast", 0.3), ("rotate", -13.333333)],
    ]
    assert first("3augment")[0] == [("solarize", 128.0)]
