"""A listener that shows a run in TensorBoard, which is a separate package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from saccade.errors import ConfigError
from saccade.training.events import Evaluated, Event, RunEnded, StepDone

SHOWN = ("loss", "images_per_s", "wait_share")
"""Values of a step whose means are written."""


class TensorBoard:
    """Writes numbers as TensorBoard events into ``folder``: of steps the means over each ``every``
    of them, of evaluations the ``figures`` with these names.

    TensorBoard's own writer appends to its files there; Saccade does not read them.
    """

    def __init__(self, folder: Path, figures: Sequence[str], every: int) -> None:
        """Begin to write; raises ConfigError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "TensorBoard is not installed",
                where="log.tensorboard",
                fix="pip install tensorboard",
            ) from error
        self._writer = SummaryWriter(str(folder))
        self._figures, self._every = figures, every
        self._steps: list[StepDone] = []

    def __call__(self, event: Event) -> None:
        """Write what is in an event."""
        if isinstance(event, StepDone):
            self._steps.append(event)
            if event.step % self._every == 0 or event.step == event.total_steps:
                self._write_steps(event)
        elif isinstance(event, Evaluated):
            # the final one may be of other images or views than those on the way
            place = "final" if event.final else "eval"
            shown = {name: event.figures.get(name, math.nan) for name in self._figures}
            self._write(place, event.step, shown)
        elif isinstance(event, RunEnded):
            self._writer.close()  # else its thread stays as long as the process

    def _write_steps(self, last: StepDone) -> None:
        means = {}
        for name in SHOWN:
            values = [getattr(step, name) for step in self._steps]
            # a step that went bad and was left out has no finite loss
            finite = [value for value in values if math.isfinite(value)]
            means[name] = fmean(finite) if finite else math.nan
        self._write("step", last.step, means | {"lr": last.lr})
        self._steps.clear()

    def _write(self, place: str, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"{place}/{name}", value, step)
        self._writer.flush()
