"""Blur, solarisation and jitter by chance: their distributions, pixels and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import ImageFilter, ImageOps
from test_policies import photo

from saccade.config.schema import AugmentSection, Config, fingerprint
from saccade.data.augment.augmentation import Views
from saccade.data.augment.blur import Blur
from saccade.data.augment.colour import Jitter, Solarize
from saccade.rng import Purpose

N = 8000


def pairs(n: int = N) -> Views:
    """Return the views of n images, two of each: copies are numbered as epochs."""
    return Views(3, np.tile([4, 5], n), np.repeat(np.arange(n), 2))


def share(kind: type[Blur] | type[Solarize], section: AugmentSection, turn: int) -> float:
    made, image = kind(section, pairs()), photo().resize((4, 4))
    return float(np.mean([made.apply(image, 2 * i + turn) is not image for i in range(N)]))


def test_each_view_of_an_image_has_its_own_chance() -> None:
    section = AugmentSection(repeats=2, blur=(1.0, 0.1), solarize=(0.0, 0.2))
    spread = 5 * math.sqrt(0.25 / N)
    assert [share(Blur, section, turn) for turn in (0, 1)] == pytest.approx([1, 0.1], abs=spread)
    assert [share(Solarize, section, turn) for turn in (0, 1)] == pytest.approx(
        [0, 0.2], abs=spread
    )
    # one value is for all views
    alike = AugmentSection(repeats=2, blur=(0.5,))
    assert [share(Blur, alike, turn) for turn in (0, 1)] == pytest.approx([0.5] * 2, abs=spread)


def test_blur_and_solarisation_are_pillows() -> None:
    image, views = photo(), pairs(200)
    blur = Blur(AugmentSection(blur=(1.0,)), views)
    widths = 0.1 + 1.9 * views.uniform(Purpose.BLUR, 2)[:, 1]
    for place in range(5):
        expected = image.filter(ImageFilter.GaussianBlur(float(widths[place])))
        assert np.array_equal(np.asarray(blur.apply(image, place)), np.asarray(expected))
    assert widths.min() < 0.15 and widths.max() > 1.95 and abs(widths.mean() - 1.05) < 0.1
    solarized = Solarize(AugmentSection(solarize=(1.0,)), views).apply(image, 0)
    assert np.array_equal(np.asarray(solarized), np.asarray(ImageOps.solarize(image, 128)))


def test_jitter_happens_by_its_chance_and_is_then_what_it_would_be_without_one() -> None:
    views = pairs(2000)
    always = Jitter(AugmentSection(jitter=(0.4, 0.4, 0.2, 0.1)), views)
    some = Jitter(AugmentSection(jitter=(0.4, 0.4, 0.2, 0.1), jitter_chance=0.8), views)
    happens = [bool(some.steps(place)) for place in range(4000)]
    assert np.mean(happens) == pytest.approx(0.8, abs=0.03)
    assert all(some.steps(p) == always.steps(p) for p in range(4000) if happens[p])


def test_golden_draws_of_blur_solarisation_and_the_chance_of_jitter() -> None:
    views = Views(7, np.arange(6), np.arange(6))
    assert views.uniform(Purpose.BLUR, 2).round(6).tolist()[:2] == [
        [0.138806, 0.632438],
        [0.718337, 0.653783],
    ]
    assert views.uniform(Purpose.SOLARIZE, 1)[:3, 0].round(6).tolist() == [
        0.894553,
        0.514436,
        0.957745,
    ]
    assert views.uniform(Purpose.JITTER, 9)[:3, 8].round(6).tolist() == [
        0.332387,
        0.463843,
        0.515664,
    ]


def test_runs_of_earlier_versions_keep_their_identity() -> None:
    before = Config()
    same = Config.model_validate({"augment": {"blur": [0.0], "jitter_chance": 1.0}})
    other = Config.model_validate({"augment": {"blur": [0.5]}})
    assert fingerprint(before) == fingerprint(same) != fingerprint(other)
