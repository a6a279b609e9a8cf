"""Stop requests: the effect of SIGTERM, SIGHUP and Ctrl-C from the start of a command to its end.

While there is nothing to save, the first signal ends the command at once. In the training loop it
is a request that takes effect between two steps: the run saves and ends. A second Ctrl-C always
means *now*. A second SIGTERM or SIGHUP means *now* until the saving begins; from then on it is
ignored, and so is one that comes within a second of the first, because systemd, SLURM and others
send two for one. Under SLURM all further ones are ignored: the scheduler repeats signals, and uses
SIGKILL for *now*. In any case a checkpoint is complete or absent.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from saccade.errors import Explained, InterruptedRunError, PreemptedError, StoppedEarlyError

STOPS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
)
SAME_WISH_S = 1.0
"""A second SIGTERM or SIGHUP within this time counts as a copy of the first, in seconds."""

PATIENCE_S = 5.0
"""How long the main thread may take to see a signal while there is nothing to save, in seconds."""

Phase = Literal["nothing to save", "working", "saving"]


class Signals:
    """The stop signals of this process.

    They belong to the process, so there is one: :data:`SIGNALS`.
    """

    def __init__(self) -> None:
        self.phase: Phase = "nothing to save"
        self.first: int | None = None
        self._first_s = 0.0
        self._before: dict[int, object] = {}
        self._lines: tuple[int, int] | None = None
        self._arrived = 0

    @property
    def caught(self) -> bool:
        """Whether this object handles the signals."""
        return bool(self._before)

    def catch(self) -> None:
        """Handle the signals, unless this is not the main thread, as in some notebooks: there they
        are unchanged.

        SIGHUP stays ignored where ``nohup`` has made it so.
        """
        # Python lets only the main thread set handlers
        if self.caught or threading.current_thread() is not threading.main_thread():
            return
        self.phase, self.first, self._first_s, self._arrived = "nothing to save", None, 0.0, 0
        for number in STOPS:
            before = signal.getsignal(number)
            if number == signal.SIGINT or before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._receive)
        if sys.platform != "win32":
            # a parent may have withheld them until now
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def swallowed(self) -> Explained | None:
        """Return what should have ended the command, where a signal came and there was nothing
        to save; else None.
        """
        return (
            early(self.first)
            if self.first is not None and self.phase == "nothing to save"
            else None
        )

    def watch(self) -> None:
        """Let a thread look for a second signal: nothing interrupts the main one when it is deep
        in a computation.
        """
        # a thread of Windows can wait for sockets alone: there the main thread hears of the first
        # signal and of the second when it is back in Python
        if sys.platform == "win32" or not self.caught or self._lines:
            return
        self._lines = theirs, ours = os.pipe()
        # Python refuses a wake-up descriptor that could block
        os.set_blocking(ours, False)
        signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        threading.Thread(
            target=self._listen, args=(theirs,), name="saccade-signals", daemon=True
        ).start()

    def over(self) -> None:
        """Ignore late signals: the exit status is known, and Python's shutdown would restore their
        old meaning.
        """
        self.phase = "saving"
        for number in self._before:
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_IGN)

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
        if self._lines:
            signal.set_wakeup_fd(-1)
            os.close(self._lines[1])  # its thread reads to the end
            self._lines = None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.first is not None:
            self._again(number)
            return
        # noted first, so that whoever polls sees it even where the raise below gets lost
        self.first, self._first_s = number, self._first_s or time.monotonic()
        if self.phase == "nothing to save":
            raise early(number)

    def _listen(self, line: int) -> None:
        """Count the signals as they arrive; the first one is the main thread's own business.

        Where there is nothing to save and the main thread does not come back for it, deep in a
        computation of a preflight for example, the command is ended from here.
        """
        latest = 0
        while True:
            is_unheard = (
                self._arrived == 1 and self.first is None and self.phase == "nothing to save"
            )
            if not select.select([line], [], [], PATIENCE_S if is_unheard else None)[0]:
                if self.first is None and self.phase == "nothing to save":
                    _leave(latest)
                continue

            if not (read := os.read(line, 1)):
                break
            if read[0] not in STOPS:
                continue

            latest = read[0]
            self._arrived += 1
            if self._arrived > 1:
                self._again(latest)
            else:
                self._first_s = time.monotonic()
        os.close(line)

    def _again(self, number: int) -> None:
        """Answer a signal after the first one."""
        if number != signal.SIGINT:
            is_echo = time.monotonic() - self._first_s < SAME_WISH_S
            if self.phase == "saving" or is_echo or "SLURM_JOB_ID" in os.environ:
                return
        # without a word, which could block; checkpoints are whole or not there
        os._exit(status(number))


def _leave(number: int) -> None:
    """End the process with the sentence and the status of a signal.

    Standard error may be blocked.
    """
    told = f"{early(number)}\n".encode(errors="replace")
    teller = threading.Thread(target=os.write, args=(2, told), daemon=True)
    teller.start()
    teller.join(1.0)
    os._exit(status(number))


SIGNALS = Signals()


def status(number: int) -> int:
    """Return the exit status of a command that a signal ended."""
    return InterruptedRunError.status if number == signal.SIGINT else PreemptedError.status


def early(number: int) -> Explained:
    """Return what ends a command that is asked to stop before there is anything to save."""
    again = "run the same command again"
    if number == signal.SIGINT:
        return InterruptedRunError("interrupted before it was finished", fix=again)
    return StoppedEarlyError(
        f"asked to stop by {signal.Signals(number).name} before it was finished", fix=again
    )


@contextmanager
def withheld() -> Iterator[None]:
    """Keep the signals from processes that are started meanwhile, until these ask for them or
    ignore them.
    """
    # Windows withholds nothing, and a console there sends Ctrl-C to all that belong to it
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
