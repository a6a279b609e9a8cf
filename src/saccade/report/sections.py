"""The parts of the report that are text and tables.

Each is empty when the run folder has nothing for it.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from saccade import units
from saccade.config.schema import flatten
from saccade.evaluation.views import phrase
from saccade.objectives import metrics
from saccade.report.html import Html, element, facts, join, table
from saccade.report.record import Record

_NOTHING = Html("")
_ROWS_SHOWN = 30
_ENDINGS = {
    "done": ("done", "done"),
    "running": ("running or killed", "open"),
    "PreemptedError": ("stopped, can continue", "open"),
    "InterruptedRunError": ("interrupted, can continue", "open"),
}
"""What is said for a status of run.json, and the style of it; any other status is a failure."""


def section(title: str, *children: Html) -> Html:
    """Return a titled part of the page, or nothing when all its children are empty."""
    return element("section", element("h2", title), children) if any(children) else _NOTHING


def percent(fraction: float) -> str:
    """Format a fraction for people: percent with two decimals."""
    return f"{100 * fraction:.2f} %"


def heading(record: Record) -> Html:
    """Return the name of the run, how it ended, and what it is about."""
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
    figures = record.figures
    if "top1" not in figures:
        return element(
            "div", element("p", "No evaluation yet: this run has no result."), class_="hero card"
        )
    judged = record.result or record.evals[-1]
    split, views = judged.get("split"), judged.get("views", 1)
    origin = (
        record.weights if record.result else "latest evaluation; the run has no final result yet"
    )
    about = f"top-1 accuracy{f' on {split}' if split else ''}{phrase(int(views))} · {origin}"
    figure = element("div", f"{100 * figures['top1']:.2f}", element("small", "%"), class_="figure")
    left = element("div", figure, element("p", about, class_="about"))
    right = element("div", _interval(figures), _counts(figures), _best(record), class_="interval")
    return element("div", left, right, class_="hero card")


def _best(record: Record) -> Html:
    best = record.section("best")
    if not isinstance(best.get("top1"), int | float) or not best.get("note"):
        return _NOTHING
    place = (
        f" at {record.axis} {best[record.axis]:,.2f}".removesuffix(".00")
        if record.axis in best
        else ""
    )
    return element("p", f"{best['note']}: {percent(best['top1'])}{place}", class_="note best")


def _interval(figures: dict[str, float]) -> Html:
    correct, n = int(figures.get("correct", -1)), int(figures.get("n", 0))
    if not 0 <= correct <= n or n == 0:
        return _NOTHING
    low, high = metrics.wilson_interval(correct, n)
    spread = element("i", style=f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%")
    mark = element("b", style=f"left:{100 * correct / n:.2f}%")
    said = element("strong", f"{100 * low:.2f} – {percent(high)}")
    return join(
        [
            element("div", element("span", "95 % interval", class_="note"), " ", said),
            element("div", spread, mark, class_="scale"),
            element("div", element("span", "0 %"), element("span", "100 %"), class_="ends"),
        ]
    )


def _counts(figures: dict[str, float]) -> Html:
    formats = {"n": "images", "correct": "correct", "top5": "top-5", "loss": "loss"}
    shown = {
        "top5": percent,
        "loss": "{:.4f}".format,
        "n": "{:,.0f}".format,
        "correct": "{:,.0f}".format,
    }
    return facts(
        [(label, shown[name](figures[name])) for name, label in formats.items() if name in figures]
    )


def trained(record: Record) -> Html:
    """Return what was trained: data, model, batch, learning rate, precision, time, speed."""
    flat = flatten(record.config)
    data, model = record.section("dataset"), record.section("model")
    classes = data.get("classes")
    num_classes = len(classes) if isinstance(classes, list) else classes or len(record.classes)
    params, seconds = model.get("params"), record.facts.get("seconds")
    speed = [v for v in record.series("step", "images_per_s")[1] if v > 0]
    method = {
        "": "optimizer.name",
        "momentum": "optimizer.momentum",
        "weight decay": "optimizer.weight_decay",
    }
    schedule = {"": "schedule.name", "warm-up": "schedule.warmup"}
    pairs = [
        ("data", _words(data.get("name"), _count(num_classes, "classes"))),
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
        "What was trained", element("div", listed, class_="card") if listed else _NOTHING
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
    cells = size // (cell * ranks)
    return (
        f"{size} = {cells} {_plural(cells, 'cell')} x {cell} images x {ranks} "
        f"{_plural(ranks, 'rank')}"
    )


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else noun + "s"


def _length(record: Record, flat: dict[str, Any]) -> str:
    steps, done = record.facts.get("steps"), record.last_step
    if not isinstance(steps, int):
        return _words(flat.get("epochs"), _count(done, "steps done"))
    return _words(
        flat.get("epochs"),
        f"{steps:,} {_plural(steps, 'step')}"
        if done >= steps
        else f"{done:,} of {steps:,} steps done",
    )


def confused_pairs(record: Record, count: int) -> Html:
    """Return the ``count`` classes most often taken for another, as a table.

    Nothing when there is no mistake.
    """
    assert record.answers is not None
    wrong = record.answers.confusion.copy()
    images = wrong.sum(1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [(int(i) // len(wrong), int(i) % len(wrong)) for i in order]
    rows = [
        (
            record.titles[true],
            record.titles[said],
            f"{wrong[true, said]:,}",
            percent(wrong[true, said] / images[true]),
        )
        for true, said in pairs
        if wrong[true, said]
    ]
    return (
        table(("true class", "taken for", "times", "of the class"), rows, numbers=(2, 3))
        if rows
        else _NOTHING
    )


def per_class(record: Record) -> Html:
    """Return the accuracy of each class, worst first, and what it is taken for."""
    if record.answers is None:
        return _NOTHING
    confusion = record.answers.confusion
    accuracies = metrics.per_class_accuracy(confusion)
    order = sorted(
        range(len(accuracies)),
        key=lambda c: (math.inf if math.isnan(accuracies[c]) else accuracies[c], c),
    )
    rows = [_class_row(record, c, float(accuracies[c])) for c in order]
    head, numbers = ("class", "images", "correct", "accuracy", "most often taken for"), (1, 2, 3)
    shown = element("div", table(head, rows[:_ROWS_SHOWN], numbers=numbers), class_="card")
    rest = rows[_ROWS_SHOWN:]
    more = element("summary", f"the other {len(rest)} classes")
    hidden = (
        element("details", more, table(head, rest, numbers=numbers), class_="card")
        if rest
        else _NOTHING
    )
    return section("Classes, worst first", shown, hidden)


def _class_row(record: Record, place: int, accuracy: float) -> tuple[str, ...]:
    assert record.answers is not None
    counts = record.answers.confusion[place]
    others = [int(i) for i in np.argsort(-counts, kind="stable") if i != place and counts[i]][:3]
    taken = ", ".join(f"{record.titles[i]} ({counts[i]})" for i in others)
    if math.isnan(accuracy):
        return record.titles[place], "0", "0", "no images", ""
    bar = element("span", element("i", style=f"width:{100 * accuracy:.1f}%"), class_="bar")
    return (
        record.titles[place],
        f"{counts.sum():,}",
        f"{counts[place]:,}",
        join([percent(accuracy), bar]),
        taken,
    )


def findings(record: Record) -> Html:
    """Return what the preflight found, what was warned of in the run, and what of the folder
    could not be read.
    """
    listed = [f for f in record.facts.get("findings") or [] if isinstance(f, dict)]
    order = {"error": 0, "warning": 1}
    listed.sort(key=lambda f: order.get(str(f.get("severity")), 2))
    said = tuple(f"[{f.get('id')}]" for f in listed)
    parts = [
        _finding(str(f.get("severity", "note")), str(f.get("message", "")), str(f.get("id", "")))
        for f in listed
    ]
    parts += [_finding("warning", text) for text in record.warnings if not text.startswith(said)]
    ended = [record.facts.get("message")] if record.facts.get("exit_status") else []
    parts += [_finding("error", str(text)) for text in ended + record.problems]
    return (
        section("Findings and warnings", element("div", parts, class_="card"))
        if parts
        else _NOTHING
    )


def _finding(severity: str, message: str, name: str = "") -> Html:
    kind = severity if severity in ("error", "warning") else "info"
    tag = element("span", f" [{name}]", class_="note code") if name else _NOTHING
    return element("p", element("strong", severity), tag, " ", message, class_=f"finding {kind}")


def _utilisation(record: Record) -> str:
    shares = [v for v in record.series("step", "mfu")[1] if v and v > 0]
    return f"{statistics.median(shares):.0%} of its 16-bit peak (MFU)" if shares else ""


def time_spent(record: Record) -> Html:
    """Return where the time went: preflight, the parts of a step, evaluation, the rest."""
    spent = {
        k: v for k, v in record.section("time").items() if isinstance(v, int | float) and v >= 0
    }
    waits = record.series("step", "wait_share")[1]
    share = spent.get("data_wait_share", statistics.fmean(waits) if waits else 0.0)
    train = spent.get("train_s", 0.0)
    if train <= 0:
        return _NOTHING
    sending, updating = spent.get("communication_s", 0.0), spent.get("optimiser_s", 0.0)
    parts = {
        "compute": (
            "training: forward and backward",
            max(train * (1 - share) - sending - updating, 0.0),
        ),
        "optimiser": ("training: optimiser", updating),
        "communication": ("training: waiting for other ranks", sending),
        "wait": ("training: waiting for data", train * share),
        "evaluation": ("evaluation", spent.get("evaluation_s", 0.0)),
        "preflight": ("preflight", spent.get("preflight_s", 0.0)),
    }
    total, resumed = record.facts.get("seconds"), int(record.facts.get("attempts") or 1) > 1
    # the total covers all attempts, the parts only the last
    if isinstance(total, int | float) and not resumed:
        parts["other"] = (
            "start, saving, the rest",
            max(0.0, total - sum(s for _, s in parts.values())),
        )
    whole = sum(s for _, s in parts.values())
    kept = {kind: part for kind, part in parts.items() if part[1] / whole >= 0.0005}
    strip = element(
        "div",
        [
            element("i", class_=k, style=f"width:{100 * s / whole:.2f}%")
            for k, (_, s) in kept.items()
        ],
        class_="time",
    )
    title = "Where the time of the last attempt went" if resumed else "Where the time went"
    rows = [
        (
            join([element("i", class_=f"key {kind}"), label]),
            units.human_time(s),
            f"{100 * s / whole:.1f} %",
        )
        for kind, (label, s) in kept.items()
    ]
    shown = table(("", "time", "share"), rows, numbers=(1, 2))
    return section(title, element("div", strip, shown, class_="card"))


def decisions(record: Record) -> Html:
    """Return the automatic choices of the start, with their reasons."""
    rows = [
        (name, str(choice.get("value", "")), str(choice.get("reason", "")))
        for name, choice in record.section("resolved").items()
        if isinstance(choice, dict)
    ]
    head = ("decided at the start", "value", "because")
    return (
        section("Automatic choices", element("div", table(head, rows), class_="card"))
        if rows
        else _NOTHING
    )


def environment(record: Record) -> Html:
    """Return versions, machine and fingerprints."""
    told = {name: record.facts.get(name) for name in ("saccade", "started", "ended")}
    prints = {
        "dataset fingerprint": record.section("dataset").get("fingerprint"),
        "config fingerprint": record.facts.get("fingerprint"),
    }
    rows = {**told, **flatten(record.section("environment")), **prints}
    pairs = [
        (n.replace("_", " "), element("span", str(v), class_="code"))
        for n, v in rows.items()
        if v not in (None, "")
    ]
    return section(
        "Environment and fingerprints",
        element("div", facts(pairs), class_="card") if pairs else _NOTHING,
    )


def configuration(record: Record) -> Html:
    """Return the resolved configuration, folded away."""
    if not record.config_text:
        return _NOTHING
    text = element("pre", record.config_text, class_="code")
    return element(
        "details",
        element("summary", "Resolved configuration (config.yaml)"),
        text,
        class_="card whole",
    )
