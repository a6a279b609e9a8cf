"""When a checkpoint is due."""

from __future__ import annotations

import math
import time

from saccade import units
from saccade.units import Duration


class Cadence:
    """Several rhythms at once, such as ``1ep or 5min``; the soonest counts."""

    def __init__(self, every: str, epoch_samples: int, global_batch: int, total_steps: int) -> None:
        self._lengths: list[float] = []
        self._period_s = math.inf
        for part in every.split(" or "):
            try:
                length = (
                    Duration.parse(part).samples(epoch_samples, global_batch, total_steps)
                    / global_batch
                )
                self._lengths.append(max(float(length), 1.0))
            except ValueError:
                self._period_s = min(self._period_s, units.seconds(part))
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Tell whether to save now that ``step`` steps are done; saying yes restarts the clock."""
        crossed = any(int(step / length) > int((step - 1) / length) for length in self._lengths)
        if crossed or time.monotonic() - self._last > self._period_s:
            self._last = time.monotonic()
            return True
        return False
