"""The end of the report: findings, time, choices, environment, configuration.

Each is empty if the run folder has no data for it.
"""

from __future__ import annotations

import statistics

from saccade import units
from saccade.config.schema import flatten
from saccade.report.html import Html, element, facts, join, table
from saccade.report.record import Record
from saccade.report.sections import section

_NOTHING = Html("")


def findings(record: Record) -> Html:
    """Return the findings of the preflight, the warnings of the run, and unreadable files of the
    folder.
    """
    listed = [f for f in record.facts.get("findings") or [] if isinstance(f, dict)]
    order = {"error": 0, "warning": 1}
    listed.sort(key=lambda f: order.get(str(f.get("severity")), 2))
    said = tuple(f"[{f.get('id')}]" for f in listed)
    parts = [
        _finding(str(f.get("severity", "note")), str(f.get("message", "")), str(f.get("id", "")))
        for f in listed
    ]
    # findings were warned of as well: they are told once, with their severity
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


def time_spent(record: Record) -> Html:
    """Return the use of time: preflight, the parts of a step, evaluation, the rest."""
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
            # what is left of the training time; clocks of several phases may add up to a little
            # more
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
    # parts too small to be seen are left out of the strip and of the table
    kept = {kind: part for kind, part in parts.items() if part[1] / whole >= 0.0005}
    strip = element(
        "div",
        [
            element("i", class_=k, style=f"width:{100 * s / whole:.2f}%")
            for k, (_, s) in kept.items()
        ],
        class_="time",
    )
    title = "Time of the last attempt" if resumed else "Time"
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
    head = ("chosen at the start", "value", "because")
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
