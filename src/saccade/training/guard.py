"""What may stop a run: numbers that are no longer numbers, a signal, the time limit."""

from __future__ import annotations

import signal
import time

from saccade.config import GuardSection
from saccade.dist import ALONE, World
from saccade.errors import DivergedError, InterruptedRunError, PreemptedError
from saccade.signals import SIGNALS
from saccade.training.bad_steps import MOST_KEPT, Archive, Evidence
from saccade.training.late import Late
from saccade.training.state import State

_TIME_IS_UP = 1000
"""Above the number of every signal: ranks agree on the highest of their reasons."""


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
    """Turns signals and the time limit into one wish that the loop polls (``signals.py`` has the rule).

    A signal to one rank stops all of them at the same step.
    """

    def __init__(self, world: World = ALONE) -> None:
        self._world = world
        self._deadline: float | None = None
        self._caught_here = False

    def __enter__(self) -> Stop:
        self._caught_here = not SIGNALS.caught  # else the command line has them, and keeps them to its last moment
        SIGNALS.catch()
        return self

    def __exit__(self, *_: object) -> None:
        if self._caught_here:
            SIGNALS.release()

    def limit(self, max_time_s: float | None) -> None:
        """Stop after so many seconds from now."""
        self._deadline = None if max_time_s is None else time.monotonic() + max_time_s

    def begin(self) -> None:
        """From here on there is something to save: signals wait for ``check``."""
        SIGNALS.phase = "working"

    def save(self) -> None:
        """From here on a second SIGTERM is ignored: a scheduler may send it while the ranks leave one after another."""
        SIGNALS.phase = "saving"

    def check(self) -> None:
        """Raise PreemptedError or InterruptedRunError on all ranks when one of them should save and end."""
        _raise(self._world.highest(self._reason()))

    def check_here(self) -> None:
        """Do what ``check`` does while the other ranks wait for this one."""
        _raise(self._reason())

    def _reason(self) -> int:
        if SIGNALS.first is not None:
            return int(SIGNALS.first)
        return _TIME_IS_UP if self._deadline is not None and time.monotonic() > self._deadline else 0


def _raise(reason: int) -> None:
    again = "the same command continues exactly here"
    if reason == signal.SIGINT:
        raise InterruptedRunError("interrupted", fix=again)
    if reason == _TIME_IS_UP:
        raise PreemptedError("the time limit is reached", fix=again)
    if reason:
        raise PreemptedError(f"asked to stop by {signal.Signals(reason).name}", fix=again)
