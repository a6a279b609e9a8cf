"""Listeners of a run: the user's callbacks, TensorBoard, `metrics.csv`, tests."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from saccade.errors import StopTraining, UsageError

Callback = Callable[[Any], object]


class Listeners:
    """Sends the events of a run (`training/events.py`) to its listeners, oldest listener first.

    A listener that fails is reported and no longer called; the run continues. One may ask the run
    to stop by raising StopTraining: ``wish`` is the first such request; the run stops between two
    steps.
    """

    of_every_run: ClassVar[list[Callback]] = []
    """Listeners of all following runs of this process; the tests use one to stop runs."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Begin with the listeners of every run; ``warn`` says which one has failed."""
        self._warn = warn
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        """The context in which a listener is called: it restores what a listener might change."""
        self._listeners: list[tuple[Callback, tuple[type, ...]]] = []
        self.wish: StopTraining | None = None
        for callback in self.of_every_run:
            self.add(callback)

    def add(self, callback: Callback, *kinds: type) -> None:
        """Call ``callback`` with each following event, or only with events of some kinds."""
        self._listeners.append((callback, kinds))

    def want(self, kind: type) -> bool:
        """Tell whether there is a listener for events of a kind: some events are expensive to
        create."""
        return any(not kinds or kind in kinds for _, kinds in self._listeners)

    def tell(self, event: object) -> None:
        """Send an event to all listeners."""
        for listener in list(self._listeners):
            callback, kinds = listener
            if kinds and type(event) not in kinds:
                continue

            try:
                with self.around():
                    callback(event)
            except StopTraining as wish:
                wish.what = f"{name_of(callback)} asked to stop: {wish.what}"
                self.wish = self.wish or wish
            # it is of somebody else: no reason to end a run
            except Exception as error:
                self._listeners.remove(listener)
                self._warn(_failed(callback, event, error))


def require_callable(callbacks: Sequence[Callback]) -> None:
    """Raise UsageError if callbacks are not a list of functions of one event."""
    listed = callbacks if isinstance(callbacks, list | tuple) else [None]
    if not all(callable(callback) for callback in listed):
        raise UsageError(
            f"callbacks={callbacks!r} is not a list of functions",
            where="callbacks",
            fix="write callbacks=[f], where f(event) gets saccade.StepDone, saccade.Evaluated ...",
        )


def name_of(function: object) -> str:
    """Return a readable name of a function or callable object."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    named = getattr(function, "__qualname__", "") or type(function).__qualname__
    return str(named).rpartition("<locals>.")[2]


def _failed(callback: Callback, event: object, error: Exception) -> str:
    """Say which callback failed, at which event, how and where."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our own
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return (
        f"the callback {name_of(callback)} failed at {type(event).__name__}: "
        f"{type(error).__name__}: {error}{place}; it is not called again, and the run continues"
    )
