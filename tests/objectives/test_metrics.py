"""The figures are exact, ties count against the network, and what is no number is never scored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.errors import DataError, DivergedError
from saccade.objectives.classification import Classification
from saccade.objectives.metrics import (
    Score,
    confusion_matrix,
    per_class_accuracy,
    ranks,
    top_k_accuracy,
    wilson_interval,
)
from saccade.objectives.objective import Result


def judged(logits: torch.Tensor, labels: torch.Tensor) -> Result:
    return Classification(tuple(map(str, range(logits.shape[1])))).judge(logits, labels)


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits from few distinct values, so that ties are common, and labels."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    values = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0, 30.0])
    rows = draw(
        st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=n, max_size=n)
    )
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)


def slow_rank(row: list[float], label: int) -> int:
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return order.index(label)


@given(batches())
@settings(max_examples=100, deadline=None)
@pytest.mark.spec(50)
def test_rank_is_the_place_in_a_stable_sort(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    expected = [
        slow_rank(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert ranks(logits, labels).tolist() == expected
    share = [sum(r < k for r in expected) / len(expected) for k in (1, 2, 5)]
    assert top_k_accuracy(logits, labels, (1, 2, 5)) == tuple(share)


@given(batches())
@settings(max_examples=40, deadline=None)
def test_confusion_trace_is_the_number_correct_even_with_ties(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = batch
    confusion = confusion_matrix(logits, labels)
    slow = np.zeros_like(confusion)
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        slow[label, row.index(max(row))] += 1
    assert confusion.dtype == np.int64 and confusion.tolist() == slow.tolist()
    assert np.trace(confusion) == judged(logits, labels).correct


@given(batches(), st.integers(0, 12), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
@pytest.mark.spec("A13")
def test_score_does_not_depend_on_batches_or_their_order(batch, cut, random) -> None:  # type: ignore[no-untyped-def]
    logits, labels = batch
    order = list(range(len(labels)))
    random.shuffle(order)
    whole, parts = Score(), Score()
    whole.add(logits, labels)
    for piece in (order[:cut], order[cut:]):
        if piece:
            parts.add(logits[piece], labels[piece])
    assert parts.to_json() == whole.to_json()
    exact = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    assert whole.loss == pytest.approx(exact, abs=1e-5)


def test_equal_logits_do_not_score_100_percent() -> None:
    labels = torch.arange(10).repeat(4)
    score = Score()
    score.add(torch.zeros(40, 10), labels)
    assert score.top1 == 0.1 and score.top5 == 0.5
    assert score.loss == pytest.approx(math.log(10), abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_raises_wherever_it_stands(bad: float) -> None:
    labels = torch.tensor([0, 1, 2])
    for row in range(3):
        logits = torch.eye(3)
        logits[row, (row + 1) % 3] = bad
        for judge in (Score().add, top_k_accuracy, confusion_matrix, judged):
            with pytest.raises(DivergedError):
                judge(logits, labels)


def test_padded_rows_are_not_counted_whatever_they_hold() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [math.nan, math.nan]])
    score = Score()
    score.add(logits, torch.tensor([0, 0, -1]), torch.tensor([True, True, False]))
    assert (score.correct, score.correct5, score.n) == (1, 2, 2)


def test_a_batch_of_padding_alone_adds_nothing() -> None:
    score = Score()
    score.add(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    assert score.n == 0 and score.loss_sum == 0
    with pytest.raises(DataError):
        _ = score.top1


@pytest.mark.spec(50)
def test_top_5_of_three_classes_is_always_correct() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    labels = torch.tensor([0, 1, 2])
    assert judged(logits, labels).top5 == 1.0
    assert top_k_accuracy(logits, labels, 5) == 1.0
    assert top_k_accuracy(logits, labels) == pytest.approx(1 / 3)


@pytest.mark.spec(50)
def test_top_k_refuses_a_k_of_zero_and_an_empty_set() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k_accuracy(torch.zeros(1, 2), torch.tensor([0]), (1, 0))
    with pytest.raises(DataError):
        top_k_accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_result_holds_counts_behind_its_fractions() -> None:
    result = judged(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    facts = result.to_json()
    assert (
        facts["correct"] == 3
        and facts["n"] == 4
        and facts["top1"] == 0.75
        and facts["correct5"] == 4
    )
    assert not {"logits", "labels"} & set(facts)


def test_a_class_without_images_has_no_accuracy() -> None:
    confusion = confusion_matrix(torch.eye(3)[[0, 0, 2]], torch.tensor([0, 0, 0]))
    assert confusion[0].tolist() == [2, 0, 1]
    accuracy = per_class_accuracy(confusion)
    assert accuracy[0] == pytest.approx(2 / 3) and np.isnan(accuracy[1:]).all()


@given(st.integers(1, 100_000), st.data())
@settings(max_examples=200, deadline=None)
def test_wilson_bounds_solve_their_equation(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert (low == 0) == (correct == 0) and (high == 1) == (correct == n)
    # each is where the normal approximation around it just reaches the measured share
    for bound in (low, high):
        distance = (correct / n - bound) ** 2
        assert distance == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-5, abs=1e-12)


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I, method 3
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    with pytest.raises(ValueError, match="proportion"):
        wilson_interval(0, 0)
