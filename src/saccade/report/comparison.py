"""Several runs beside each other: overlaid curves, the figures with their uncertainty, and what
was set differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade import files, units
from saccade.config.schema import flatten
from saccade.objectives import metrics
from saccade.report import plots, sections
from saccade.report.html import Html, element, image, join, page, table
from saccade.report.plots import Line
from saccade.report.record import Record

_CURVES = (
    ("Validation accuracy (top-1)", "eval", "top1", True),
    ("Training loss", "step", "loss", False),
    ("Validation loss", "eval", "loss", False),
)


def compare_runs(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page that compares runs to ``out`` and return its path.

    Raises UsageError when a folder is no run, DiskError.
    """
    records = [Record.read(run) for run in runs]
    names = _names(records)
    curves = [_overlay(records, names, *curve) for curve in _CURVES]
    content = page(
        f"{len(records)} runs · Saccade",
        element(
            "header",
            element("p", "Saccade comparison", class_="eyebrow"),
            element("h1", f"{len(records)} runs"),
        ),
        sections.section("Results, best first", _results(records, names)),
        *[
            sections.section(title, curve)
            for (title, *_), curve in zip(_CURVES, curves, strict=True)
        ],
        sections.section("What was set differently", _differences(records, names)),
        element("footer", "Written by Saccade from the run folders alone."),
    )
    files.write_bytes(out, content)
    return out


def _names(records: Sequence[Record]) -> list[str]:
    """Return the folder names, with their parents' where two are the same."""
    short = [record.name for record in records]
    long = ["/".join(record.folder.resolve().parts[-2:]) for record in records]
    return [long[i] if short.count(name) > 1 else name for i, name in enumerate(short)]


def _overlay(
    records: Sequence[Record],
    names: Sequence[str],
    title: str,
    kind: str,
    field: str,
    percent: bool,
) -> Html:
    axis = "epoch" if all(record.axis == "epoch" for record in records) else "step"
    series = [record.series(kind, field, axis) for record in records]
    lines = [Line(n, x, y, kind == "eval") for n, (x, y) in zip(names, series, strict=True) if x]
    if not lines:
        return Html("")
    light, dark = (
        plots.overlay(axis, lines, theme, percent=percent) for theme in (plots.LIGHT, plots.DARK)
    )
    return element(
        "div",
        image(light, f"{title} of {', '.join(names)}", dark=dark, scale=plots.SCALE),
        class_="card matrix wide",
    )


def _results(records: Sequence[Record], names: Sequence[str]) -> Html:
    runs = sorted(
        zip(names, records, strict=True), key=lambda run: -run[1].figures.get("top1", -1.0)
    )
    intervals = [_interval(record) for _, record in runs]
    low = min((i[0] for i in intervals if i), default=0.0)
    high = max((i[1] for i in intervals if i), default=1.0)
    head = ("run", "status", "top-1", "95 % interval", "top-5", "loss", "images", "time", "model")
    rows = [_row(name, record, low, high) for name, record in runs]
    sets = {record.section("dataset").get("fingerprint") for record in records}
    warning = (
        "These runs did not see the same data (their fingerprints differ); their figures cannot "
        "be ranked."
    )
    note = element("p", warning, class_="finding warning") if len(sets) > 1 else Html("")
    about = (
        "The interval covers the choice of validation images only; another seed adds its own "
        "spread. "
        "A run without a final result shows its latest evaluation."
    )
    shown = table(head, rows, numbers=(2, 3, 4, 5, 6, 7))
    return join([element("div", note, shown, class_="card"), element("p", about, class_="note")])


def _interval(record: Record) -> tuple[float, float] | None:
    correct, n = record.figures.get("correct"), record.figures.get("n")
    return metrics.wilson_interval(int(correct), int(n)) if correct is not None and n else None


def _row(name: str, record: Record, low: float, high: float) -> tuple[str, ...]:
    """Return one line of the table.

    The intervals are drawn on a common scale from ``low`` to ``high``.
    """
    figures, seconds, interval = record.figures, record.facts.get("seconds"), _interval(record)
    shown: str = "–"
    if interval:
        scale = 100 / (high - low)
        left, width = (interval[0] - low) * scale, (interval[1] - interval[0]) * scale
        bar = element(
            "span", element("i", style=f"margin-left:{left:.1f}%;width:{width:.1f}%"), class_="bar"
        )
        shown = join([f"{100 * interval[0]:.2f} – {sections.percent(interval[1])}", bar])
    return (
        name,
        sections.ending(record)[0],
        sections.percent(figures["top1"]) if "top1" in figures else "–",
        shown,
        sections.percent(figures["top5"]) if "top5" in figures else "–",
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
        else element("p", "Nothing: the configurations are the same.")
    )
    return element("div", shown, class_="card")
