"""Rich consoles that print file names as text: control characters in them have no effect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.control import Control
from rich.measure import Measurement
from rich.segment import Segment

from saccade.printable import printable


def console(**options: Any) -> Console:
    """Return a console of rich whose texts are printable, whatever tables and bars they come in."""
    made = Console(highlight=False, **options)
    # a hook sees all that is printed, also from rich's own tables and bars
    made.push_render_hook(_Hook())
    return made


class _Hook(RenderHook):
    """Makes all text printable before it is printed; rich's own control codes stay."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [one if isinstance(one, Control) else _Shown(one) for one in renderables]


class _Shown:
    """A renderable whose text is printable."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _escaped(console.render(self._inner, options))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)


def _escaped(segments: Iterable[Segment]) -> Iterable[Segment]:
    for text, style, control in segments:
        yield Segment(text if control else printable(text), style, control)
