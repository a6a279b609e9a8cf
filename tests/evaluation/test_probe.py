"""The linear probe against scikit-learn on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from saccade.evaluation import probe
from saccade.evaluation.features import Features
from saccade.evaluation.probe import FOLDS, LEAST_DEVIATION


def clouds(n: int, d: int = 24, classes: int = 3, apart: float = 0.4, seed: int = 0) -> Features:
    """Features of odd scales and places, in classes that overlap."""
    chance = torch.Generator().manual_seed(seed)
    centres = apart * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    vectors = centres[labels] + torch.randn(n, d, generator=chance)
    return Features(vectors * torch.linspace(0.01, 3, d) + torch.arange(d), labels)


def oracle(features: Features, strength: float, judged: Features) -> np.ndarray:
    """Return scikit-learn's probabilities for the same objective."""
    raw = features.vectors.double().numpy()
    deviation = raw.std(0)
    deviation = np.maximum(deviation, LEAST_DEVIATION * np.sqrt((deviation**2).mean()))
    # of two classes it fits one vector, the difference of ours: half of the penalty
    halves = 2 if len(features.labels.unique()) == 2 else 1
    model = LogisticRegression(C=halves / (strength * len(raw)), tol=1e-6, max_iter=2_000)
    model.fit((raw - raw.mean(0)) / deviation, features.labels.numpy())
    return model.predict_proba((judged.vectors.double().numpy() - raw.mean(0)) / deviation)


@pytest.mark.parametrize("n", [20, 300])  # fewer images than numbers, and more
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(n: int, classes: int) -> None:
    train, val = clouds(n, classes=classes), clouds(50, classes=classes, seed=1)
    found = probe.fit(train, classes)
    expected = oracle(train, found.strength, val)
    np.testing.assert_allclose(found.logits(val.vectors).softmax(1), expected, atol=2e-4)


def test_the_strength_has_the_lowest_loss_on_images_that_were_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = (3.0, 0.3, 0.03, 0.003)
    monkeypatch.setattr(probe, "STRENGTHS", tried)
    train = clouds(80, d=20, classes=2)
    found = probe.fit(train, 2)
    folds = probe._folds(train.labels, 2, 0)
    losses = {}
    for strength in tried:
        loss = 0.0
        for fold in range(FOLDS):
            left, held = train.at(folds != fold), train.at(folds == fold)
            shares = oracle(left, strength, held)
            loss -= np.log(shares[range(len(held)), held.labels.numpy()]).sum()
        losses[strength] = loss
    assert losses[found.strength] < 1.01 * min(losses.values())
    # neither end of the list: a search that looks at the training images would take the weakest
    assert tried[-1] < found.strength < tried[0]


def test_what_is_held_out_is_spread_over_the_classes_and_follows_the_seed() -> None:
    labels = torch.arange(103) % 7
    folds = probe._folds(labels, 7, 0)
    for label in range(7):
        counts = folds[labels == label].bincount(minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(folds, probe._folds(labels, 7, 1))


def test_held_out_accuracy_is_honest_where_labels_are_noise() -> None:
    chance = torch.Generator().manual_seed(3)
    noise = Features(torch.randn(200, 300, generator=chance), torch.arange(200) % 2)
    found = probe.fit(noise, 2)
    # with more numbers than images the training images are all right
    assert 0.35 < found.held_out_top1 < 0.65


def test_a_probe_goes_into_a_linear_head_and_is_the_same_every_time() -> None:
    train = clouds(90)
    found, again = probe.fit(train, 3, 5), probe.fit(train, 3, 5)
    assert torch.equal(found.weight, again.weight) and torch.equal(found.bias, again.bias)
    head = nn.Linear(24, 3)
    with torch.no_grad():
        head.weight.copy_(found.weight)
        head.bias.copy_(found.bias)
    assert torch.equal(head(train.vectors), found.logits(train.vectors))
    assert found.top1(train) > 0.8


def test_few_images_and_dead_numbers_break_nothing() -> None:
    few = clouds(2, classes=2)
    assert probe.fit(few, 2).top1(few) == 1
    dead = Features(torch.zeros(10, 4), torch.arange(10) % 2)
    found = probe.fit(dead, 2)
    assert bool(torch.isfinite(found.weight).all())
    np.testing.assert_allclose(found.logits(dead.vectors).softmax(1), 0.5, atol=1e-4)
    # a class without an image is never named
    lonely = Features(clouds(40, classes=2).vectors, torch.arange(40) % 2)
    assert int(probe.fit(lonely, 3).logits(lonely.vectors).argmax(1).max()) < 2


def test_a_probe_is_fitted_where_gradients_are_off() -> None:
    found = probe.fit(clouds(30), 3)
    with torch.inference_mode():
        assert torch.equal(probe.fit(clouds(30), 3).weight, found.weight)
