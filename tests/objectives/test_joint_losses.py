"""The losses of joint embedding against plain loops over views, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.objectives.joint_losses import (
    constant_contrast,
    constant_distil,
    contrast,
    distil,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def contrast_one_by_one(projected: Tensor, views: int, temperature: float) -> Tensor:
    """Return the sum over all views of -log softmax, written as cross-entropies."""
    total = torch.zeros(())
    for i, one in enumerate(projected):
        rest = [j for j in range(len(projected)) if j != i]
        scores = torch.stack(
            [F.cosine_similarity(one, projected[j], dim=0) / temperature for j in rest]
        )
        mates = [rest.index(j) for j in rest if j // views == i // views]
        losses = [F.cross_entropy(scores[None], torch.tensor([mate])) for mate in mates]
        total = total + torch.stack(losses).mean()
    return total


@pytest.mark.parametrize(("views", "temperature"), [(2, 0.2), (3, 0.1), (4, 0.5)])
def test_the_contrastive_loss_is_a_sum_of_cross_entropies(views: int, temperature: float) -> None:
    ours, theirs = (drawn(12, 8).requires_grad_() for _ in range(2))
    loss = contrast(ours, views, temperature)
    plain = contrast_one_by_one(theirs, views, temperature)
    loss.backward()
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_views_that_are_all_alike_cost_the_logarithm_of_their_number() -> None:
    alike = torch.ones(16, 4)
    assert float(contrast(alike, 2, 0.2)) / 16 == pytest.approx(math.log(15), rel=1e-5)
    # pairs that are alike, and unlike all others, cost nearly nothing
    apart = torch.eye(8).repeat_interleave(2, 0)
    assert float(contrast(apart, 2, 0.05)) / 16 < 1e-4


def distil_one_by_one(large: Tensor, small: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """Return DINO's loss of an image after another, a pair of views after another, added up.

    ``large`` and ``teacher`` are (images, 2, K), ``small`` (images, views, K).
    """
    total = torch.zeros(())
    for students, smalls, teachers in zip(large, small, teacher, strict=True):
        losses = []
        for t, said in enumerate(teachers):
            wanted = torch.softmax((said - centre) / 0.04, 0)
            for s, answer in enumerate([*students, *smalls]):
                if s != t:
                    losses.append(-(wanted * F.log_softmax(answer / 0.1, 0)).sum())
        total = total + torch.stack(losses).mean() * len(teachers)
    return total


@pytest.mark.parametrize("count", [0, 3])
def test_the_distillation_loss_is_dinos(count: int) -> None:
    images, k = 4, 10
    large, small = drawn(images, 2, k), drawn(images, count, k, seed=1)
    teacher, centre = drawn(images, 2, k, seed=2), drawn(k, seed=3)
    plain = distil_one_by_one(large, small, teacher, centre)
    student = torch.cat([large.flatten(0, 1), small.flatten(0, 1)])
    loss = distil(student, teacher.flatten(0, 1), centre, views=2, temperatures=(0.1, 0.04))
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    # per view: the mean over the pairs of main_dino.py
    assert float(loss) / (2 * images) > 0


def test_a_teacher_without_an_opinion_costs_at_least_the_entropy_of_all_prototypes() -> None:
    even = torch.zeros(4, 50)
    assert float(
        distil(even, even, torch.zeros(50), views=2, temperatures=(0.1, 0.04))
    ) / 4 == pytest.approx(math.log(50), rel=1e-5)


def test_the_best_constant_answer_of_simclr_is_one_embedding_for_all() -> None:
    alike = contrast(torch.ones(12, 5), 2, 0.2)
    assert float(alike) == pytest.approx(constant_contrast(12))
    assert constant_contrast(1) == 0


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_best_constant_answer_of_dino_knows_nothing_of_its_image(views: int) -> None:
    """Against a loop over images in numpy."""
    teacher, centre = drawn(4 * views, 6) * 0.1, drawn(6, seed=1) * 0.1
    wanted = ((teacher - centre) / 0.3).softmax(1).double().numpy().reshape(4, views, 6)
    total = 0.0
    for image in range(4):
        guess = np.delete(wanted, image, 0).reshape(-1, 6).mean(0)
        total -= sum(float(view @ np.log(guess)) for view in wanted[image])
    found = constant_distil(teacher, centre, views=views, temperature=0.3)
    assert float(found) == pytest.approx(min(total, 4 * views * math.log(6)), rel=1e-5)


def test_a_teacher_that_says_the_same_of_all_images_leaves_nothing_to_learn() -> None:
    same, centre = torch.tensor([[2.0, 0.0, -1.0]]).repeat(8, 1), torch.zeros(3)
    found = constant_distil(same, centre, views=2, temperature=1.0)
    best = distil(same, same, centre, views=2, temperatures=(1.0, 1.0))
    assert float(found) == pytest.approx(float(best))

    # of images that it tells apart a constant answer knows less than a student could
    apart = 20 * torch.eye(4).repeat_interleave(2, 0)
    found = constant_distil(apart, torch.zeros(4), views=2, temperature=1.0)
    best = distil(apart, apart, torch.zeros(4), views=2, temperatures=(1.0, 1.0))
    assert float(found) == pytest.approx(8 * math.log(4)) and float(best) < 0.01
