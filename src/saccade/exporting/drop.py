"""The accuracy that a classifier loses in a file of fewer bits, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saccade.exporting.proof import Proof
from saccade.objectives.metrics import CONFIDENCE_95, ranks
from saccade.objectives.objective import Objective

CLASS_POINTS = 10.0
"""Classes that lose more percentage points than this are named."""

CLASS_IMAGES = 2
"""A class is named only if it loses at least this many images: one image can be many points of a
small class."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The fall of the primary figure in percentage points; ``interval`` is its 95 % interval.

    ``classes`` names the classes that lost much, with the images that were right before, after, and
    in all. If an image is not simply right or wrong, there is no interval, and no class is named.
    """

    points: float
    interval: tuple[float, float] | None = None
    classes: tuple[tuple[str, int, int, int], ...] = ()

    @classmethod
    def of(cls, proof: Proof, objective: Objective) -> Drop:
        """Compare the figures of a file with those of its classifier."""
        primary = objective.primary
        before, after = (primary.score(one.figures) for one in (proof.own, proof.exported))
        points = 100 * (before - after)
        labels = proof.own.labels
        if labels.ndim != 1 or primary.name != "top1":
            return cls(points)

        own, exported = (ranks(one.logits, labels) < 1 for one in (proof.own, proof.exported))
        lost, won = int((own & ~exported).sum()), int((exported & ~own).sum())
        low, high = paired_interval(lost, won, len(labels))
        named = _losers(objective.outputs, labels, own, exported)
        return cls(points, (100 * low, 100 * high), tuple(named))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "drop_points": round(self.points, 4),
            "drop_interval_95": None
            if self.interval is None
            else [round(one, 4) for one in self.interval],
            "classes_that_lose": [
                {"class": name, "before": before, "after": after, "images": images}
                for name, before, after, images in self.classes
            ],
        }

    @property
    def shown(self) -> str:
        """The drop for people: ``0.20 points (95 %: -0.31 to 0.71)``."""
        if self.interval is None:
            return f"{self.points:.2f} points"
        return f"{self.points:.2f} points (95 %: {self.interval[0]:.2f} to {self.interval[1]:.2f})"


def paired_interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the share right before minus the share right after.

    Of ``n`` images, ``lost`` were right only before and ``won`` only after. *Source:* Agresti and
    Min 2005, "Simple improved confidence intervals for comparing matched proportions": Wald's
    interval after half an image is added to each of the four cells.
    """
    total = n + 2
    difference = (lost - won) / total
    spread = lost + won + 1 - total * difference**2
    half = CONFIDENCE_95 * math.sqrt(max(spread, 0.0)) / total
    return max(-1.0, difference - half), min(1.0, difference + half)


def _losers(
    names: tuple[str, ...], labels: Tensor, own: Tensor, exported: Tensor
) -> list[tuple[str, int, int, int]]:
    """Return the classes that lost more than usual, worst first; all arguments are (n,)."""
    found = []
    for place, name in enumerate(names):
        images = labels == place
        n, before, after = (int((images & one).sum()) for one in (images, own, exported))
        if before - after >= CLASS_IMAGES and 100 * (before - after) > CLASS_POINTS * n:
            found.append((name, before, after, n))
    return sorted(found, key=lambda one: (one[2] - one[1]) / one[3])
