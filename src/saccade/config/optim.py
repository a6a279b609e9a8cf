"""The settings of optimiser and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from saccade import units
from saccade.config.fields import DurationText, RateText, Section, numerics

Milestones = Annotated[tuple[DurationText, ...], Field()]


class OptimizerSection(Section):
    """How gradients become weights."""

    name: str = numerics("sgd", "the optimiser; docs/configuration.md lists them all")
    lr: RateText = numerics(
        "0.1 per 256", "learning rate: '0.5 per 1024' is scaled once, a bare number is not"
    )
    momentum: float = numerics(0.9, "momentum, or beta1 of the Adam family", ge=0, lt=1)
    beta2: float = numerics(0.999, "beta2 of the Adam family, or alpha of RMSprop", ge=0, lt=1)
    eps: float = numerics(
        1e-8, "added to the root of the mean square (rmsprop-tf: under the root)", gt=0
    )
    nesterov: bool = numerics(True, "Nesterov momentum, where the optimiser knows it")
    weight_decay: float = numerics(
        5e-5, "weight decay, decoupled from the gradient or not as the optimiser has it", ge=0, le=1
    )
    weight_decay_end: float | None = numerics(
        None, "weight decay at the end, reached along half a cosine; null = the same all the way"
    )
    decay: Literal["weights", "all"] = numerics(
        "weights", "what decays: weights only, or also biases, norms and position tables"
    )
    fixed_norm: bool = numerics(
        False, "Muon: give each filter the norm sqrt(rows) before a step, where norms follow"
    )
    rest: str = numerics("sgd", "the optimiser for the parameters that Muon does not take")
    rest_lr: RateText = numerics(
        "0.05 per 64", "learning rate of the parameters that Muon does not take"
    )
    rest_momentum: float = numerics(
        0.9, "momentum, or beta1, for the parameters that Muon does not take", ge=0, lt=1
    )
    layer_decay: float = numerics(
        1.0, "rate of a layer as a share of the next layer's, for fine-tuning; 1 = off", gt=0, le=1
    )
    clip: float = numerics(0.0, "largest norm of all gradients together; 0 = off", ge=0)


class ScheduleSection(Section):
    """The learning rate over the run, as a factor on its peak."""

    name: Literal[
        "cosine",
        "linear",
        "constant",
        "step",
        "multistep",
        "poly",
        "exponential",
        "plateau",
        "restarts",
        "onecycle",
        "wsd",
    ] = numerics("cosine", "shape after the warm-up; docs/schedules.md shows them all")
    warmup: DurationText = numerics(
        "5%", "length of the linear rise from zero; onecycle rises as a half cosine"
    )
    end: float = numerics(
        0.0, "final factor on the rate; also the floor of every schedule", ge=0, le=1
    )
    every: DurationText = numerics(
        "30ep", "step, exponential: how long one factor of `gamma` takes"
    )
    milestones: Milestones = numerics(
        (), "multistep: when the rate drops, counted from the start of the run"
    )
    gamma: float = numerics(
        0.1, "step, multistep, exponential, plateau: the factor of one drop", gt=0, lt=1
    )
    power: float = numerics(1.0, "poly: the exponent; 1 = a straight line", gt=0, le=10)
    cycles: int = numerics(4, "restarts: how many half cosines fill the run", ge=1, le=1000)
    growth: float = numerics(
        1.0, "restarts: length of a cycle over that of the one before", ge=1, le=10
    )
    decay: DurationText = numerics("20%", "wsd: length of the straight fall at the end")
    patience: int = numerics(
        10, "plateau: evaluations without improvement before the rate drops", ge=0
    )
    watch: Literal["top1", "loss"] = numerics("top1", "plateau: the figure that must improve")

    @model_validator(mode="after")
    def _complete(self) -> ScheduleSection:
        if self.name == "multistep" and not self.milestones:
            raise ValueError(
                "schedule.milestones: multistep needs them; write [30ep, 60ep, 80ep] or [50%, 75%]"
            )
        length = {"step": "every", "exponential": "every", "wsd": "decay"}.get(self.name)
        if length and not _is_positive(getattr(self, length)):
            raise ValueError(f"schedule.{length}: {self.name} needs a length above zero")
        return self

    @property
    def phrase(self) -> str:
        """Shape and warm-up in words."""
        return f"{self.name}, warm-up {self.warmup or 'none'}"


def _is_positive(duration: str) -> bool:
    return duration != "" and units.Duration.parse(duration).value > 0
