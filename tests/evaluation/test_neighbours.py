"""Nearest neighbours against a loop in numpy that does what the definition says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.evaluation import neighbours
from saccade.evaluation.features import Features


def by_hand(bank: Features, vectors: torch.Tensor, k: int, temperature: float) -> np.ndarray:
    keys, labels = bank.vectors.double().numpy(), bank.labels.numpy()
    answers = []
    for vector in vectors.double().numpy():
        similar = [
            round(float(vector @ key / np.linalg.norm(vector) / np.linalg.norm(key)), 6)
            for key in keys
        ]
        nearest = sorted(range(len(keys)), key=lambda i: (-similar[i], i))[:k]
        votes = np.zeros(int(labels.max()) + 1)
        for i in nearest:
            votes[labels[i]] += np.exp(similar[i] / temperature)
        answers.append(votes / votes.sum())
    return np.array(answers)


def bank(n: int = 60, seed: int = 0) -> Features:
    chance = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 8, generator=chance)
    return Features(vectors, torch.randint(4, (n,), generator=chance))


@pytest.mark.parametrize("k", [1, 5, 20, 500])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_a_loop_over_all_pairs(k: int, temperature: float) -> None:
    vectors = bank(17, seed=1).vectors
    votes = neighbours.vote(bank(), vectors, k=k, temperature=temperature, num_classes=4)
    np.testing.assert_allclose(votes, by_hand(bank(), vectors, k, temperature), atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_of_equally_near_images_the_first_ones_count(k: int) -> None:
    one = bank(6)
    # every image three times, its copies under other labels
    doubled = Features(one.vectors.repeat(3, 1), torch.arange(18) % 4)
    votes = neighbours.vote(doubled, one.vectors, k=k, num_classes=4)
    np.testing.assert_allclose(votes, by_hand(doubled, one.vectors, k, 0.07), atol=1e-5)


def test_parts_of_the_bank_do_not_change_the_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = bank(17, seed=1).vectors
    whole = neighbours.vote(bank(), vectors, num_classes=4)
    monkeypatch.setattr(neighbours, "AT_ONCE", 100)
    torch.testing.assert_close(neighbours.vote(bank(), vectors, num_classes=4), whole)


def test_every_image_is_its_own_nearest_neighbour() -> None:
    assert neighbours.top1(bank(), bank(), k=1, num_classes=4) == 1
    assert neighbours.top1(bank(), bank(), k=60, temperature=1e6, num_classes=4) < 0.6
