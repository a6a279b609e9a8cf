"""The optimisers by name: one entry in ``METHODS`` defines everything about an optimiser."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from saccade.config.optim import OptimizerSection
from saccade.errors import ConfigError
from saccade.optim.lamb import Lamb
from saccade.optim.muon import Muon, muon_names
from saccade.optim.rmsprop import RmsPropTf

Groups = list[dict[str, Any]]
"""Groups of parameters as torch's optimisers take them.

Each also has ``depth_scale``, the layer's factor on the rate, and ``adapt``, False for norms,
biases and position tables.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that one optimiser is made with; ``fused`` asks for torch's fused kernel."""

    lr: float
    momentum: float
    beta2: float
    eps: float
    weight_decay: float
    nesterov: bool
    fixed_norm: bool
    fused: bool

    @staticmethod
    def of(section: OptimizerSection, *, lr: float, momentum: float, fused: bool) -> Settings:
        """Take the settings of a section, with the rate and the momentum of one of its parts."""
        return Settings(
            lr=lr,
            momentum=momentum,
            beta2=section.beta2,
            eps=section.eps,
            weight_decay=section.weight_decay,
            nesterov=section.nesterov,
            fixed_norm=section.fixed_norm,
            fused=fused,
        )


@dataclass(frozen=True, slots=True)
class Method:
    """An optimiser: how it is made, and its properties.

    ``rule`` says how its rate scales with the global batch. ``slots`` are the tensors that it
    stores for each parameter, with the value that they start with; with ``counts_steps`` also a
    scalar ``step``. ``drops_momentum``: without momentum it has no ``momentum_buffer``. ``fused``:
    torch has a fused kernel. ``takes`` returns the names of the parameters that it is for, None for
    all; all others go to the method ``optimizer.rest``.
    """

    title: str
    make: Callable[[Groups, Settings], torch.optim.Optimizer]
    rule: Literal["linear", "sqrt"]
    slots: Mapping[str, float] = field(default_factory=dict)
    counts_steps: bool = False
    drops_momentum: bool = False
    fused: bool = False
    takes: Callable[[nn.Module], set[str]] | None = None

    def initial_slots(self, momentum: float) -> dict[str, float]:
        """Return what is remembered of each parameter and its first value, at this momentum."""
        is_dropped = self.drops_momentum and momentum == 0
        return {
            slot: value
            for slot, value in self.slots.items()
            if not (is_dropped and slot == "momentum_buffer")
        }


def _sgd(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        settings.lr,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov and settings.momentum > 0,  # torch refuses it without momentum
        fused=settings.fused,
        foreach=not settings.fused,
    )


def _adam(kind: type[torch.optim.Adam]) -> Callable[[Groups, Settings], torch.optim.Optimizer]:
    def make(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
        return kind(
            groups,
            settings.lr,
            (settings.momentum, settings.beta2),
            settings.eps,
            settings.weight_decay,
            fused=settings.fused,
            foreach=not settings.fused,
        )

    return make


def _rmsprop(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        groups,
        settings.lr,
        alpha=settings.beta2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        foreach=True,
    )


def _rmsprop_tf(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    return RmsPropTf(
        groups,
        settings.lr,
        alpha=settings.beta2,
        eps=settings.eps,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _lamb(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    return Lamb(
        groups,
        settings.lr,
        betas=(settings.momentum, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def _muon(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    return Muon(
        groups,
        settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fixed_norm=settings.fixed_norm,
    )


MOMENTUM: Mapping[str, float] = {"momentum_buffer": 0.0}
TWO_MEANS: Mapping[str, float] = {"exp_avg": 0.0, "exp_avg_sq": 0.0}

METHODS: dict[str, Method] = {
    "sgd": Method("SGD", _sgd, "linear", MOMENTUM, drops_momentum=True, fused=True),
    "adam": Method(
        "Adam", _adam(torch.optim.Adam), "sqrt", TWO_MEANS, counts_steps=True, fused=True
    ),
    "adamw": Method(
        "AdamW", _adam(torch.optim.AdamW), "sqrt", TWO_MEANS, counts_steps=True, fused=True
    ),
    "rmsprop": Method(
        "RMSprop",
        _rmsprop,
        "linear",
        {"square_avg": 0.0, "momentum_buffer": 0.0},
        counts_steps=True,
        drops_momentum=True,
    ),
    # no step count: TensorFlow's method corrects nothing at the start, its mean square begins at
    # one
    "rmsprop-tf": Method(
        "TensorFlow's RMSprop",
        _rmsprop_tf,
        "linear",
        {"square_avg": 1.0, "momentum_buffer": 0.0},
    ),
    "lamb": Method("LAMB", _lamb, "sqrt", TWO_MEANS, counts_steps=True),
    "muon": Method("Muon", _muon, "linear", MOMENTUM, takes=muon_names),
}
"""All values of ``optimizer.name``."""


def find(name: str, setting: str = "optimizer.name", where: str = "") -> Method:
    """Return the method of a name.

    ``setting`` had this name, and ``where`` tells who set it. Raises ConfigError with the nearest
    names.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"{setting}: there is no optimiser '{name}'",
        where=where or setting,
        fix=f"{hint}available are {', '.join(METHODS)}",
    )


def check(section: OptimizerSection, where: Callable[[str], str]) -> None:
    """Check the names of the optimisers in the settings.

    ``where`` tells who set a setting. Raises ConfigError for an unknown name, and for a ``rest``
    that does not accept all parameters.
    """
    find(section.name, where=where("optimizer.name"))
    if find(section.rest, "optimizer.rest", where("optimizer.rest")).takes:
        raise ConfigError(
            f"optimizer.rest: {section.rest} does not accept all parameters either",
            where=where("optimizer.rest") or "optimizer.rest",
            fix=f"use one of {', '.join(n for n, m in METHODS.items() if not m.takes)}",
        )
