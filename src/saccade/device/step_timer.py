"""The time of the phases of a step: forward and backward pass, waiting for other ranks, the
update."""

from __future__ import annotations

import time
from itertools import pairwise

import torch

PHASES = ("forward_backward", "communication", "optimiser")


class Clock:
    """Adds up the phases of steps.

    On a GPU it leaves marks in the stream, which are read when somebody asks.

    There communication that overlaps the backward pass counts as a part of it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._steps: list[list[float | torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a step; the end of each phase is told by ``mark``, in the order of ``PHASES``."""
        self._steps.append([])
        self.mark()

    def mark(self) -> None:
        """Note that a phase ends here."""
        now: float | torch.cuda.Event = time.perf_counter()
        if self._on_gpu:
            now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            now.record()
        self._steps[-1].append(now)

    def read(self) -> dict[str, float]:
        """Return the seconds of every phase since the last call.

        On a GPU the newest step is left for the next call, so that nothing waits for it.
        """
        begun = -1 if self._on_gpu else len(self._steps)
        steps, self._steps = (
            # a step that was broken off has fewer marks, and is left out
            [m for m in self._steps[:begun] if len(m) == len(PHASES) + 1],
            self._steps[begun:],
        )
        if steps and isinstance(last := steps[-1][-1], torch.cuda.Event):
            # marks lie in one stream in order: when the last is reached, all others are
            last.synchronize()
        spent = dict.fromkeys(PHASES, 0.0)
        for marks in steps:
            for phase, (begin, end) in zip(PHASES, pairwise(marks), strict=True):
                spent[phase] += _between_s(begin, end)
        return spent


def _between_s(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    assert isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return float(begin.elapsed_time(end)) / 1000
