"""What a run says: lines and a progress bar on stderr for people, one JSONL event stream for
programs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from saccade import files
from saccade.listeners import Listeners
from saccade.printable import printable, to_json
from saccade.system.consoles import console
from saccade.system.streams import Voice

LOG_VERSION = 1
PLAIN_EVERY_S = 20.0


class _Detail(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("detail", "")), style="dim")


class Bar:
    """One progress bar: a live line on a terminal, a plain line every 20 seconds elsewhere."""

    def __init__(self, console: Console, what: str, total: int, progress: Progress | None) -> None:
        self._console, self._what, self._total, self._progress = console, what, total, progress
        self._task = progress.add_task(what, total=total, detail="") if progress else None
        self._begun = self._last = time.monotonic()
        self._first = 0

    def start_at(self, done: int) -> None:
        """Tell the bar how much an earlier attempt had already done."""
        self._first = done
        self.update(done, "")

    def update(self, done: int, detail: str) -> None:
        """Show ``done`` units of the total, with a short text such as the loss."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, detail=detail)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S and done > self._first:
            self._last = now
            # what an earlier attempt had done took no time of this one
            left = (now - self._begun) / (done - self._first) * (self._total - done)
            self._console.print(
                f"{self._what} {done}/{self._total}  {detail}  about {left:.0f} s left"
            )


class Log:
    """The voice of one run on one rank.

    Only rank 0 talks to people; every event gets the attempt number, so that steps that were run
    again after a kill can be told apart (readers take the last). ``listeners`` hear of the run as
    it goes on.
    """

    def __init__(self, *, rank: int = 0, quiet: bool = False) -> None:
        self.rank = rank
        self.attempt = 1
        self._voice = Voice()
        self.console = console(
            file=cast(TextIO, self._voice), quiet=quiet or rank != 0, soft_wrap=True
        )
        self._told: set[str] = set()
        self._events: files.Appender | None = None
        self._text: files.Appender | None = None
        self._waiting: list[dict[str, Any]] = []
        self._unwritten: list[str] = []
        self.listeners = Listeners(self.warn)

    def open(self, path: Path) -> None:
        """Start writing events to ``path``, and what people are told to ``log.txt`` beside it.

        What was said before is written first.
        """
        if self.rank == 0:
            self._text = files.Appender(path.with_name("log.txt"))
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            said, self._unwritten = self._unwritten, []
            for line in (f"attempt {self.attempt}, {now}", *said):
                self._text.line(line)
            self._events = files.Appender(path)
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                self._write(event)

    def event(self, kind: str, **fields: Any) -> None:
        """Record one event.

        Numbers that are not finite are written as null with their name in ``not_finite``.
        """
        if self.rank != 0:
            return
        event: dict[str, Any] = {"event": kind, "time": round(time.time(), 3)}
        bad = [n for n, v in fields.items() if isinstance(v, float) and not math.isfinite(v)]
        event.update({n: (None if n in bad else v) for n, v in fields.items()})
        if bad:
            event["not_finite"] = bad
        self._write(event)

    def _write(self, event: dict[str, Any]) -> None:
        if self._events is None:
            self._waiting.append(event)
        else:
            line = {"v": LOG_VERSION, "attempt": self.attempt} | event
            self._events.line(to_json(line))
            self._tell_trouble(self._events)

    def _tell_trouble(self, events: files.Appender) -> None:
        """Report a log that cannot be written on the console, and the other way round, once each.

        A run does not end because of its log.
        """
        if events.trouble and "log" not in self._told:
            self._told.add("log")
            self.warn(
                f"log.jsonl cannot be written ({events.trouble}); the run continues, and the "
                "lines are kept in memory"
            )
        elif not events.trouble and "log" in self._told:
            self._told.discard("log")
            missing = f"{events.lost:,} lines are missing" if events.lost else "no line is missing"
            self.warn(f"log.jsonl can be written again; {missing}")

        if self._voice.trouble and "voice" not in self._told:
            self._told.add("voice")
            self.event(
                "warning",
                text=f"standard error cannot be written ({self._voice.trouble}); the run continues",
            )

    def say(self, text: str = "") -> None:
        """Print one line for people."""
        self.console.print(printable(text), markup=False)
        self.note(text)

    def fact(self, name: str, text: str) -> None:
        """Print one line of the summary at the start: a name and what was decided."""
        self.console.print(f"  [bold]{name:<10}[/bold] ", end="")
        self.console.print(printable(text), markup=False)
        self.note(f"  {name:<10} {text}")

    def warn(self, text: str) -> None:
        """Print a warning for people and record it."""
        self.console.print("[yellow]warning[/yellow] ", end="")
        self.console.print(printable(text), markup=False)
        self.note(f"warning {text}")
        self.event("warning", text=text)

    def note(self, text: str) -> None:
        """Write into ``log.txt`` what people are told, here or elsewhere.

        A disk that is full ends nothing.
        """
        if self._text is not None:
            self._text.line(printable(text))
        elif self.rank == 0:
            self._unwritten.append(printable(text))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Bar]:
        """Show progress with an estimate of the time left.

        Inside another bar this one is silent.
        """
        if not self.console.is_terminal or self.console.quiet:
            yield Bar(self.console, what, total, None)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            _Detail(),
        )
        with Progress(
            *columns, console=self.console, transient=True, refresh_per_second=5
        ) as progress:
            yield Bar(self.console, what, total, progress)

    def close(self) -> None:
        """Close the event stream and ``log.txt``."""
        for file in (self._events, self._text):
            if file is not None:
                file.close()
        self._events = self._text = None


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read an event stream.

    The last attempt of a step wins, and what came behind the start of a later one is void.

    Lines that a crash cut short are left out, as are those that no run of ours wrote.
    """
    events: list[dict[str, Any]] = []
    if not path.is_file():  # a pipe would be waited for
        return events
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_ours(event):
            if event["event"] == "start" and isinstance(event.get("step"), int):
                events = [e for e in events if not is_behind(e, event["step"])]
            events.append(event)
    last = {what: place for place, event in enumerate(events) if (what := _measured(event))}
    return [e for place, e in enumerate(events) if last.get(_measured(e), place) == place]


def is_behind(event: dict[str, Any], step: int) -> bool:
    """Tell whether an event lies behind the step from which a later attempt continued."""
    return event["event"] in ("step", "eval") and int(event["step"]) > step


def _is_ours(event: dict[str, Any]) -> bool:
    """Tell whether an event has what every reader relies on."""
    if event.get("event") not in ("step", "eval"):
        return isinstance(event.get("event"), str)
    step, split, views = event.get("step"), event.get("split", ""), event.get("views", 1)
    return isinstance(step, int) and isinstance(split, str) and isinstance(views, int)


def _measured(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return a key that is the same for events of which only the last counts.

    Empty for events that all count.

    At its last step a run may be judged on two splits, or with several views beside one.
    """
    if event["event"] not in ("step", "eval"):
        return ()
    return event["event"], int(event["step"]), event.get("split"), event.get("views", 1)
