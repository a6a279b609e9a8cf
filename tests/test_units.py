"""Durations, rates, times and sizes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade import units
from saccade.units import Duration, Rate


@given(epochs=st.integers(1, 600), samples=st.integers(1, 2_000_000), batch=st.integers(1, 8192))
def test_epochs_become_the_fewest_steps_that_see_every_sample(
    epochs: int, samples: int, batch: int
) -> None:
    steps = Duration.parse(f"{epochs}ep").steps(samples, batch)
    assert (steps - 1) * batch < epochs * samples <= steps * batch


def test_units_of_a_duration() -> None:
    assert Duration.parse("2.5ep").steps(100, 10) == 25
    assert Duration.parse("7step").steps(100, 10) == 7
    assert Duration.parse("95 samples").steps(100, 10) == 10
    assert Duration.parse("25%").steps(100, 10, total_steps=8) == 2


@pytest.mark.parametrize("text", ["", "ep", "-1ep", "5 parsecs", "1e3step", "nan%"])
def test_nonsense_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        Duration.parse(text)


@pytest.mark.spec("A2")
def test_a_rate_is_scaled_once_and_says_how() -> None:
    assert Rate.parse("0.5 per 1024").effective(256, "linear") == (
        0.125,
        "0.125 = 0.5 x 256/1024 (linear)",
    )
    value, text = Rate.parse("0.001 per 1024").effective(256, "sqrt")
    assert math.isclose(value, 0.0005) and "sqrt(256/1024)" in text
    assert Rate.parse("0.3").effective(4096, "linear")[0] == 0.3


@pytest.mark.parametrize("text", ["fast", "0.5 per", "-1", "nan", "0.1 per 2.5"])
def test_nonsense_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a learning rate"):
        Rate.parse(text)


def test_times_shares_and_sizes() -> None:
    assert [units.seconds(t) for t in ("90s", "20m", "5min", "2h", "1d")] == [
        90,
        1200,
        300,
        7200,
        86400,
    ]
    assert units.fraction("10%") == units.fraction("0.1") == 0.1
    for bad in ("100%", "-1%", "x", "1.0"):
        with pytest.raises(ValueError, match="is not a fraction"):
            units.fraction(bad)
    assert [units.human_time(t) for t in (0.44, 42, 200, 7500)] == [
        "0.4 s",
        "42 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [units.human_size(s) for s in (12, 17_028_916, 3e12)] == ["12 B", "17.0 MB", "3.0 TB"]
    assert [units.human_count(n, "class") for n in (0, 1, 1000)] == [
        "0 classes",
        "1 class",
        "1,000 classes",
    ]
