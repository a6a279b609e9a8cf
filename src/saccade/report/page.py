"""The report of one run: the pictures under ``plots/`` and one page that needs nothing from
outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saccade import files
from saccade.data.sources import Split
from saccade.objectives.classification import TOP5_ABOVE
from saccade.objectives.objective import Result
from saccade.report import mistakes, plots, sections
from saccade.report.html import Html, element, image, page
from saccade.report.plots import Line, Theme
from saccade.report.record import Record

_HEAT_MAP_CLASSES = 30
_PAIRS_BESIDE = 8
_PAIRS_ALONE = 20
_LOSS_NOTE = (
    "Training loss is what was minimised, with any augmentation and label smoothing, so it may "
    "lie above validation."
)


@dataclass(frozen=True)
class Plot:
    """A plot for both colour schemes; ``alt`` says in words what it shows."""

    title: str
    alt: str
    light: bytes
    dark: bytes
    note: str = ""

    @property
    def html(self) -> Html:
        """The plot as an embedded picture."""
        return image(self.light, self.alt, dark=self.dark, scale=plots.SCALE)


def write_report(
    run: Path, split: Split | None = None, result: Result | None = None, checkpoint: str = ""
) -> Path:
    """Write ``plots/*.png`` and ``report.html`` from what is in a run folder.

    Returns the path of the page.

    ``split`` is the validation set, for the pictures of the worst mistakes. A run that is not
    finished gets a report of what is there. ``result`` on that split is of one of the run's
    checkpoints: its page stands beside the run's, as ``report-<checkpoint>.html``. Raises
    UsageError when the folder is no run, DiskError.
    """
    record = Record.read(run, split)
    if result is not None and split is not None:
        record.judge(result, split, checkpoint)
    suffix = f"-{checkpoint}" if checkpoint else ""
    drawn = _plots(record)
    worst = mistakes.worst(record)
    shelf = files.within(run, f"plots{suffix}")
    for name, plot in drawn.items():
        files.write_bytes(shelf / f"{name}.png", plot.light)
    pictures = [(m.pixels, m.said, f"is {m.true}") for m in worst if m.pixels is not None]
    if pictures:
        files.write_bytes(shelf / "mistakes.png", plots.mistakes(pictures, plots.LIGHT))
    path = run / f"report{suffix}.html"
    files.write_bytes(path, _page(record, drawn, worst))
    return path


def _page(record: Record, drawn: dict[str, Plot], worst: list[mistakes.Mistake]) -> bytes:
    curves = [_card(drawn[name]) for name in ("accuracy", "loss", "learning_rate") if name in drawn]
    version = record.facts.get("saccade")
    return page(
        f"{record.name} · Saccade",
        sections.heading(record),
        sections.headline(record),
        sections.trained(record),
        sections.section("Curves", element("div", curves, class_="grid") if curves else Html("")),
        _confusion(record, drawn),
        sections.per_class(record),
        _mistakes(record, worst),
        sections.findings(record),
        sections.time_spent(record),
        sections.decisions(record),
        sections.environment(record),
        sections.configuration(record),
        element(
            "footer", f"Written by Saccade {version or ''}".strip() + " from the run folder alone."
        ),
    )


def _plots(record: Record) -> dict[str, Plot]:
    out = {}
    axis = record.axis
    train = Line("training", *record.series("step", "loss"))
    validation = Line("validation", *record.series("eval", "loss"), markers=True)
    if train.x or validation.x:
        ends = [
            f"{line.label} {line.y[0]:.3f} to {line.y[-1]:.3f}"
            for line in (train, validation)
            if line.x
        ]
        out["loss"] = _both(
            "Loss",
            f"Loss over the run: {', '.join(ends)}",
            lambda t: plots.loss(axis, train, validation, t),
            _LOSS_NOTE,
        )
    scores = [
        Line(label, *record.series("eval", name))
        for label, name in (("top-1", "top1"), ("top-5", "top5"))
    ]
    lines = [
        line
        for line in scores
        if line.x and (line.label == "top-1" or len(record.classes) > TOP5_ABOVE)
    ]
    if lines:
        ends = [f"{line.label} {sections.percent(line.y[-1])}" for line in lines]
        alt = f"Accuracy over the run, at the end {', '.join(ends)}"
        out["accuracy"] = _both(
            f"Accuracy on {record.watched or 'validation'}",
            alt,
            lambda t: plots.accuracy(axis, lines, t),
        )
    rate = Line("", *record.series("step", "lr"))
    if rate.x:
        alt = f"Learning rate over the run, at most {max(rate.y):.4g}"
        out["learning_rate"] = _both(
            "Learning rate", alt, lambda t: plots.learning_rate(axis, rate, t)
        )
    if record.answers is not None and len(record.classes) <= _HEAT_MAP_CLASSES:
        counts = record.answers.confusion
        alt = f"Confusion matrix of {len(record.classes)} classes; the table below has its figures"
        out["confusion"] = _both("", alt, lambda t: plots.confusion(counts, record.titles, t))
    return out


def _both(title: str, alt: str, draw: Callable[[Theme], bytes], note: str = "") -> Plot:
    return Plot(title, alt, draw(plots.LIGHT), draw(plots.DARK), note)


def _card(plot: Plot) -> Html:
    caption = element("figcaption", plot.title)
    return element(
        "figure", caption, plot.html, _note(plot.note) if plot.note else "", class_="card"
    )


def _confusion(record: Record, drawn: dict[str, Plot]) -> Html:
    if record.answers is None:
        return Html("")
    if "confusion" in drawn:
        note = (
            "Rows are true classes, columns predictions. Blue is right, orange wrong, each by "
            "its share of the row."
        )
        pairs = sections.confused_pairs(record, _PAIRS_BESIDE)
        both = element("div", drawn["confusion"].html, pairs, class_="card matrix beside")
        return sections.section("Confusion matrix", _note(note), both)
    pairs = sections.confused_pairs(record, _PAIRS_ALONE)
    return sections.section(
        "Most confused classes", element("div", pairs, class_="card") if pairs else Html("")
    )


def _mistakes(record: Record, worst: list[mistakes.Mistake]) -> Html:
    if record.answers is None:
        return Html("")
    if not worst:
        return sections.section(
            "Worst mistakes", _note("None: every image is classified correctly.")
        )
    tiles = element("div", [mistakes.tile(m) for m in worst], class_="mistakes")
    note = (
        "Wrong answers, the surest first: what the network said and how sure it was, then the "
        "true class."
    )
    return sections.section("Worst mistakes", _note(note), tiles)


def _note(text: str) -> Html:
    return element("p", text, class_="note")
