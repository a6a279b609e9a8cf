"""What may stop a run: numbers that are no longer numbers, a signal, the time limit."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from torch import Tensor

from saccade.errors import DivergedError, InterruptedRunError, PreemptedError, SaccadeError


class Finite:
    """Watches that loss and gradients stay finite.

    On the CPU the flag is read at once. Elsewhere it is read one step late, so that no step waits for the device;
    ``settle`` must be called before anything is saved.
    """

    def __init__(self, lr_text: str) -> None:
        self._lr_text = lr_text
        self._open: tuple[int, Tensor] | None = None

    def watch(self, step: int, finite: Tensor) -> None:
        """Take the flag of a step, a bool scalar on any device; raises DivergedError for it or the one before."""
        self.settle()
        self._open = (step, finite)
        if finite.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Read the flag that is still open; raises DivergedError."""
        if self._open is None:
            return
        (step, finite), self._open = self._open, None
        if not bool(finite):
            raise DivergedError(
                f"the loss or a gradient is not finite at step {step}; nothing after the last checkpoint is kept",
                where=f"step {step}, {self._lr_text}",
                fix="lower the learning rate (--lr) or lengthen the warm-up (--set schedule.warmup=10%), "
                "then start anew with --resume never",
                finding="not-finite",
            )


class Stop:
    """Turns signals and the time limit into one flag that the loop polls; a second signal ends at once."""

    def __init__(self, max_time_s: float | None) -> None:
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
        """Raise PreemptedError or InterruptedRunError when the run should save and end."""
        reason = self.reason()
        if reason is not None:
            raise reason

    def reason(self) -> SaccadeError | None:
        """Return why the run should save and end, or None."""
        again = "the same command continues exactly here"
        if self._signal == signal.SIGINT:
            return InterruptedRunError("interrupted; the run is saved", fix=again)
        if self._signal is not None:
            return PreemptedError("asked to stop by SIGTERM; the run is saved", fix=again)
        if self._deadline is not None and time.monotonic() > self._deadline:
            return PreemptedError("the time limit is reached; the run is saved", fix=again)
        return None
