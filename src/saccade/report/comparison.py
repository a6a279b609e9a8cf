"""Several runs side by side: overlaid curves, results with intervals, and different settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from saccade import files, units
from saccade.config.schema import flatten
from saccade.objectives.objective import Objective
from saccade.objectives.page import percent
from saccade.report import canvas, plots, sections
from saccade.report.html import Html, element, image, join, page, table
from saccade.report.plots import Line
from saccade.report.record import Record


def compare_runs(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page that compares runs to ``out`` and return its path.

    Raises UsageError if a folder is not a run, DiskError.
    """
    records = [Record.read(run) for run in runs]
    names = _names(records)

    # figures of different objectives have nothing to do with each other: a table and a plot of each
    results, curves = [], {}
    for group in _by_objective(records, names):
        called, members = zip(*group, strict=True)
        results.append(_results(members, called))
        objective = members[0].objective
        title = f"Validation {objective.curves_title.lower()} ({objective.primary.title})"
        name = objective.primary.name
        curves[title] = _overlay(members, called, title, kind="eval", field=name)
    for what, kind in (("Training", "step"), ("Validation", "eval")):
        title = f"{what} loss"
        curves[title] = _overlay(records, names, title, kind=kind, field="loss")

    content = page(
        f"{len(records)} runs · Saccade",
        element(
            "header",
            element("p", "Saccade comparison", class_="eyebrow"),
            element("h1", f"{len(records)} runs"),
        ),
        sections.section("Results, best first", join(results)),
        *[sections.section(title, curve) for title, curve in curves.items()],
        sections.section("Different settings", _differences(records, names)),
        element("footer", "Written by Saccade from the run folders."),
    )
    files.write_bytes(out, content)
    return out


def _names(records: Sequence[Record]) -> list[str]:
    """Return the folder names, with their parents' where two are the same."""
    short = [record.name for record in records]
    long = ["/".join(record.folder.resolve().parts[-2:]) for record in records]
    return [long[i] if short.count(name) > 1 else name for i, name in enumerate(short)]


def _by_objective(
    records: Sequence[Record], names: Sequence[str]
) -> list[list[tuple[str, Record]]]:
    """Return the runs with their names in groups with the same objective, in the given order."""
    groups: dict[str, list[tuple[str, Record]]] = {}
    for name, record in zip(names, records, strict=True):
        groups.setdefault(record.objective.name, []).append((name, record))
    return list(groups.values())


def _overlay(
    records: Sequence[Record],
    names: Sequence[str],
    title: str,
    *,
    kind: str,
    field: str,
) -> Html:
    in_percent = field != "loss"
    # one axis for all: an epoch of one run may be any number of steps of another
    axis = "epoch" if all(record.axis == "epoch" for record in records) else "step"
    series = [record.series(kind, field, axis) for record in records]
    lines = [Line(n, x, y, kind == "eval") for n, (x, y) in zip(names, series, strict=True) if x]
    if not lines:
        return Html("")
    light, dark = (
        plots.overlay(axis, lines, theme, percent=in_percent)
        for theme in (canvas.LIGHT, canvas.DARK)
    )
    return element(
        "div",
        image(light, f"{title} of {', '.join(names)}", dark=dark, scale=canvas.SCALE),
        class_="card matrix wide",
    )


def _results(records: Sequence[Record], names: Sequence[str]) -> Html:
    objective = records[0].objective
    primary = objective.primary
    runs = sorted(
        zip(names, records, strict=True),
        key=lambda run: (
            # runs without a figure come last
            -primary.score(run[1].figures) if primary.name in run[1].figures else math.inf
        ),
    )
    intervals = [_interval(record) for _, record in runs]
    low = min((i[0] for i in intervals if i), default=0.0)
    high = max((i[1] for i in intervals if i), default=1.0)
    titles = [one.label for one in objective.measures if one.name != primary.name]
    head = ("run", "status", primary.title, "95 % interval", *titles, "loss", "images", "time")
    rows = [_row(name, record, objective, low, high=high) for name, record in runs]
    sets = {record.section("dataset").get("fingerprint") for record in records}
    warning = (
        "These runs used different data (their fingerprints differ), so their results cannot be "
        "ranked."
    )
    note = element("p", warning, class_="finding warning") if len(sets) > 1 else Html("")
    about = (
        "The interval covers only the choice of validation images; another seed adds variation. "
        "A run without a final result shows its latest evaluation."
    )
    shown = table((*head, "model"), rows, numbers=range(2, len(head)))
    return join([element("div", note, shown, class_="card"), element("p", about, class_="note")])


def _interval(record: Record) -> tuple[float, float] | None:
    return record.objective.interval(record.figures)


def _row(
    name: str, record: Record, objective: Objective, low: float, *, high: float
) -> tuple[str, ...]:
    """Return one line of the table.

    The intervals are drawn on a common scale from ``low`` to ``high``.
    """
    figures, seconds, interval = record.figures, record.facts.get("seconds"), _interval(record)

    # a measure that can only be 1 is left out, as it is everywhere else
    drawn = [one for one in objective.measures if one in record.objective.curves]
    primary = objective.primary
    first = " ".join(primary.parted(figures)).rstrip() if primary.name in figures else "–"
    measured = [
        percent(figures[one.name]) if one in drawn and one.name in figures else "–"
        for one in objective.measures
        if one.name != primary.name
    ]

    shown: str = "–"
    if interval:
        scale = 100 / (high - low)
        left, width = (interval[0] - low) * scale, (interval[1] - interval[0]) * scale
        bar = element(
            "span", element("i", style=f"margin-left:{left:.1f}%;width:{width:.1f}%"), class_="bar"
        )
        shown = join([f"{100 * interval[0]:.2f} – {percent(interval[1])}", bar])

    return (
        name,
        sections.ending(record)[0],
        first,
        shown,
        *measured,
        f"{figures['loss']:.4f}" if "loss" in figures else "–",
        f"{int(figures['n']):,}" if "n" in figures else "–",
        units.human_time(seconds) if isinstance(seconds, int | float) else "–",
        str(record.section("model").get("name") or "–"),
    )


def _differences(records: Sequence[Record], names: Sequence[str]) -> Html:
    """Return a table of the settings that are not the same in all runs."""
    settings = [flatten(record.config) for record in records]
    fields = sorted({name for one in settings for name in one if not name.startswith("resolved.")})
    rows = [
        (field, *(str(one.get(field, "–")) for one in settings))
        for field in fields
        if any(one.get(field) != settings[0].get(field) for one in settings)
    ]
    shown = (
        table(("setting", *names), rows)
        if rows
        else element("p", "None: the configurations are the same.")
    )
    return element("div", shown, class_="card")
