"""The endless stream: every sample once per epoch, whatever the batch.

Positions are all that counts.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.data import order as order_module
from saccade.data.order import Order


@given(num=st.integers(1, 60), seed=st.integers(0, 9), epoch=st.integers(0, 50))
def test_every_sample_comes_once_per_epoch(num: int, seed: int, epoch: int) -> None:
    epochs, samples = Order(num, seed).at(epoch * num, (epoch + 1) * num)
    assert sorted(samples) == list(range(num)) and set(epochs) == {epoch}


@given(num=st.integers(1, 40), cuts=st.lists(st.integers(0, 200), min_size=2, max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_cut_or_where_it_begins(
    num: int, cuts: list[int]
) -> None:
    cuts = sorted(cuts)
    whole = Order(num, 7).at(cuts[0], cuts[-1])[1]
    parts = [Order(num, 7).at(a, b)[1] for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_epochs_and_seeds_have_unrelated_orders() -> None:
    places = [
        np.argsort(Order(1000, seed).permutation(epoch)) for seed in range(3) for epoch in range(5)
    ]
    correlation = np.corrcoef(places)[~np.eye(15, dtype=bool)]
    assert np.abs(correlation).max() < 0.13
    assert Order(10, 0).permutation(0).tolist() == [1, 6, 5, 4, 8, 3, 7, 9, 2, 0]


@pytest.mark.spec(22)
def test_repeated_views_come_in_a_row_and_every_sample_comes_as_often() -> None:
    order = Order(7, seed=1, repeats=3)
    epochs, samples = order.at(0, 42)
    assert (samples.reshape(14, 3) == samples.reshape(14, 3)[:, :1]).all()
    assert np.array_equal(np.bincount(samples[:21]), np.full(7, 3))
    assert len(set(zip(epochs.tolist(), samples.tolist(), strict=True))) == 42, (
        "each view has draws of its own"
    )
    assert np.array_equal(samples[::3], Order(7, seed=1).at(0, 14)[1])
    assert all(
        np.array_equal(a[5:], b) for a, b in zip((epochs, samples), order.at(5, 42), strict=True)
    )


@pytest.mark.spec(42)
def test_a_shorter_epoch_is_the_start_of_the_whole_one() -> None:
    short, whole = Order(10, 0, epoch_size=4), Order(10, 0)
    epochs, samples = short.at(0, 8)
    assert epochs.tolist() == [0] * 4 + [1] * 4
    assert samples.tolist() == [*whole.permutation(0)[:4], *whole.permutation(1)[:4]]
    assert np.array_equal(short.at(3, 8)[1], samples[3:])
    assert Order(10, 0, epoch_size=99).epoch_size == Order(10, 0).epoch_size == 10
    twice = Order(10, 0, repeats=2, epoch_size=4).at(0, 8)[1]
    assert np.array_equal(twice[::2], samples[:4]) and np.array_equal(twice[1::2], samples[:4])


def test_equal_keys_keep_their_order() -> None:
    keys = np.random.default_rng(0).integers(0, 50, 5000).astype(np.uint64)
    assert np.array_equal(order_module._argsort(keys), np.argsort(keys, kind="stable"))
    distinct = np.random.default_rng(0).permutation(5000).astype(np.uint64)
    assert np.array_equal(order_module._argsort(distinct), np.argsort(distinct, kind="stable"))
