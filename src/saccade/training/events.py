"""What happens in a run, as plain values, and the door through which it is told.

``saccade.train(callbacks=[f])`` calls ``f(event)`` with each of the events below. TensorBoard and
``metrics.csv`` come in by the same door. Callbacks run in the main thread of the first rank,
between two steps. They see values, not tensors, so nothing that they do can change the run, except
one thing: ``raise saccade.StopTraining("why")`` makes the run save and end.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.errors import StopTraining
from saccade.log import Log

Callback = Callable[[Any], object]
Asking = Callable[[StopTraining], None]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """An attempt begins: the checks are over, and the next thing is a step.

    ``step`` is where it goes on, 0 for a new run. ``attempt`` counts from 1; a resumed run has a
    higher one.
    """

    folder: Path
    model: str
    classes: tuple[str, ...]
    step: int
    total_steps: int
    attempt: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step is done.

    ``step`` counts the steps that are done, ``epoch`` the passes over the training images, with a
    fraction. ``loss`` is the mean over the global batch, NaN where the step was left out. ``lr`` is
    the rate that the step had. ``images_per_s`` and ``wait_share``, the share of the time that was
    spent waiting for images, are those of this step alone.

    On a CPU this is told at once. On a GPU the loss is read one step late, so that the device never
    waits: the event of step 7 comes after step 8 was begun, but before an evaluation or a
    checkpoint of step 7 is told.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    lr: float
    images_per_s: float
    wait_share: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model was evaluated, the average of the weights where the run keeps one.

    ``figures`` are numbers by name, such as ``top1`` (a fraction) and ``loss``. ``train`` are those
    of training since the evaluation before: ``train_loss``, ``lr``, ``images_per_s``. ``is_best``
    tells whether no earlier evaluation was better. The ``final`` one is of the saved weights.
    """

    step: int
    epoch: float
    split: str
    views: int
    figures: Mapping[str, float]
    train: Mapping[str, float]
    is_best: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is on the disk and was read back: ``path`` is its folder."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class RunEnded:
    """An attempt is over, and everything worth saving is saved.

    ``status`` is the word in ``run.json``: ``done``, ``preempted``, ``interrupted``, ``diverged``
    and so on; ``message`` says why where it is not ``done``. ``figures`` are those of the final
    evaluation, empty where there was none.
    """

    folder: Path
    status: str
    step: int
    figures: Mapping[str, float]
    message: str = ""


Event = RunStarted | StepDone | Evaluated | CheckpointSaved | RunEnded


class Door:
    """Tells the events of a run to whoever listens, in the order in which they came in.

    A listener that fails is named and left out; the run goes on. ``ask`` is called when one wants
    the run to stop.
    """

    def __init__(self, log: Log, ask: Asking, callbacks: tuple[Callback, ...] = ()) -> None:
        self._log, self._ask = log, ask
        self._listeners: list[tuple[Callback, tuple[type, ...]]] = []
        for callback in callbacks:
            self.listen(callback)

    def listen(self, callback: Callback, *kinds: type) -> None:
        """Call ``callback`` with each event to come, or with those of some kinds only."""
        self._listeners.append((callback, kinds))

    def wants(self, kind: type) -> bool:
        """Tell whether anybody listens to events of a kind: some cost something to make."""
        return any(not kinds or kind in kinds for _, kinds in self._listeners)

    def tell(self, event: Event) -> None:
        """Hand an event to every listener."""
        for listener in list(self._listeners):
            callback, kinds = listener
            if kinds and type(event) not in kinds:
                continue

            try:
                callback(event)
            except StopTraining as wish:
                wish.what = f"{name_of(callback)} asked to stop: {wish.what}"
                self._ask(wish)
            # it is of somebody else: no reason to end a run
            except Exception as error:
                self._listeners.remove(listener)
                self._log.warn(_failed(callback, event, error))


def name_of(function: object) -> str:
    """Return the name by which a person knows a function, or an object that can be called."""
    named = getattr(function, "__qualname__", "") or type(function).__qualname__
    return str(named).rpartition("<locals>.")[2]


def _failed(callback: Callback, event: Event, error: Exception) -> str:
    """Say which callback failed, at which event, how and where."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our own
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return (
        f"the callback {name_of(callback)} failed at {type(event).__name__}: "
        f"{type(error).__name__}: {error}{place}; it is not called again, and the run goes on"
    )
