"""``metrics.csv``: the course of a run for a spreadsheet, one row for each evaluation."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saccade import files
from saccade.errors import DiskError
from saccade.log import is_behind
from saccade.objectives.objective import Objective
from saccade.printable import cell
from saccade.training.events import Evaluated, RunStarted

BEFORE = {
    "epoch": "epoch",
    "step": "step",
    "split": "split",
    "views": "views",
    "train_loss": "train_loss",
    "val_loss": "loss",
}
BEHIND = {"lr": "lr", "images_per_s": "images_per_s"}
"""The field of an event of the kind ``eval`` behind each column, around those of the objective."""


class Table:
    """Listens to the events of a run and rewrites the whole file at each evaluation.

    So a kill never leaves an incomplete row, a repeated step replaces its row, and a row that a
    full disk refused is written the next time. ``train_loss`` is the mean over the steps since the
    previous evaluation.
    """

    def __init__(self, path: Path, earlier: Iterable[dict[str, Any]], objective: Objective) -> None:
        """Begin with the events of ``earlier`` attempts."""
        self._path = path
        self._columns = {**BEFORE, **objective.columns(), **BEHIND}
        self._rows: list[dict[str, Any]] = []
        for event in earlier:
            self._take(event)

    def __call__(self, event: RunStarted | Evaluated) -> None:
        """Record an event."""
        if self._take(_as_line(event)):
            with contextlib.suppress(DiskError):  # the log says that the disk is full
                files.write_bytes(self._path, self._text().encode())

    def _take(self, event: dict[str, Any]) -> bool:
        # rows beyond the step where an attempt went on were never part of this run
        if event["event"] == "start":
            self._rows = [row for row in self._rows if not is_behind(row, int(event["step"]))]
        elif event["event"] == "eval":
            # a step that is evaluated again after a resume replaces its row
            same = _place(event)
            self._rows = [row for row in self._rows if _place(row) != same] + [event]
        return event["event"] in ("start", "eval") and bool(self._rows)

    def _text(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self._columns)
        for row in self._rows:
            values = [row.get(name) for name in self._columns.values()]
            # names may come from anybody, and a spreadsheet would run one that begins with "="
            shown = [cell(v) if isinstance(v, str) else v for v in values]
            writer.writerow(shown)
        return out.getvalue()


def _as_line(event: RunStarted | Evaluated) -> dict[str, Any]:
    """Return an event in the form of log.jsonl, the source of earlier attempts."""
    if isinstance(event, RunStarted):
        return {"event": "start", "step": event.step}
    # JSON has no NaN, so log.jsonl holds null there
    numbers = {
        name: value if math.isfinite(value) else None
        for name, value in {**event.figures, **event.train}.items()
    }
    place = {"step": event.step, "epoch": event.epoch, "split": event.split, "views": event.views}
    return {"event": "eval", **place, **numbers}


def _place(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["step"], event.get("split"), event.get("views")
