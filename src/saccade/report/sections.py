"""The beginning of the report: the run, its result, and its model and data.

Each is empty if the run folder has no data for it.
"""

from __future__ import annotations

import statistics
from typing import Any

from saccade import units
from saccade.config.schema import flatten
from saccade.evaluation.views import phrase
from saccade.objectives.page import percent
from saccade.report.html import Html, element, facts, join, table
from saccade.report.record import Record

_NOTHING = Html("")
_ENDINGS = {
    "done": ("done", "done"),
    "running": ("running or killed", "open"),
    "PreemptedError": ("stopped, can continue", "open"),
    "InterruptedRunError": ("interrupted, can continue", "open"),
}
"""Text and style for a status of run.json; any other status is a failure."""


def section(title: str, *children: Html) -> Html:
    """Return a titled part of the page, or nothing when all its children are empty."""
    return element("section", element("h2", title), children) if any(children) else _NOTHING


def heading(record: Record) -> Html:
    """Return the name of the run, its status, and its model and data."""
    said, kind = ending(record)
    model, data = record.section("model").get("name"), record.section("dataset").get("name")
    about = [f"{model} on {data}" if model and data else str(model or data or "")]
    about += [
        f"{what} {record.facts[what]}" for what in ("started", "ended") if record.facts.get(what)
    ]
    return element(
        "header",
        element("p", "Saccade report", class_="eyebrow"),
        element("h1", record.name),
        element(
            "p",
            element("span", said, class_=f"badge {kind}"),
            " · ".join(filter(None, about)),
            class_="note",
        ),
    )


def ending(record: Record) -> tuple[str, str]:
    """Return how the run ended, in words, and its kind: "done", "open" or "failed"."""
    status = record.facts.get("status")
    return _ENDINGS.get(str(status), (str(status), "failed")) if status else ("unfinished", "open")


def headline(record: Record) -> Html:
    """Return the result as one large figure with its uncertainty, or the latest evaluation of an
    unfinished run.
    """
    figures, primary = record.figures, record.objective.primary
    if primary.name not in figures:
        return element(
            "div", element("p", "No evaluation yet: this run has no result."), class_="hero card"
        )
    judged = record.result or record.evals[-1]
    split, views = judged.get("split"), judged.get("views", 1)
    origin = (
        record.weights if record.result else "latest evaluation; the run has no final result yet"
    )
    about = f"{primary.long}{f' on {split}' if split else ''}{phrase(int(views))} · {origin}"
    digits, unit = primary.parted(figures)
    figure = element("div", digits, element("small", unit), class_="figure")
    left = element("div", figure, element("p", about, class_="about"))
    details = facts(record.objective.details(figures))
    right = element("div", _interval(record, figures), details, _best(record), class_="interval")
    return element("div", left, right, class_="hero card")


def _best(record: Record) -> Html:
    best, primary = record.section("best"), record.objective.primary
    if not isinstance(best.get(primary.name), int | float) or not best.get("note"):
        return _NOTHING
    place = (
        f" at {record.axis} {best[record.axis]:,.2f}".removesuffix(".00")
        if record.axis in best
        else ""
    )
    shown = " ".join(primary.parted(best)).rstrip()
    return element("p", f"{best['note']}: {shown}{place}", class_="note best")


