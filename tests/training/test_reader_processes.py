"""Reading processes: the same batches as without, errors by name, and a lost process is no
silence.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.config.layers import Layers
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Readers
from saccade.data.sources import open_source
from saccade.errors import DataError, StalledError
from saccade.training import datasets
from saccade.training.reader_processes import Feeders, _Feeder


@pytest.fixture
def readers() -> Iterator[Readers]:
    pool = Readers(1)
    yield pool
    pool.close()


@contextmanager
def fed(where: str, steps: int = 40, *more: str) -> Iterator[tuple[TrainingView, Feeders]]:
    layers = Layers()
    for line in (
        f"data.train={where}",
        "data.image_size=16",
        "augment.sizes=[0.5, 1.0]",
        "data.processes=2",
        *more,
    ):
        layers.set(line)
    layers.set("batch.global=24")
    config = layers.resolve()
    data = datasets.open_data(config, open_source(where))
    view = datasets.training_view(config, data.train, Order(len(data.train), config.seed), steps)
    feeders = Feeders(view, config, 2)
    try:
        yield view, feeders
    finally:
        feeders.close()


def make_set(folder: Path) -> str:
    for split, count in (("train", 30), ("val", 4)):
        for i in range(count):
            place = folder / split / ("a", "b")[i % 2] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(place)
    return str(folder)


def test_batches_from_processes_are_those_of_threads_and_the_processes_end(
    readers: Readers,
) -> None:
    with fed("digits") as (view, feeders):
        pairs = zip(
            batches(view, readers, 24, 2, 40), batches(feeders, readers, 24, 2, 40), strict=True
        )
        seen = 0
        for near, far in pairs:
            assert (
                torch.equal(near.images, far.images) and near.images.stride() == far.images.stride()
            )
            assert torch.equal(near.labels, far.labels) and np.array_equal(
                near.samples, far.samples
            )
            seen += near.images.shape[-1]
        pids = feeders.pids
    assert (
        seen == 18 * 8 + 20 * 16 and feeders.slots < 38
    )  # both sizes came, and the memory was used again
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_small_views_come_from_processes_too(readers: Readers) -> None:
    with fed("digits", 40, "augment.local_views=2") as (view, feeders):
        near, far = batches(view, readers, 24, 18, 22), batches(feeders, readers, 24, 18, 22)
        for ours, theirs in zip(near, far, strict=True):
            assert ours.small is not None and theirs.small is not None
            assert len(theirs.small) == 48 and torch.equal(ours.small, theirs.small)
            assert torch.equal(ours.images, theirs.images)


def test_a_bad_image_stops_the_training_by_its_name(tmp_path: Path, readers: Readers) -> None:
    where = make_set(tmp_path / "set")
    bad = tmp_path / "set/train/b/5.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with fed(where) as (_, feeders), pytest.raises(DataError, match="cannot be decoded") as caught:
        list(batches(feeders, readers, 24, 0, 4))
    assert "train/b/5.png" in caught.value.where and caught.value.finding == "unreadable-image"


def test_data_that_changed_meanwhile_is_refused(tmp_path: Path, readers: Readers) -> None:
    where = make_set(tmp_path / "set")
    layers = Layers()
    layers.set(f"data.train={where}")
    layers.set("data.processes=1")
    config = layers.resolve()
    data = datasets.open_data(config, open_source(where))
    view = datasets.training_view(config, data.train, Order(len(data.train), config.seed), 4)
    (tmp_path / "set/train/a/0.png").unlink()
    feeders = Feeders(view, config, 1)
    try:
        with pytest.raises(DataError, match="changed"):
            list(batches(feeders, readers, 256, 0, 1))
    finally:
        feeders.close()


def test_a_killed_process_ends_the_training_with_a_sentence(readers: Readers) -> None:
    with fed("digits") as (_, feeders):
        stream = batches(feeders, readers, 24, 0, 40)
        next(stream)
        os.kill(feeders.pids[0], signal.SIGKILL)
        with pytest.raises(StalledError, match="reading process has ended"):
            list(stream)


def test_the_end_of_a_process_may_be_noticed_twice_at_once() -> None:
    with fed("digits") as (_, feeders), ThreadPoolExecutor(2) as two:
        feeder = feeders._processes[0]
        os.kill(feeder.pid, signal.SIGKILL)
        feeder._process.wait()
        both = Barrier(2)

        def notice(task: Future[None]) -> None:
            both.wait()
            feeder._fail(task)

        usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(2000):
                task: Future[None] = Future()
                for noticed in [two.submit(notice, task) for _ in range(2)]:
                    noticed.result()
                assert isinstance(task.exception(), StalledError)
        finally:
            sys.setswitchinterval(usual)


def test_a_line_is_closed_when_nobody_reads_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = tmp_path / "answering"  # each answer is 2 bytes behind their length in 4
    answering.write_text(
        f"#!{sys.executable}\n"
        + dedent("""\
        import re, socket, sys
        with socket.socket(fileno=int(re.search(r"\\d+", sys.argv[2])[0])) as line:
            # how to start, and the first batch asked of it
            line.recv(len("0123{}"), socket.MSG_WAITALL), line.recv(1)
            line.sendall(b"\\0\\0\\0\\2{}" * 5000), line.recv(1)
    """)
    )
    answering.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(answering))
    with open(os.memfd_create("test")) as memory:
        for _ in range(10):
            feeder = _Feeder({}, memory.fileno())
            feeder._waiting.extend(Future() for _ in range(5000))
            feeder.ask(0, 0, 24)
            while len(feeder._waiting) > 4500 and feeder._hearer.is_alive():
                time.sleep(1e-4)
            feeder.close()
            assert not feeder._hearer.is_alive()


def test_a_process_that_cannot_begin_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with fed("digits") as (_, feeders), ThreadPoolExecutor(1) as soon:
        task = feeders._processes[0].ask(0, 0, 24)
        with pytest.raises(StalledError, match="reading process has ended"):
            soon.submit(task.result).result(60)
