"""The report of one run: the plots under ``plots/`` and one page without external resources."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from saccade import files
from saccade.data.sources import Split
from saccade.objectives.objective import Result
from saccade.objectives.page import percent
from saccade.report import canvas, facts_of_run, grids, look_pictures, parts, plots, sections
from saccade.report.html import Html, element, page
from saccade.report.parts import Plot, both_themes
from saccade.report.plots import Line
from saccade.report.record import Record

_LOSS_NOTE = (
    "The training loss includes augmentation and label smoothing, so it can be higher than the "
    "validation loss."
)


def write_report(
    run: Path, split: Split | None = None, result: Result | None = None, checkpoint: str = ""
) -> Path:
    """Write ``plots/*.png`` and ``report.html`` from a run folder.

    Returns the path of the page.

    ``split`` is the validation set, for the pictures of the worst mistakes. An unfinished run gets
    a report of the existing data. ``result`` on that split is of one of the run's checkpoints: its
    page stands beside the run's, as ``report-<checkpoint>.html``. Raises UsageError when the folder
    is no run, DiskError.
    """
    record = Record.read(run, split)
    if result is not None and split is not None:
        record.judge(result, split, checkpoint)
    suffix = f"-{checkpoint}" if checkpoint else ""
    drawn = _curves(record)
    answers = parts.drawn(record)
    for part in answers:
        drawn |= part.plots

    shelf = files.within(run, f"plots{suffix}")
    for name, plot in drawn.items():
        files.write_bytes(shelf / f"{name}.png", plot.light)
    pictures = [
        (tile.pixels, tile.said, tile.true)
        for part in answers
        for tile in part.tiles
        if tile.pixels is not None
    ]
    if pictures:
        files.write_bytes(shelf / "mistakes.png", grids.pictures(pictures, canvas.LIGHT))

    path = run / f"report{suffix}.html"
    files.write_bytes(path, _page(record, drawn, answers))
    return path


def _page(record: Record, drawn: dict[str, Plot], answers: list[parts.DrawnPart]) -> bytes:
    courses = [course.name for course in record.objective.courses]
    order = ("accuracy", "loss", *courses, "learning_rate")
    curves = [_card(drawn[name]) for name in order if name in drawn]
    version = record.facts.get("saccade")

    return page(
        f"{record.name} · Saccade",
        sections.heading(record),
        sections.headline(record),
        sections.sizes(record),
        sections.trained(record),
        sections.section("Curves", element("div", curves, class_="grid") if curves else Html("")),
        look_pictures.shown(record),
        *[part.html for part in answers],
        facts_of_run.findings(record),
        facts_of_run.time_spent(record),
        facts_of_run.decisions(record),
        facts_of_run.environment(record),
        facts_of_run.configuration(record),
        element("footer", f"Written by Saccade {version or ''}".strip() + " from the run folder."),
    )


def _curves(record: Record) -> dict[str, Plot]:
    """Draw loss, figures of the objective, and learning rate, as far as the run has them."""
    drawn = {}
    axis = record.axis

    train = Line("training", *record.series("step", "loss"))
    validation = Line("validation", *record.series("eval", "loss"), markers=True)
    if train.x or validation.x:
        ends = [
            f"{line.label} {line.y[0]:.3f} to {line.y[-1]:.3f}"
            for line in (train, validation)
            if line.x
        ]
        drawn["loss"] = both_themes(
            "Loss",
            f"Loss over the run: {', '.join(ends)}",
            lambda t: plots.loss(axis, train, validation, t),
            _LOSS_NOTE,
        )

    curves = record.objective.curves
    lines = [Line(one.label, *record.series("eval", one.name)) for one in curves]
    lines = [line for line in lines if line.x]
    if lines:
        title = record.objective.curves_title
        ends = [f"{line.label} {percent(line.y[-1])}" for line in lines]
        drawn["accuracy"] = both_themes(
            f"{title} on {record.watched or 'validation'}",
            f"{title} over the run, at the end {', '.join(ends)}",
            lambda t: plots.accuracy(axis, lines, t),
        )

    for course in record.objective.courses:
        line = Line("", *record.series("eval", course.name), markers=True)
        if line.x:
            drawn[course.name] = both_themes(
                course.label,
                f"{course.label} over the run, from {line.y[0]:.3g} to {line.y[-1]:.3g}",
                partial(plots.course, axis, line),
                course.note,
            )

    rate = Line("", *record.series("step", "lr"))
    if rate.x:
        alt = f"Learning rate over the run, at most {max(rate.y):.4g}"
        drawn["learning_rate"] = both_themes(
            "Learning rate", alt, lambda t: plots.learning_rate(axis, rate, t)
        )
    return drawn


def _card(plot: Plot) -> Html:
    caption = element("figcaption", plot.title)
    note = element("p", plot.note, class_="note") if plot.note else ""
    return element("figure", caption, plot.html, note, class_="card")