def _interval(record: Record, figures: dict[str, float]) -> Html:
    interval = record.objective.interval(figures)
    if interval is None:
        return _NOTHING
    low, high = interval
    spread = element("i", style=f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%")
    mark = element("b", style=f"left:{100 * figures[record.objective.primary.name]:.2f}%")
    said = element("strong", f"{100 * low:.2f} – {percent(high)}")
    return join(
        [
            element("div", element("span", "95 % interval", class_="note"), " ", said),
            element("div", spread, mark, class_="scale"),
            element("div", element("span", "0 %"), element("span", "100 %"), class_="ends"),
        ]
    )


def sizes(record: Record) -> Html:
    """Return the figures at each image size, before and after, of a run that changed the size."""
    found = [e for e in record.facts.get("sizes") or [] if isinstance(e, dict) and "side" in e]
    primary, measure = record.objective.primary, {}
    for entry in found:
        if isinstance(entry.get(primary.name), int | float):
            measure[entry["side"], entry.get("when")] = entry
    sides = sorted({side for side, _ in measure})

    def shown(side: int, when: str) -> str:
        entry = measure.get((side, when))
        return primary.shown(entry) if entry else ""

    rows = [(f"{side} px", shown(side, "before"), shown(side, "after")) for side in sides]
    head = ("images of", f"{primary.title} before", "after")
    listed = table(head, rows, numbers=(1, 2)) if rows else _NOTHING
    return section("Before and after", element("div", listed, class_="card") if rows else _NOTHING)


def trained(record: Record) -> Html:
    """Return the facts of the training: data, model, batch, learning rate, precision, time,
    speed."""
    flat = flatten(record.config)
    data, model = record.section("dataset"), record.section("model")
    classes = data.get("classes")
    num_classes = len(classes) if isinstance(classes, list) else classes or len(record.classes)
    learned = _count(num_classes, record.objective.noun)
    if not record.objective.answers:
        learned = f"with {record.objective.name}, without labels"
    params, seconds = model.get("params"), record.facts.get("seconds")
    speed = [v for v in record.series("step", "images_per_s")[1] if v > 0]

    # where the name alone does not say it: setting by what it is called
    method = {
        "": "optimizer.name",
        "momentum": "optimizer.momentum",
        "weight decay": "optimizer.weight_decay",
    }
    schedule = {"": "schedule.name", "warm-up": "schedule.warmup"}

    pairs = [
        ("data", _words(data.get("name"), learned)),
        (
            "images",
            _words(
                _count(data.get("train"), "for training"), _count(data.get("val"), "for validation")
            ),
        ),
        (
            "model",
            _words(
                model.get("name"),
                f"{_millions(params)} parameters" if isinstance(params, int) else "",
            ),
        ),
        ("image size", f"{flat['data.image_size']} px" if "data.image_size" in flat else ""),
        ("length", _length(record, flat)),
        ("global batch", _batch(record, flat)),
        ("optimizer", _named(flat, method)),
        ("learning rate", str(record.facts.get("learning_rate") or flat.get("optimizer.lr") or "")),
        ("schedule", _named(flat, schedule)),
        ("utilisation of the GPU", _utilisation(record)),
        ("precision", _resolved(record, "precision") or str(flat.get("precision", ""))),
        ("seed", str(flat.get("seed", ""))),
        ("recipe", str(flat.get("recipe") or "")),
        ("time", units.human_time(seconds) if isinstance(seconds, int | float) else ""),
        ("training speed", f"{statistics.median(speed):,.0f} images/s (median)" if speed else ""),
    ]

    listed = facts(pairs) if any(value for _, value in pairs) else _NOTHING
    return section(
        "Model, data and training", element("div", listed, class_="card") if listed else _NOTHING
    )


def _words(*values: Any) -> str:
    return ", ".join(str(value) for value in values if value not in (None, ""))


def _named(flat: dict[str, Any], names: dict[str, str]) -> Html:
    """Return the settings in ``names`` (what they are called: dotted name) that are set, none
    broken over a line.
    """
    found = {label: flat.get(name) for label, name in names.items()}
    pairs = [
        f"{label} {value}".strip() for label, value in found.items() if value not in (None, "")
    ]
    return join(
        [[", "] * bool(i) + [element("span", pair, class_="w")] for i, pair in enumerate(pairs)]
    )


def _count(number: Any, what: str) -> str:
    return f"{number:,} {what}" if isinstance(number, int) and number else ""


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def _resolved(record: Record, name: str) -> str:
    choice = record.section("resolved").get(name)
    if isinstance(choice, dict):
        return _words(choice.get("value")) + (
            f" ({choice['reason']})" if choice.get("reason") else ""
        )
    return _words(choice)


def _batch(record: Record, flat: dict[str, Any]) -> str:
    batch = record.section("batch")
    size, cell, ranks = (batch.get(name) for name in ("global", "cell", "ranks"))
    if not (isinstance(size, int) and isinstance(cell, int) and isinstance(ranks, int)):
        return _count(flat.get("batch.global"), "images")
    return units.human_batch(size, cell, ranks)


def _length(record: Record, flat: dict[str, Any]) -> str:
    steps, done = record.facts.get("steps"), record.last_step
    asked = f"within {flat['within']}" if flat.get("within") else flat.get("epochs")
    if not isinstance(steps, int):
        return _words(asked, _count(done, "steps done"))
    is_done = done >= steps
    return _words(
        asked,
        units.human_count(steps, "step") if is_done else f"{done:,} of {steps:,} steps done",
    )


def _utilisation(record: Record) -> str:
    shares = [v for v in record.series("step", "mfu")[1] if v and v > 0]
    return f"{statistics.median(shares):.0%} of its 16-bit peak (MFU)" if shares else ""
