"""What may stop a run: numbers that are no longer numbers, a signal, the time limit."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from saccade.config import GuardSection
from saccade.dist import ALONE, World
from saccade.errors import DivergedError, InterruptedRunError, PreemptedError
from saccade.training.bad_steps import MOST_KEPT, Archive, Evidence
from saccade.training.late import Late
from saccade.training.state import State

_TIME_IS_UP, _TERMINATED, _INTERRUPTED = 1, 2, 3


class Finite:
    """Watches that loss and gradients stay finite, and decides what a step in which they do not means for the run.

    On the CPU the flag is read at once. On a GPU it is read one step late, so that the device never waits for the host;
    ``settle`` must be called before anything is saved. All ranks see the same flags.
    """

    def __init__(self, lr_text: str, policy: GuardSection | None = None, archive: Archive | None = None) -> None:
        self._lr_text = lr_text
        self._policy = policy or GuardSection()
        self._archive = archive
        self._open: tuple[State, Evidence, Late] | None = None

    def watch(self, state: State, evidence: Evidence) -> None:
        """Take the flag of a step; raises DivergedError when it, or the one before, ends the run."""
        self.settle()
        self._open = state, evidence, Late(evidence.bad)
        if evidence.bad.device.type != "cuda":
            self.settle()

    def settle(self) -> None:
        """Read the flag that is still open; raises DivergedError."""
        if self._open is None:
            return
        (state, evidence, bad), self._open = self._open, None
        if not bad.read():
            return
        skips, count = self._policy.bad_steps == "skip", len(state.skipped)
        kept = self._archive.keep(evidence) if self._archive and count < MOST_KEPT else ""
        if skips and count < self._policy.allowed:
            state.skipped.append(evidence.step)
            return
        before = f"; {count} steps were skipped before it" if skips else ""
        jumps = bool(evidence.jumps)
        what = "the loss jumps far above its recent mean" if jumps else "the loss or a gradient is not finite"
        raise DivergedError(
            f"{what} at step {evidence.step}{before}; nothing after the last checkpoint is kept",
            where=f"step {evidence.step}, {self._lr_text}" + (f"; its batch: {kept}" if kept else ""),
            fix="lower the learning rate (--lr) or lengthen the warm-up (--set schedule.warmup=10%), then start anew "
            "with --resume never; if only a few images are to blame, --set guard.bad_steps=skip leaves such steps out",
            finding="loss-spike" if jumps else "not-finite",
        )


class Stop:
    """Turns signals and the time limit into one flag that the loop polls; a second Ctrl-C ends at once.

    A signal to one rank stops all of them at the same step.
    """

    def __init__(self, max_time_s: float | None, world: World = ALONE) -> None:
        self._world = world
        self._deadline = None if max_time_s is None else time.monotonic() + max_time_s
        self._signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread, as in some notebooks: signals stay as they are
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            os._exit(130)  # checkpoints are published atomically: there is nothing to clean up
        self._signal = number

    def check(self) -> None:
        """Raise PreemptedError or InterruptedRunError on all ranks when one of them should save and end."""
        _raise(self._world.highest(self._reason()))

    def check_here(self) -> None:
        """Do what ``check`` does while the other ranks wait for this one."""
        _raise(self._reason())

    def _reason(self) -> int:
        if self._signal is not None:
            return _INTERRUPTED if self._signal == signal.SIGINT else _TERMINATED
        return _TIME_IS_UP if self._deadline is not None and time.monotonic() > self._deadline else 0


def _raise(reason: int) -> None:
    again = "the same command continues exactly here"
    if reason == _INTERRUPTED:
        raise InterruptedRunError("interrupted; the run is saved", fix=again)
    if reason == _TERMINATED:
        raise PreemptedError("asked to stop by SIGTERM; the run is saved", fix=again)
    if reason == _TIME_IS_UP:
        raise PreemptedError("the time limit is reached; the run is saved", fix=again)
