"""The learning rate over a run: pure functions of the step and the length of the run.

Plateau also looks at the evaluations so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from saccade.config.optim import ScheduleSection
from saccade.units import Duration

MOMENTUM_DROP = 0.1
"""How far the momentum falls at the peak of a one-cycle run.

*Source:* Smith 2018, arXiv 1803.09820, 0.95 to 0.85.
"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A factor on every learning rate: a rise over ``warmup`` steps, then the curve ``name``, never
    below ``end``.

    ``total``, ``warmup``, ``every``, ``milestones`` and ``decay`` are in steps; ``every`` may be a
    fraction, such as 2.4 epochs. Each curve's function says which of them it takes. Where the batch
    changed in mid-run, the number of steps no longer says how much was consumed; ``ahead``, in
    steps, is added to it. ``scale`` multiplies the whole curve.
    """

    name: str
    total: int
    warmup: int
    end: float
    every: Fraction = Fraction(1)
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 1.0
    cycles: int = 1
    growth: float = 1.0
    decay: int = 0
    patience: int = 0
    watch: str = "top1"
    ahead: float = 0
    scale: float = 1.0

    def factor(self, step: int, evaluations: Sequence[Judged] = ()) -> float:
        """Return the factor, 0..1, for a step of the run, counted from 0.

        Only plateau looks at the evaluations so far.
        """
        place = step + self.ahead
        if self.name == "plateau":
            height = max(Plateau.after(evaluations, self).factor, self.end)
        else:
            height = CURVES[self.name](self, place)
        return self.scale * self._rise(place) * height

    def momentum_drop(self, step: int) -> float:
        """Return how far every momentum lies below its setting.

        It is 0 except in a one-cycle run, where it rises to ``MOMENTUM_DROP`` with the rate.
        """
        if self.name != "onecycle":
            return 0.0
        place = step + self.ahead
        return MOMENTUM_DROP * self._rise(place) * half_wave(self.progress(place))

    def share(self, step: int) -> float:
        """Return how much of the whole run is done before a step, 0..1."""
        return min((step + self.ahead) / self.total, 1.0)

    def progress(self, step: float) -> float:
        """Return how much of the run after the warm-up is done before a step, 0..1."""
        return max(step - self.warmup, 0) / max(self.total - self.warmup, 1)

    def between(self, height: float) -> float:
        """Return the factor at a height of 0 (``end``) to 1 (the peak)."""
        return self.end + (1 - self.end) * height

    def _rise(self, step: float) -> float:
        if step >= self.warmup:
            return 1.0
        # step 0 already moves: a rate of nought would waste it
        share = (step + 1) / self.warmup
        return (1 - math.cos(math.pi * share)) / 2 if self.name == "onecycle" else share

    def notes(self) -> list[str]:
        """Return the settings for which this run is too short, one sentence each."""
        found = []
        if self.warmup >= self.total:
            found.append(
                f"the warm-up ({self.warmup} steps) does not end within the run "
                f"({self.total} steps)"
            )
        late = [m for m in self.milestones if m >= self.total] if self.name == "multistep" else []
        if late:
            found.append(
                f"{len(late)} of {len(self.milestones)} milestones are after the end of the run"
            )
        if self.name == "step" and self.every >= self.total:
            found.append("the rate never drops: schedule.every is longer than the run")
        return found


class Judged(Protocol):
    """The part of an evaluation that a schedule uses."""

    def score(self, watch: str = "") -> float:
        """Return a number that is higher for the better evaluation, by the loss if ``watch``ed."""


@dataclass(frozen=True, slots=True)
class Plateau:
    """The state of the plateau schedule.

    ``best`` is the best score, ``bad`` how many evaluations since were not better, ``factor`` what
    the rate is multiplied by.
    """

    best: float = -math.inf
    bad: int = 0
    factor: float = 1.0

    @staticmethod
    def after(evaluations: Iterable[Judged], schedule: Schedule) -> Plateau:
        """Go through the evaluations of a run, oldest first.

        After more than ``patience`` evaluations without a new best the rate is multiplied by
        ``gamma``, and counting starts again. The list of evaluations is all that this schedule
        remembers. Every checkpoint holds it, so a resumed run goes on exactly.
        """
        memory = Plateau()
        for entry in evaluations:
            score = entry.score(schedule.watch)
            if score > memory.best:
                memory = Plateau(score, 0, memory.factor)
            elif memory.bad < schedule.patience:
                memory = Plateau(memory.best, memory.bad + 1, memory.factor)
            else:
                memory = Plateau(memory.best, 0, memory.factor * schedule.gamma)
        return memory


def build(
    section: ScheduleSection, epoch_samples: int, global_batch: int, total: int, ahead: float = 0
) -> Schedule:
    """Turn the durations of the settings into steps of a run of ``total`` steps."""

    def steps(duration: str) -> int:
        return Duration.parse(duration).steps(epoch_samples, global_batch, total) if duration else 0

    every = (
        Duration.parse(section.every).samples(epoch_samples, global_batch, total)
        if section.every
        else 0
    )
    return Schedule(
        section.name,
        total,
        steps(section.warmup),
        end=section.end,
        # a fraction, as 2.4 epochs are rarely a whole number of steps
        every=Fraction(every) / global_batch,
        milestones=tuple(steps(m) for m in section.milestones),
        gamma=section.gamma,
        power=section.power,
        cycles=section.cycles,
        growth=section.growth,
        decay=steps(section.decay),
        patience=section.patience,
        watch=section.watch,
        ahead=ahead,
    )


def constant(schedule: Schedule, step: float) -> float:
    """Stay at the peak."""
    return 1.0


def cosine(schedule: Schedule, step: float) -> float:
    """Fall in one half wave. *Source:* Loshchilov & Hutter 2017, equation 5."""
    return schedule.between(half_wave(schedule.progress(step)))


def linear(schedule: Schedule, step: float) -> float:
    """Fall in a straight line."""
    return 1 - (1 - schedule.end) * schedule.progress(step)


def poly(schedule: Schedule, step: float) -> float:
    """Fall as a power of what is left of the run.

    *Source:* Szegedy et al. 2015 and Chen et al. 2017 (power 0.9).
    """
    return schedule.between((1 - schedule.progress(step)) ** schedule.power)


def staircase(schedule: Schedule, step: float) -> float:
    """Drop by ``gamma`` after each ``every``, counted from the start of the run."""
    return max(schedule.gamma ** (step // schedule.every), schedule.end)


def multistep(schedule: Schedule, step: float) -> float:
    """Drop by ``gamma`` at each of the ``milestones``, counted from the start of the run.

    *Source:* He et al. 2016.
    """
    return max(schedule.gamma ** sum(step >= m for m in schedule.milestones), schedule.end)


def exponential(schedule: Schedule, step: float) -> float:
    """Fall without steps, by ``gamma`` over each ``every`` from the end of the warm-up."""
    return max(
        schedule.gamma ** float(max(step - schedule.warmup, 0) / schedule.every), schedule.end
    )


def restarts(schedule: Schedule, step: float) -> float:
    """Fall in ``cycles`` half waves, each ``growth`` times as long as the one before.

    *Source:* as for cosine.
    """
    lengths = [schedule.growth**i for i in range(schedule.cycles)]
    place = schedule.progress(step) * sum(lengths)
    for length in lengths[:-1]:
        if place < length:
            return schedule.between(half_wave(place / length))
        place -= length
    return schedule.between(half_wave(min(place / lengths[-1], 1.0)))


def trapezoid(schedule: Schedule, step: float) -> float:
    """Stay at the peak, then fall in a straight line over the last ``decay`` steps (warm-up,
    stable, decay).

    *Source:* Hu et al. 2024, "MiniCPM", section 4; Zhai et al. 2022 (linear cooldown).
    """
    left = schedule.total - step
    return 1.0 if left >= schedule.decay else schedule.between(left / schedule.decay)


def half_wave(share: float) -> float:
    """Return half a cosine wave that falls from 1 to 0 as the share goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


CURVES: dict[str, Callable[[Schedule, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "poly": poly,
    "step": staircase,
    "multistep": multistep,
    "exponential": exponential,
    "restarts": restarts,
    "onecycle": cosine,
    "wsd": trapezoid,
}
"""All schedules but plateau.

The one cycle of Smith & Topin 2018 is a cosine whose warm-up is a half wave, too. While the rate is
high the momentum is low: `Schedule.momentum_drop`.
"""
