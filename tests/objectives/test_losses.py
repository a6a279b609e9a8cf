"""Losses: cross-entropy and its binary sister, with mixing, smoothing and class weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saccade.config.schema import LossSection
from saccade.objectives.losses import balanced_weights, mixed_loss


def cell() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])


def section(**settings: object) -> LossSection:
    return LossSection.model_validate(settings)


def test_plain_cross_entropy_is_torchs() -> None:
    logits, labels = cell()
    expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    assert torch.equal(mixed_loss(logits, labels, 1.0, section(), None), expected)


@pytest.mark.parametrize("lam", [1.0, 0.7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.spec(23)
def test_cross_entropy_of_a_mix_is_that_of_the_mixed_targets(lam: float, smoothing: float) -> None:
    logits, labels = cell()
    targets = lam * F.one_hot(labels, 5) + (1 - lam) * F.one_hot(labels.flip(0), 5)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(
        mixed_loss(logits, labels, lam, section(label_smoothing=smoothing), None), expected
    )


@pytest.mark.parametrize(
    ("lam", "threshold", "present"),
    [(0.9, 0.2, (1, 0)), (0.7, 0.2, (1, 1)), (0.1, 0.2, (0, 1)), (0.7, None, (0.7, 0.3))],
)
def test_binary_cross_entropy_counts_a_class_from_the_threshold_on(
    lam: float, threshold: float | None, present: tuple[float, float]
) -> None:
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]]), torch.tensor([0, 1])
    rows = torch.tensor([[present[0], present[1], 0.0], [present[1], present[0], 0.0]])
    for smoothing in (0.0, 0.3):
        targets = rows * (1 - smoothing) + smoothing / 3
        expected = F.binary_cross_entropy_with_logits(logits, targets) * 2
        chosen = section(name="bce", bce_threshold=threshold, label_smoothing=smoothing)
        torch.testing.assert_close(mixed_loss(logits, labels, lam, chosen, None), expected)


def test_an_image_that_is_mixed_with_its_own_class_is_wholly_of_it() -> None:
    logits, labels = cell()
    same = labels * 0 + 3
    for lam in (0.5, 0.15):
        torch.testing.assert_close(
            mixed_loss(logits, same, lam, section(name="bce"), None),
            mixed_loss(logits, same, 1.0, section(name="bce"), None),
        )


def test_balanced_weights_give_every_class_the_same_say() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(labels, 4)
    assert np.allclose(weights * np.bincount(labels, minlength=4), [10 / 3, 10 / 3, 0, 10 / 3])
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize("name", ["ce", "bce"])
def test_weights_scale_each_label_and_ones_change_nothing(name: str) -> None:
    logits, labels = cell()
    chosen = section(name=name)
    for lam in (1.0, 0.6):
        plain = mixed_loss(logits, labels, lam, chosen, None)
        torch.testing.assert_close(mixed_loss(logits, labels, lam, chosen, torch.ones(5)), plain)
    only = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0])
    alone = mixed_loss(logits[2:3], labels[2:3], 1.0, chosen, None)
    torch.testing.assert_close(mixed_loss(logits, labels, 1.0, chosen, only), 2 * alone)


def test_every_loss_is_finite_for_confident_half_precision_logits() -> None:
    logits = torch.tensor([[60.0, -60.0]], dtype=torch.bfloat16).repeat(2, 1)
    for name in ("ce", "bce"):
        loss = mixed_loss(logits, torch.tensor([1, 1]), 0.5, section(name=name), torch.ones(2))
        assert loss.dtype == torch.float32 and math.isfinite(float(loss))
