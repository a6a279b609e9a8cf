"""Effective rank and spread of features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.evaluation.rank import effective_rank, spread


def cloud(n: int, d: int, directions: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    if not directions:
        return torch.randn(n, d, generator=chance)
    return torch.randn(n, directions, generator=chance) @ torch.randn(
        directions, d, generator=chance
    )


@pytest.mark.parametrize("shape", [(200, 16), (16, 200), (50, 50)])
def test_the_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    vectors = cloud(*shape)
    values = np.linalg.svd(vectors.double().numpy(), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(vectors) == pytest.approx(expected, rel=1e-4)


def test_even_directions_have_full_rank_and_one_direction_has_rank_one() -> None:
    assert effective_rank(torch.eye(32)) == pytest.approx(32, rel=1e-3)
    assert effective_rank(torch.ones(100, 32)) == pytest.approx(1, abs=1e-2)
    assert effective_rank(torch.zeros(10, 4)) == 1
    assert effective_rank(cloud(500, 64, directions=3)) == pytest.approx(3, abs=0.2)


def test_the_spread_is_one_for_even_directions_and_nought_for_equal_ones() -> None:
    assert spread(cloud(2000, 64)) == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(100, 64)) == 0
    assert spread(5 + 0.1 * cloud(2000, 64)) < 0.05
