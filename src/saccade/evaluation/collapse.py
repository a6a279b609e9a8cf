"""Detecting a collapsed representation: all images get (nearly) the same features.

The loss does not show it: if all features are the same, the loss falls to its minimum. The
projections that the loss sees show it, compared with earlier in the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Look(Protocol):
    """The figures of an encoder after ``step`` steps."""

    @property
    def step(self) -> int:
        """Number of finished optimiser steps."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures by name."""


LEAST_SPREAD = 0.25
"""Of what the loss sees, 1 where directions are even. *Source:* measured, docs/LOG.md: forced
collapse 0.09 to 0.14, SimCLR 0.36 after 20 steps and 0.9 at its end.
"""

FALLEN_SPREAD, FALLEN_VARIANCE = 0.5, 0.2
"""Of the highest value so far. *Source:* as above: the variance falls to 0.003 of it."""

SETTLED = 30
"""Steps after which the running statistics of norms no longer depend on their start."""

LEAST_RANK, FALLEN_RANK = 0.25, 0.8
"""Of the rank before training, and of the highest since norms settled: of what the loss sees, where
a BatchNorm behind it keeps its spread. *Source:* measured, docs/LOG.md: forced collapse 0.14 to
0.24 and 0.33 to 0.66; SimCLR on photographs, at the least, 0.21 at its first look and then 0.87.
DINO, whose bottleneck has no norm, went down to 0.11 while it learned.
"""

NEAR_CONSTANT = 0.98
"""A loss above this fraction of the best constant answer's means that nothing was learned."""

GRACE, PATIENCE = 0.1, 0.25
"""Of the run, before the loss, and the neighbours, are compared with those of no training."""

HALF_WAY = 0.5
"""Of the run, before joint embedding is asked for it. *Source:* measured, docs/LOG.md: at a quarter
of a short run of DINO that learns, its teacher still says nearly the same of all images.
"""


def has_collapsed(looks: Sequence[Look], *, normed: bool) -> str:
    """Say how a representation has collapsed at the two latest of several looks.

    Empty if it has not. The first look is that before training. ``normed``: what the loss sees
    comes out of a BatchNorm, which keeps its spread in a collapse, so its directions count, too.
    """
    latest = looks[1:][-2:]
    if len(latest) < 2 or latest[0].step < SETTLED:
        return ""
    # one look may be odd: a network that has just begun
    signs = [_sign(looks[: len(looks) - back], normed=normed) for back in (1, 0)]
    return signs[1] if all(signs) else ""


def _sign(looks: Sequence[Look], *, normed: bool) -> str:
    """Say how the latest look is one at a collapsed representation; empty if it is not."""
    return _alike(looks) or (_narrow(looks) if normed else "")


def _alike(looks: Sequence[Look]) -> str:
    """Say how similar the projections are at the latest check; empty if they are not."""
    now = looks[-1].figures
    spreads = [look.figures["projector_spread"] for look in looks]
    variances = [look.figures["projector_variance"] for look in looks]
    alike = spreads[-1] < FALLEN_SPREAD * max(spreads)
    shrunk = variances[-1] < FALLEN_VARIANCE * max(variances)
    if spreads[-1] >= LEAST_SPREAD or not (alike or shrunk):
        return ""

    return (
        f"the projections of different images are nearly the same: spread {spreads[-1]:.2g} (was "
        f"{max(spreads):.2g}; 1 means even directions), variance {variances[-1]:.2g} (was "
        f"{max(variances):.2g}), rank {now['projector_rank']:.1f}"
    )


def _narrow(looks: Sequence[Look]) -> str:
    """Say how few directions are left at the latest check, if they keep falling; empty
    otherwise."""
    name = "projector_rank"
    now, start = looks[-1].figures[name], looks[0].figures[name]
    most = max(look.figures[name] for look in looks if look.step >= SETTLED or look is looks[-1])
    if now >= LEAST_RANK * start or now >= FALLEN_RANK * most:
        return ""
    return (
        f"the projections of different images span {now:.1f} directions (was {most:.1f}, and "
        f"{start:.1f} before training)"
    )


def doubts(
    looks: Sequence[Look], *, joins: bool, normed: bool, progress: float, queries: int = 0
) -> dict[str, str]:
    """Return warnings about the latest check, by their ids.

    The first look is that before training. ``joins``: views of an image are drawn together;
    ``normed`` as for ``has_collapsed``. ``progress`` is how much of the run is done, 0..1,
    ``queries`` how many images have a ``knn``.
    """
    start, now = looks[0].figures, looks[-1].figures
    found = {}
    settled = looks[-1].step >= SETTLED
    reason = _sign(looks, normed=normed) if joins and settled else ""
    if reason:
        found["collapse-near"] = f"{reason}: a second check like this means a collapse"

    # one look below may be chance
    latest = [look.figures["knn"] for look in looks[1:][-2:] if "knn" in look.figures]
    low = start.get("knn", 0.0) - _standard_error(start.get("knn", 0.0), queries)
    if progress >= PATIENCE and len(latest) == 2 and max(latest) < low:
        found["knn-below-untrained"] = (
            f"kNN {latest[-1]:.1%} is below the {start['knn']:.1%} of the untrained network, for "
            "the second time"
        )

    if joins and progress >= 1 and queries and latest and not found:
        before = start["knn"]
        error = math.hypot(*(_standard_error(share, queries) for share in (before, latest[-1])))
        if latest[-1] - before < error:
            found["knn-like-untrained"] = (
                f"kNN {latest[-1]:.1%} is not clearly above the {before:.1%} of the untrained "
                f"network (standard error {error:.1%}): it does not show that the run gained "
                "anything"
            )

    constant = now.get("constant", 0.0)
    if (
        constant
        and progress >= (HALF_WAY if joins else GRACE)
        and now["loss"] > NEAR_CONSTANT * constant
    ):
        found["learns-nothing"] = (
            f"the loss of {now['loss']:.4g} is not below that of a constant answer "
            f"({constant:.4g}): the network has not learned from the images yet"
        )
    return found


def _standard_error(share: float, count: int) -> float:
    """Return the standard error of a proportion, 0..1; 0 if the number of images is unknown."""
    return math.sqrt(share * (1 - share) / count) if count else 0.0
