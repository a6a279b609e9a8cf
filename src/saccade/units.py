"""Durations, rates, times and sizes with units; the only place that converts epochs to steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ep|epoch|epochs|step|steps|sample|samples|%)\s*$")
_RATE = re.compile(r"^\s*([0-9.eE+-]+)(?:\s+per\s+(\d+))?\s*$")
_TIME = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)\s*$")
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of training: epochs, steps, samples, or a fraction of the run."""

    value: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``90ep``, ``5000step``, ``20000sample`` or ``25%``.

        Raises ValueError on anything else.
        """
        match = _DURATION.match(str(text))
        if match is None:
            raise ValueError(
                f"'{text}' is not a duration; write 90ep, 5000step, 20000sample or 25%"
            )
        unit = {"e": "ep", "s": "step", "%": "%"}[match[2][0]]
        return cls(Fraction(match[1]), "sample" if match[2].startswith("sample") else unit)

    def samples(
        self, epoch_samples: int, global_batch: int, total_steps: int | None = None
    ) -> Fraction:
        """Return the length in samples.

        ``%`` needs ``total_steps``, the length of the whole run in steps.
        """
        if self.unit == "ep":
            return self.value * epoch_samples
        if self.unit == "sample":
            return self.value
        if self.unit == "step":
            return self.value * global_batch
        if total_steps is None:
            raise ValueError("a fraction of the run is not possible here; write epochs or steps")
        return self.value / 100 * total_steps * global_batch

    def steps(self, epoch_samples: int, global_batch: int, total_steps: int | None = None) -> int:
        """Return the length in whole steps, rounded up: 90 epochs of n samples are ceil(90 n /
        B) steps.
        """
        return math.ceil(self.samples(epoch_samples, global_batch, total_steps) / global_batch)


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate and the global batch that it belongs to.

    ``per`` is 0 for an effective, unscaled rate.
    """

    value: float
    per: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``0.5 per 1024`` or a bare ``0.1``, which is never scaled; raises ValueError."""
        match = _RATE.match(str(text))
        try:
            value = float(match[1]) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or not math.isfinite(value) or value < 0:
            raise ValueError(
                f"'{text}' is not a learning rate; write '0.5 per 1024' (scaled once) or 0.1 "
                "(used as given)"
            )
        return cls(value, int(match[2] or 0))

    def effective(self, global_batch: int, rule: str) -> tuple[float, str]:
        """Return the rate at this global batch and the formula as text.

        ``rule`` is ``linear`` or ``sqrt``.

        *Source:* linear: Goyal et al. 2017, section 2.1; square root for Adam-type methods:
        Krizhevsky 2014, section 5.
        """
        if self.per == 0:
            return self.value, f"{self.value:g} (as given, never scaled)"
        ratio = global_batch / self.per
        value = self.value * (ratio if rule == "linear" else math.sqrt(ratio))
        term = f"{global_batch}/{self.per}"
        return (
            value,
            f"{value:g} = {self.value:g} x {term if rule == 'linear' else f'sqrt({term})'} "
            f"({rule})",
        )


def seconds(text: str) -> float:
    """Read a time such as ``90s``, ``20m``, ``5min``, ``2h`` or ``1d`` as seconds.

    Raises ValueError.
    """
    match = _TIME.match(str(text))
    if match is None:
        raise ValueError(f"'{text}' is not a time; write 90s, 20m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def fraction(text: str | float) -> float:
    """Read ``10%`` or ``0.1`` as a fraction from 0 to below 1; raises ValueError."""
    raw = str(text).strip()
    try:
        value = float(raw[:-1]) / 100 if raw.endswith("%") else float(raw)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise ValueError(f"'{text}' is not a fraction; write 10% or 0.1")
    return value


def human_time(duration_s: float) -> str:
    """Format seconds for people: ``0.4 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    whole = round(duration_s)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_size(size_bytes: float) -> str:
    """Format a number of bytes for people, in powers of 1000: ``17.0 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def human_count(number: int, noun: str) -> str:
    """Format a count for people: ``1 image``, ``1,959 images``, ``2 classes``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"


def human_batch(size: int, cell: int, ranks: int) -> str:
    """Format a global batch: ``256 = 2 cells (micro-batches) x 64 images x 2 ranks``."""
    cells = size // (cell * ranks)
    noun = "cell (micro-batch)" if cells == 1 else "cells (micro-batches)"
    return f"{size} = {cells} {noun} x {human_count(cell, 'image')} x {human_count(ranks, 'rank')}"
