"""A table of runs for a README or a spreadsheet: what each is, what it cost, what it reached."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade import units
from saccade.errors import SaccadeError
from saccade.printable import cell, printable
from saccade.report.notebook import NAME
from saccade.report.record import Record
from saccade.report.sections import ending
from saccade.training import recorded
from saccade.training.run import image_macs

NOT_KNOWN = "n/a"
"""What stands in a cell where the run says nothing; readers of CSV take it for a missing value."""

LINKS = {
    "report": "report.html",
    "log": "log.jsonl",
    "weights": "model.safetensors",
    "notebook": NAME,
}
"""The files of a run that a table points to."""

_TITLES = {"params": "params (M)", "macs": "MACs (G)", "seconds": "time"}
_TEXTS = ("run", "status", "model", "data")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of an objective: its title, and the format it has for people."""

    title: str
    show: str


@dataclass(frozen=True)
class RunTable:
    """Runs as rows that share their keys; ``figures`` says which of the columns are results.

    ``params`` and ``macs`` (multiply-accumulates of one image at the training size) are whole
    numbers, results are as in run.json (top1 from 0 to 1), ``seconds`` covers all attempts, links
    are paths. What a run does not say is None.
    """

    rows: tuple[dict[str, Any], ...]
    figures: Mapping[str, Figure]

    @classmethod
    def of(cls, runs: Sequence[Path]) -> RunTable:
        """Read run folders, in the order given; raises UsageError when one is no run."""
        records = [Record.read(run) for run in runs]
        figures: dict[str, Figure] = {}
        for record in records:
            objective = record.objective
            primary = objective.primary
            figures.setdefault(primary.name, Figure(primary.title, primary.show))
            for one in objective.measures:
                figures.setdefault(one.name, Figure(one.label, ".2%"))
        return cls(tuple(_row(record, list(figures)) for record in records), figures)

    def csv(self, beside: Path) -> str:
        """Return the rows as CSV, figures as they are, links relative to the folder ``beside``."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.rows[0])
        for row in self._linked(beside):
            values = [NOT_KNOWN if value is None else value for value in row.values()]
            # a spreadsheet would compute a name that begins with "="
            writer.writerow([cell(v) if isinstance(v, str) else v for v in values])
        return out.getvalue()

    def markdown(self, beside: Path) -> str:
        """Return the rows as a table for people, links relative to the folder ``beside``."""
        names = [name for name in self.rows[0] if name not in LINKS]
        titles = [*(self._title(name) for name in names), "links"]
        rules = ["---" if name in (*_TEXTS, "links") else "---:" for name in (*names, "links")]
        lines = [titles, rules]
        for row in self._linked(beside):
            links = [f"[{name}](<{_address(row[name])}>)" for name in LINKS if row[name]]
            shown = [self._shown(name, row[name]) for name in names]
            lines.append([*shown, " ".join(links) or NOT_KNOWN])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _linked(self, beside: Path) -> list[dict[str, Any]]:
        return [
            row | {name: os.path.relpath(row[name], beside) for name in LINKS if row[name]}
            for row in self.rows
        ]

    def _title(self, name: str) -> str:
        return self.figures[name].title if name in self.figures else _TITLES.get(name, name)

    def _shown(self, name: str, value: Any) -> str:
        if value is None:
            return NOT_KNOWN
        if name in self.figures:
            return format(value, self.figures[name].show)
        match name:
            case "epochs":
                return f"{value:.1f}".removesuffix(".0")
            case "params":
                return f"{value / 1e6:.2f}"
            case "macs":
                return f"{value / 1e9:.3f}"
            case "seconds":
                return units.human_time(value)
        return _plain(str(value))


def _row(record: Record, figures: Sequence[str]) -> dict[str, Any]:
    model, objective = record.section("model"), record.objective
    # a figure that can only be 1, as top-5 of four classes, says nothing
    told = {objective.primary.name, *(one.name for one in objective.curves)}
    links = {name: record.folder / file for name, file in LINKS.items()}
    return {
        "run": record.name,
        "status": ending(record)[0],
        "model": model.get("name"),
        "data": record.section("dataset").get("name"),
        "epochs": record.figures.get("epoch", _last_epoch(record)),
        "params": model.get("params"),
        "macs": _macs(record),
        **{name: record.figures.get(name) if name in told else None for name in figures},
        "seconds": record.facts.get("seconds"),
        **{name: str(path) if path.is_file() else None for name, path in links.items()},
    }


def _last_epoch(record: Record) -> float | None:
    return max((e["epoch"] for e in record.steps + record.evals if "epoch" in e), default=None)


def _macs(record: Record) -> int | None:
    """Count what one image costs; None for a network that is not known by its name."""
    try:
        config = recorded.settings(record.folder)
        return image_macs(config, len(record.classes) or 1) if config else None
    except SaccadeError:
        return None


def _plain(text: str) -> str:
    """Return a text without what would end its cell or mean something in Markdown."""
    shown = printable(text, keep="")
    for mark in "\\`*_[]<>|":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def _address(path: str) -> str:
    """Return a path as it may stand between the angle brackets of a link in a table."""
    shown = printable(path, keep="").replace(os.sep, "/")
    return shown.replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
