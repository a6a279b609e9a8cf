"""Reading in separate processes if one interpreter cannot feed the device: batches come in shared
memory.

A batch is a pure function of its step, so every process opens the data itself, gets the number of a
step, and fills its place in memory. The processes take turns with the steps.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from saccade import errors
from saccade.config.schema import Config
from saccade.data.loader import Batch, TrainingView, View, batches_ahead
from saccade.data.order import RankSlice
from saccade.data.readers import Readers
from saccade.errors import ConfigError, DataError, SaccadeError, StalledError
from saccade.system import signals
from saccade.training import datasets
from saccade.training.run import Plan


class Feeders:
    """Processes that fill batches; used in place of the view that they were made from."""

    def __init__(self, view: TrainingView, config: Config, readers: int) -> None:
        """Start ``config.data.processes`` processes that share ``readers`` threads.

        Raises ConfigError where the system has no memory to share.
        """
        if not hasattr(os, "memfd_create"):
            raise ConfigError(
                "reading processes need Linux",
                where="data.processes",
                fix="set data.processes to 0",
            )
        self._view = view
        images = len(view.rank_slice.places(config.batch.global_))
        # one in use, one asked for, the others ahead
        self.slots = batches_ahead(readers, images) + 2
        # every place has room for the largest images, whose side may grow during the run
        self._room = room_bytes(view, images)
        # memory without a name: it is gone with its last user, even after a kill
        self._file = os.memfd_create("saccade-batches")
        os.ftruncate(self._file, self.slots * self._room)
        self._memory = mmap.mmap(self._file, self.slots * self._room)
        count = config.data.processes
        start = {
            "config": config.dump(),
            "total_steps": view.total_steps,
            "room": self._room,
            # rounded up: each process reads with one thread at least
            "threads": -(-readers // count),
            "fingerprint": view.split.fingerprint,
            "rank_slice": asdict(view.rank_slice),
            "offset": view.order.offset,
        }
        self._processes = [_Feeder(start, self._file) for _ in range(count)]

    def start(
        self, readers: Readers, step: int, global_batch: int
    ) -> tuple[Batch, list[Future[None]]]:
        """Ask for the batch of a step, images uint8 (B, 3, S, S).

        It is complete when the returned task is done.
        """
        places = self._view.rank_slice.places(global_batch)
        # order and labels are reckoned here as well, so only pixels travel
        drawn = self._view.order.at(step * global_batch, (step + 1) * global_batch)
        epochs, samples = (each[places] for each in drawn)
        slot = step % self.slots
        images, small = _slot(
            self._memory, slot * self._room, view=self._view, num_images=len(samples), step=step
        )
        # in turn by the number of the step, so that a resumed run asks as one without a break would
        task = self._processes[step % len(self._processes)].ask(step, slot, global_batch)
        labels = torch.from_numpy(self._view.split.labels[samples])
        return Batch(images, labels, samples, epochs, small=small), [task]

    @property
    def pids(self) -> list[int]:
        """The process numbers."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()
        os.close(self._file)


@contextmanager
def feed(plan: Plan, readers: Readers, first_step: int) -> Iterator[View]:
    """Yield what fills the batches of a run from a step on: the view itself, or reading processes.

    The user's own augmentation cannot run in another process.
    """
    count, ends = plan.config.data.processes, first_step >= plan.total_steps
    if not count or ends or plan.view.own is not None:
        yield plan.view
        return
    feeders = Feeders(plan.view, plan.config, readers.threads)
    try:
        yield feeders
    finally:
        feeders.close()


