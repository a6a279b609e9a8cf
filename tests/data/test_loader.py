"""The loader: a batch is a function of its position alone; trouble has a name and never hangs."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from saccade.config.schema import AugmentSection
from saccade.data import loader
from saccade.data.images.fit import Fit
from saccade.data.loader import Batch, EvaluationView, TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Memory, Readers
from saccade.data.sources import Split, open_source
from saccade.errors import DataError, StalledError

SECTION = AugmentSection(crop_area=(0.3, 1.0), rotate=20, sizes=(0.5, 1.0))


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_source("digits").splits["train"]


@pytest.fixture
def readers() -> Iterator[Readers]:
    pool = Readers(3)
    yield pool
    pool.close()


def view(split: Split) -> TrainingView:
    return TrainingView(split, Order(len(split), 5), SECTION, 16, 60, "ignore")


def stream(split: Split, threads: int, first: int, last: int) -> list[Batch]:
    pool = Readers(threads)
    try:
        return list(batches(view(split), pool, 48, first, last))
    finally:
        pool.close()


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(
        torch.equal(x.images, y.images) and np.array_equal(x.samples, y.samples) for x, y in pairs
    )


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.spec("A12")
@pytest.mark.fault("C3")
def test_the_number_of_threads_does_not_change_the_batches(threads: int, digits: Split) -> None:
    alone = stream(digits, 1, 0, 40)
    assert same(alone, stream(digits, threads, 0, 40))
    assert not same(alone[1:11], alone[2:12]), "the control must differ"


def test_a_stream_can_begin_at_any_step(digits: Split) -> None:
    whole = stream(digits, 2, 0, 40)
    assert same(whole[27:], stream(digits, 2, 27, 40))
    assert {b.images.shape[-1] for b in whole[:30]} == {8} and {
        b.images.shape[-1] for b in whole[30:]
    } == {16}
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in whole)


def test_every_image_is_evaluated_once_in_order(digits: Split, readers: Readers) -> None:
    seen = list(
        batches(EvaluationView(digits, 8, Fit(crop_fraction=1.0), "ignore"), readers, 100, 0, 15)
    )
    samples = np.concatenate([b.samples for b in seen])
    assert np.array_equal(samples[:1437], np.arange(1437)) and set(samples[1437:]) == {1436}
    assert torch.equal(seen[0].images[7, 0], torch.from_numpy(_pixels(digits, 7)))


def _pixels(split: Split, i: int) -> np.ndarray:
    return np.frombuffer(bytes(split.read(i))[-64:], np.uint8).reshape(8, 8).copy()


def test_an_image_that_cannot_be_read_is_named(digits: Split, readers: Readers) -> None:
    broken = dataclasses.replace(digits, read=lambda i: b"no image" if i == 77 else digits.read(i))
    with pytest.raises(DataError) as caught:
        list(batches(view(broken), readers, 48, 0, 40))
    assert caught.value.finding == "unreadable-image" and broken.describe(77) in str(caught.value)


def test_a_disk_that_never_answers_ends_in_a_named_error(
    digits: Split, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.data.readers.STALL_LIMIT_S", 3.0)
    frozen = threading.Event()

    def read(i: int) -> bytes | memoryview:
        if i == 300:
            frozen.wait(30)
        return digits.read(i)

    stuck = dataclasses.replace(digits, read=read)
    with pytest.raises(StalledError) as caught:
        list(batches(view(stuck), readers, 48, 0, 40))
    assert stuck.describe(300) in str(caught.value)
    frozen.set()


def test_nothing_is_read_far_ahead(digits: Split, readers: Readers) -> None:
    read: set[int] = set()
    counted = dataclasses.replace(digits, read=lambda i: (read.add(i), digits.read(i))[1])
    taken = itertools.islice(batches(view(counted), readers, 48, 0, 25), 1)
    next(taken)
    assert len(read) <= 48 * (loader.batches_ahead(3, 48) + 1) < 300


@pytest.mark.spec(22)
def test_views_of_an_image_are_read_once_and_differ(digits: Split, readers: Readers) -> None:
    read: list[int] = []
    counted = dataclasses.replace(digits, read=lambda i: (read.append(i), digits.read(i))[1])
    section = AugmentSection(crop_area=(0.3, 1.0), repeats=3)
    thrice = TrainingView(counted, Order(len(digits), 5, 3), section, 16, 60, "ignore")
    (batch,) = batches(thrice, readers, 48, 0, 1)
    assert len(read) == 16 and len(set(batch.samples.tolist())) == 16
    first, second, third = batch.images[:3]
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_no_more_batches_wait_than_fit_into_the_bound(
    digits: Split, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "AHEAD_BYTES", 1)
    read: set[int] = set()
    counted = dataclasses.replace(digits, read=lambda i: (read.add(i), digits.read(i))[1])
    stream = batches(view(counted), readers, 48, 0, 25)
    next(stream)
    assert len(read) <= 48
    stream.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch keeps pinned memory itself")
def test_memory_is_used_again_when_nothing_lies_in_it_any_more() -> None:
    memory = Memory()
    first = memory.take(4, 16)
    part, place = first[1], first.data_ptr()
    del first
    assert memory.take(4, 16).data_ptr() != place, "a part of the batch is still in use"
    del part
    assert place in {(kept := memory.take(4, 16)).data_ptr(), memory.take(4, 16).data_ptr()}
    assert kept.is_contiguous(memory_format=torch.channels_last) and kept.shape == (4, 3, 16, 16)


def threads_seen() -> tuple[int, int]:
    """Return the compute threads of this thread and of one that starts now."""
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    return torch.get_num_threads(), found[0]


def test_readers_leave_the_number_of_compute_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        pool = Readers(2)
        assert threads_seen() == (3, 3)
        pool.resize(4)
        assert threads_seen() == (3, 3)
        pool.close()
        assert threads_seen() == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_every_reader_computes_with_one_thread_and_is_there_at_once() -> None:
    there = set(threading.enumerate())
    pool = Readers(5)
    fresh = set(threading.enumerate()) - there
    assert len(fresh) == 5
    counts = [pool._pool.submit(torch.get_num_threads).result() for _ in range(10)]
    assert set(counts) == {1}
    pool.close()


def test_readers_that_cannot_all_start_leave_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = threading.Thread.start, []

    def second_fails(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="start new thread"):
        Readers(3)
    monkeypatch.undo()
    started[0].join(timeout=20)
    assert not started[0].is_alive()
