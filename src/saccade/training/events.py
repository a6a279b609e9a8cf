"""The events of a run, as plain values.

``saccade.train(callbacks=[f])`` calls ``f(event)`` with each of the events below, in the main
thread of the first rank, between two steps; `listeners.py` is how. A callback sees values, not
tensors, so nothing that it does can change the run, except one thing: ``raise
saccade.StopTraining("why")`` makes the run save and end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunStarted:
    """An attempt begins: the checks are done, and a step comes next.

    ``step`` is where it continues, 0 for a new run. ``attempt`` counts from 1; a resumed run has a
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
    fraction. ``loss`` is the mean over the global batch as it was computed, not finite if the step
    was bad and was skipped. ``lr`` is the rate that the step had. ``images_per_s`` and
    ``wait_share``, the share of the time that was spent waiting for images, are those of this step
    alone. On a CPU the event comes at once. On a GPU the loss is read one step late, so that the
    device never waits: the event of step 7 comes after step 8 has begun, but before the events of
    an evaluation or a checkpoint of step 7.
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
    """The model was evaluated: the average of the weights (EMA) if the run has one.

    ``figures`` are numbers by name, such as ``top1`` (a fraction) and ``loss``. ``train`` are those
    of training since the previous evaluation: ``train_loss``, ``lr``, ``images_per_s``. ``is_best``
    is True if no earlier evaluation was better. The ``final`` evaluation uses the saved weights.
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
    """A checkpoint was written and read back: ``path`` is its folder.

    It is written beside the steps, so this may come some steps after ``step``.
    """

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class RunEnded:
    """An attempt is over, and everything worth saving is saved.

    ``status`` is the word in ``run.json``: ``done``, ``preempted``, ``interrupted``, ``diverged``
    and so on, or ``failed`` for an error that Saccade does not explain; ``message`` is the reason
    if the status is not ``done``. ``figures`` are those of the final evaluation, empty if there was
    none.
    """

    folder: Path
    status: str
    step: int
    figures: Mapping[str, float]
    message: str = ""


Event = RunStarted | StepDone | Evaluated | CheckpointSaved | RunEnded
