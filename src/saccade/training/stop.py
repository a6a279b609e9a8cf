"""Reasons to stop a run from outside: a signal, the time limit, a callback."""

from __future__ import annotations

import signal
import time

from saccade import units
from saccade.distributed.world import ALONE, World
from saccade.errors import InterruptedRunError, PreemptedError, StopTraining
from saccade.listeners import Listeners
from saccade.system.signals import SIGNALS

_ASKED, _TIME_IS_UP = 999, 1000
"""Above the number of every signal: ranks agree on the highest of their reasons."""


AGAIN = "the same command continues exactly here"


class Stop:
    """Combines signals, the time limit and callbacks into one stop request that the loop polls
    (``signals.py`` has the rule).

    A signal to one rank stops all of them at the same step.
    """

    def __init__(self, world: World = ALONE, listeners: Listeners | None = None) -> None:
        self._world = world
        self._listeners = listeners
        self._deadline: float | None = None
        self._caught_here = False

    def __enter__(self) -> Stop:
        # else the command line has them, and keeps them to its last moment
        self._caught_here = not SIGNALS.caught
        SIGNALS.catch()
        return self

    def __exit__(self, *_: object) -> None:
        if self._caught_here:
            SIGNALS.release()

    def limit(self, max_time: str) -> None:
        """Stop after this time from now, such as ``20m``; an empty text means never."""
        self._deadline = time.monotonic() + units.seconds(max_time) if max_time else None

    def begin(self) -> None:
        """From here on there is something to save: signals wait for ``check``."""
        SIGNALS.phase = "working"

    def save(self) -> None:
        """From here on a second SIGTERM is ignored: a scheduler may send it while the ranks
        leave one after another.
        """
        SIGNALS.phase = "saving"

    def check(self) -> None:
        """Raise PreemptedError, StopTraining or InterruptedRunError on all ranks when one of them
        should save and end.
        """
        # every rank asks at the same place in the loop; the highest number wins on all of them
        reason = self._world.highest(self._reason())
        wish = self._listeners.wish if self._listeners else None
        if reason == _ASKED:  # only the first rank has callbacks
            why = self._world.broadcast(lambda: wish.what if wish else "")
            raise StopTraining(why, fix=AGAIN)
        self._raise(reason)

    def check_here(self) -> None:
        """Do what ``check`` does while the other ranks wait for this one."""
        self._raise(self._reason())

    def _reason(self) -> int:
        if SIGNALS.first is not None:
            return int(SIGNALS.first)
        if self._deadline is not None and time.monotonic() > self._deadline:
            return _TIME_IS_UP
        return _ASKED if self._listeners and self._listeners.wish else 0

    def _raise(self, reason: int) -> None:
        if reason == signal.SIGINT:
            raise InterruptedRunError("interrupted", fix=AGAIN)
        if reason == _TIME_IS_UP:
            raise PreemptedError("the time limit is reached", fix=AGAIN)
        if reason:
            raise PreemptedError(f"asked to stop by {signal.Signals(reason).name}", fix=AGAIN)
