"""The learning rate over a run, a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """A factor on every learning rate: a linear warm-up over ``warmup`` steps, then ``name`` down to ``end``."""

    name: str
    total: int
    warmup: int
    end: float

    def factor(self, step: int) -> float:
        """Return the factor, 0..1, for step 0 .. total - 1.

        *Source:* cosine: Loshchilov & Hutter 2017, equation 5, one half wave.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        if self.name == "cosine":
            return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2
        if self.name == "linear":
            return 1 - (1 - self.end) * progress
        assert self.name == "constant", self.name
        return 1.0
