"""The settings of optimiser and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from saccade import units
from saccade.config.fields import DurationText, RateText, Section, results

Milestones = Annotated[tuple[DurationText, ...], Field()]


class OptimizerSection(Section):
    """How gradients become weights."""

    name: str = results("sgd", "the optimiser; docs/configuration.md lists them all")
    lr: RateText = results(
        "0.1 per 256",
        "learning rate: '0.5 per 1024' is scaled to the batch once, a bare number is used as given",
    )
    momentum: float = results(0.9, "momentum, or beta1 of the Adam family", ge=0, lt=1)
    beta2: float = results(0.999, "beta2 of the Adam family, or alpha of RMSprop", ge=0, lt=1)
    eps: float = results(
        1e-8, "added to the root of the mean square (rmsprop-tf: under the root)", gt=0
    )
    nesterov: bool = results(True, "Nesterov momentum, where the optimiser supports it")
    weight_decay: float = results(
        5e-5,
        "weight decay; the optimiser decides whether it is decoupled from the gradient",
        ge=0,
        le=1,
    )
    weight_decay_end: float | None = results(
        None, "final weight decay, reached along half a cosine; null = constant"
    )
    decay: Literal["weights", "all"] = results(
        "weights",
        ("what weight decay applies to: weights only, or also biases, norms and position tables"),
    )
    fixed_norm: bool = results(
        False, "Muon: rescale each filter to a fixed norm before a step, where a norm layer follows"
    )
    rest: str = results("sgd", "the optimiser for the parameters that Muon does not take")
    rest_lr: RateText = results(
        "0.05 per 64", "learning rate of the parameters that Muon does not take"
    )
    rest_momentum: float = results(
        0.9, "momentum, or beta1, for the parameters that Muon does not take", ge=0, lt=1
    )
    layer_decay: float = results(
        1.0,
        "layer-wise decay: rate of a layer as a fraction of the next layer's; 1 = off",
        gt=0,
        le=1,
    )
    clip: float = results(0.0, "gradient clipping: largest global norm; 0 = off", ge=0)


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
    ] = results("cosine", "shape after the warm-up; docs/schedules.md shows them all")
    warmup: DurationText = results(
        "5%", "length of the linear rise from zero; onecycle rises as a half cosine"
    )
    end: float = results(0.0, "final factor of the rate, also its floor", ge=0, le=1)
    every: DurationText = results(
        "30ep", "step, exponential: time in which the rate falls by one factor `gamma`"
    )
    milestones: Milestones = results(
        (), "multistep: when the rate drops, counted from the start of the run"
    )
    gamma: float = results(
        0.1, "step, multistep, exponential, plateau: the factor of one drop", gt=0, lt=1
    )
    power: float = results(1.0, "poly: the exponent; 1 = a straight line", gt=0, le=10)
    cycles: int = results(4, "restarts: number of half cosines in the run", ge=1, le=1000)
    growth: float = results(
        1.0, "restarts: length of a cycle divided by that of the previous one", ge=1, le=10
    )
    decay: DurationText = results("20%", "wsd: length of the linear decay at the end")
    patience: int = results(
        10, "plateau: evaluations without improvement before the rate drops", ge=0
    )
    watch: Literal["top1", "loss"] = results("top1", "plateau: the figure that must improve")

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
