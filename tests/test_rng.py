"""Counter randomness: golden values that no version may change, and the distributions they must
have.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade import rng

WORD = st.integers(0, 2**63 - 1)


def test_golden_values_of_this_draws_version() -> None:
    assert rng.DRAWS_VERSION == 1
    assert [hex(int(k)) for k in rng.key(1, 2, np.arange(3))] == [
        "0xe68e6fc01df08360",
        "0xb815246f417cade2",
        "0xe930af93af0daf48",
    ]
    assert rng.uniform(rng.key(0, 1), 3).tolist() == [
        0.2691303195904541,
        0.653200308834717,
        0.5781814693974294,
    ]
    normal = rng.normal(rng.uniform(rng.key(0, 7), 4))
    assert np.allclose(
        normal,
        [-0.5062301782121008, 0.3604342859547705, 0.2892395444432508, -0.4338311229878703],
        rtol=1e-14,
    )
    pairs = ((0.1, 0.2), (0.3, 0.4), (0.75, 1.0), (0.9, 2.0))
    golden = [0.0002477646921761334, 0.16944411396980286, 0.75, 0.8041998744010925]
    assert [rng.beta(u, a) for u, a in pairs] == golden


@given(WORD, WORD, WORD)
def test_a_key_depends_on_every_word_and_on_their_order(a: int, b: int, c: int) -> None:
    assert rng.key(a, b, c) == rng.key(a, b, c)
    assert rng.key(a, b, c) != rng.key(a, b, c + 1)
    assert a == b or rng.key(a, b, c) != rng.key(b, a, c)


def test_keys_of_arrays_are_the_keys_of_their_elements() -> None:
    grid = rng.key(3, np.arange(4)[:, None], np.arange(5))
    assert grid.shape == (4, 5)
    assert all(grid[i, j] == rng.key(3, i, j) for i in range(4) for j in range(5))


def test_uniform_draws_fill_the_unit_interval_evenly() -> None:
    draws = np.sort(rng.uniform(rng.key(5, np.arange(5000)), 4).ravel())
    assert draws[0] >= 0 and draws[-1] < 1
    distance = np.abs(draws - (np.arange(draws.size) + 0.5) / draws.size).max()
    assert distance < 1.63 / np.sqrt(draws.size), "Kolmogorov-Smirnov at 1 %"
    assert np.abs(draws**2 - (np.arange(draws.size) + 0.5) / draws.size).max() > 0.1, (
        "the control must fail"
    )


@given(st.floats(1e-9, 1 - 1e-9))
def test_normal_is_the_inverse_of_the_normal_distribution(p: float) -> None:
    assert float(rng.normal(np.array([p]))[0]) == pytest.approx(NormalDist().inv_cdf(p), abs=1e-7)


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 3.0])
def test_beta_has_the_moments_of_beta(alpha: float) -> None:
    draws = [rng.beta(u, alpha) for u in (np.arange(2000) + 0.5) / 2000]
    assert np.mean(draws) == pytest.approx(0.5, abs=1e-3)
    assert np.var(draws) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)
    assert draws == sorted(draws)