class _Feeder:
    """One process, and the thread that listens to it."""

    def __init__(self, start: dict[str, Any], memory: int) -> None:
        ours, theirs = socket.socketpair()
        code = (
            f"from saccade.training.reader_processes import serve; serve({theirs.fileno()}, "
            f"{memory})"
        )
        with theirs, signals.withheld():
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs.fileno(), memory),
                # Ctrl-C goes to the whole group of a terminal, and only the trainer is to hear it
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._line = Connection(ours.detach())
        self._waiting: deque[Future[None]] = deque()
        # a process that is already gone is named by the first batch asked of it
        with suppress(OSError):
            self._line.send_bytes(json.dumps(start).encode())
        self._hearer = threading.Thread(target=self._hear, name="saccade-feeder", daemon=True)
        self._hearer.start()

    def ask(self, step: int, slot: int, global_batch: int) -> Future[None]:
        task: Future[None] = Future()
        # before it is sent: the answer may come at once, and the hearer takes tasks in their order
        self._waiting.append(task)
        try:
            self._line.send_bytes(json.dumps([step, slot, global_batch]).encode())
        except OSError:
            self._fail(task)
        return task

    def _hear(self) -> None:
        while True:
            try:
                answer = json.loads(self._line.recv_bytes())
            except (OSError, EOFError):
                break
            task = self._waiting.popleft()
            if not task.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            if answer:
                # raised here as what it was there, with its exit status and its advice
                kind = answer.pop("kind")
                task.set_exception(getattr(errors, kind)(answer.pop("what"), **answer))
            else:
                task.set_result(None)
        # the line is closed: nobody will answer what is still open
        for task in list(self._waiting):
            self._fail(task)

    def _fail(self, task: Future[None]) -> None:
        status = self._process.poll()
        # asker and hearer may both notice the end, or nobody waits any more
        with suppress(InvalidStateError):
            task.set_exception(
                StalledError(
                    f"a reading process has ended (status {status})",
                    where="data.processes",
                    fix=(
                        "it may have been killed because memory ran out; the same command "
                        "continues; data.processes=0 needs less memory"
                    ),
                )
            )

    def close(self) -> None:
        # it ignores SIGTERM, and nothing there is worth saving
        self._process.kill()
        self._process.wait()
        # it reads to the end, now near; closing a line under its reader breaks the reader
        self._hearer.join()
        self._line.close()


def serve(line: int, memory: int) -> None:
    """Fill batches until the connection closes: the main function of a reading process, given two
    file descriptors.
    """
    for number in signals.STOPS:
        # the trainer decides when it is over, and saves first
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(line)
    start = json.loads(connection.recv_bytes())
    # the trainer hears of a failure with the first batch, in the words of that error
    view, failure = None, None
    try:
        view = _open_view(start)
    except SaccadeError as error:
        failure = error
    readers = Readers(start["threads"])
    room = mmap.mmap(memory, 0)
    begun: deque[list[Future[None]]] = deque()
    try:
        while True:
            # take all that was asked for, then wait for the oldest; sleep only where nothing is
            # open
            while connection.poll(0 if begun else None):
                step, slot, batch = json.loads(connection.recv_bytes())
                if view is None:
                    begun.append([])
                    continue
                count = len(view.rank_slice.places(batch))
                slots = _slot(room, slot * start["room"], view=view, num_images=count, step=step)
                begun.append(view.start(readers, step, batch, slots)[1])
            try:
                readers.wait(begun.popleft())
            except SaccadeError as error:
                failure = error
            connection.send_bytes(json.dumps(_told(failure)).encode())
    except (EOFError, OSError):
        os._exit(0)  # the trainer is gone, and nothing here is worth keeping


def _told(error: SaccadeError | None) -> dict[str, str]:
    if error is None:
        return {}
    fields = {"what": error.what, "where": error.where, "fix": error.fix, "finding": error.finding}
    return {"kind": type(error).__name__, **fields}


def _open_view(start: dict[str, Any]) -> TrainingView:
    """Open the data as the trainer did; raises DataError if it has changed."""
    config = Config.model_validate(start["config"])
    data = datasets.open_data(config, datasets.open_training(config))
    if data.train.fingerprint != start["fingerprint"]:
        raise DataError(
            "the data changed while the run began",
            where=data.train.where,
            fix="run the command again",
        )
    order = datasets.training_order(config, len(data.train), start["offset"])
    return datasets.training_view(
        config,
        data.train,
        order,
        steps=start["total_steps"],
        rank_slice=RankSlice(**start["rank_slice"]),
    )


def room_bytes(view: TrainingView, images: int) -> int:
    """Return the bytes of a batch of this many images at their largest size."""
    steps = range(0, view.total_steps, max(view.total_steps // len(view.sides), 1))
    smalls = [view.small_room(images, step) for step in (*steps, view.total_steps - 1)]
    small = max(count * side**2 for count, side in smalls)
    return 3 * (max(view.sides) ** 2 * images + small)


def _slot(
    memory: mmap.mmap, start: int, view: TrainingView, num_images: int, step: int
) -> tuple[Tensor, Tensor | None]:
    """Return a place in the shared memory as images and small views: uint8 (B, 3, S, S) in
    channels_last order.
    """
    side = view.size_at(step)
    images = _squares(memory, start, num_images, side)
    count, small_side = view.small_room(num_images, step)
    if not count:
        return images, None
    return images, _squares(memory, start + 3 * side**2 * num_images, count, small_side)


def _squares(memory: mmap.mmap, start: int, count: int, side: int) -> Tensor:
    """Return ``n`` images, uint8 (n, 3, S, S) in channels_last order, from a byte on."""
    flat = torch.frombuffer(memory, dtype=torch.uint8, count=3 * side**2 * count, offset=start)
    return flat.view(count, side, side, 3).permute(0, 3, 1, 2)
