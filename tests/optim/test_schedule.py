"""Schedules: golden curves, torch's own where they mean the same, and the one that remembers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as peers

from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import TOP1
from saccade.optim import optimizers, schedule
from saccade.optim.schedule import CURVES, Plateau, Schedule

GOLDEN = {  # factors at steps 0, 4, 9, 10, 35, 55, 80 and 99 of 100, after a warm-up of 10 steps
    "constant": (0.1, 0.5, 1, 1, 1, 1, 1, 1),
    "cosine": (0.1, 0.5, 1, 1, 0.821394, 0.5, 0.116978, 0.000305),
    "linear": (0.1, 0.5, 1, 1, 0.722222, 0.5, 0.222222, 0.011111),
    "poly": (0.1, 0.5, 1, 1, 0.521605, 0.25, 0.049383, 0.000123),
    "step": (0.1, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.001),
    "multistep": (0.1, 0.5, 1, 1, 1, 0.1, 0.01, 0.01),
    "exponential": (0.1, 0.5, 1, 1, 0.146780, 0.031623, 0.004642, 0.001080),
    "restarts": (0.1, 0.5, 1, 1, 0.213212, 0.933013, 0.301960, 0.000846),
    "onecycle": (0.024472, 0.5, 1, 1, 0.821394, 0.5, 0.116978, 0.000305),
    "wsd": (0.1, 0.5, 1, 1, 1, 1, 1, 0.05),
}
LOOKED_AT = (0, 4, 9, 10, 35, 55, 80, 99)
PARAMETERS: dict[str, dict[str, Any]] = {
    "poly": {"power": 2.0},
    "step": {"every": Fraction(30)},
    "multistep": {"milestones": (50, 75)},
    "exponential": {"every": Fraction(30)},
    "restarts": {"cycles": 2, "growth": 1.5},
    "wsd": {"decay": 20},
}


def make(
    name: str, total: int = 100, warmup: int = 10, end: float = 0.0, **parameters: Any
) -> Schedule:
    return Schedule(name, total, warmup, end, **(PARAMETERS.get(name, {}) | parameters))


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.spec(25, "A6")
def test_a_curve_is_what_it_was(name: str) -> None:
    curve = make(name)
    assert [curve.factor(s) for s in LOOKED_AT] == pytest.approx(GOLDEN[name], abs=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_peaks_where_the_warmup_ends_and_stays_above_its_end(name: str) -> None:
    curve = make(name, end=0.05)
    factors = [curve.factor(s) for s in range(100)]
    assert factors[9] == 1.0 == max(factors) and min(factors[10:]) >= 0.05
    assert all(a < b for a, b in itertools.pairwise(factors[:10]))
    if name != "restarts":
        assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


@pytest.mark.parametrize("name", CURVES)
def test_the_unit_does_not_matter(name: str) -> None:
    fine, coarse = make(name, 1000, 100), make(name, 100, 10)
    if name in PARAMETERS:
        scaled = {k: 10 * v if k in ("every", "decay") else v for k, v in PARAMETERS[name].items()}
        scaled |= {"milestones": (500, 750)} if name == "multistep" else {}
        fine = make(name, 1000, 100, **scaled)
    assert [fine.factor(10 * s) for s in range(10, 100)] == pytest.approx(
        [coarse.factor(s) for s in range(10, 100)]
    )


def torch_factors(make_peer: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    peer = make_peer(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    return factors


@pytest.mark.parametrize(
    ("name", "peer", "parameters"),
    [
        ("cosine", lambda o: peers.CosineAnnealingLR(o, 100, 0.1), {"end": 0.1}),
        ("linear", lambda o: peers.LinearLR(o, 1.0, 0.2, 100), {"end": 0.2}),
        ("poly", lambda o: peers.PolynomialLR(o, 100, 0.9), {"power": 0.9}),
        ("step", lambda o: peers.StepLR(o, 30, 0.1), {}),
        ("multistep", lambda o: peers.MultiStepLR(o, [50, 75], 0.2), {"gamma": 0.2}),
        (
            "exponential",
            lambda o: peers.ExponentialLR(o, 0.97),
            {"gamma": 0.97, "every": Fraction(1)},
        ),
        (
            "restarts",
            lambda o: peers.CosineAnnealingWarmRestarts(o, 40, 1, 0.1),
            {"end": 0.1, "cycles": 3, "growth": 1.0, "total": 120},
        ),
        (
            "restarts",
            lambda o: peers.CosineAnnealingWarmRestarts(o, 20, 2),
            {"cycles": 3, "growth": 2.0, "total": 140},
        ),
    ],
)
@pytest.mark.spec(25)
def test_torch_computes_the_same(name: str, peer: Any, parameters: dict[str, Any]) -> None:
    curve = make(name, **{"total": 100, "warmup": 0, **parameters})
    assert [curve.factor(s) for s in range(curve.total)] == pytest.approx(
        torch_factors(peer, curve.total), abs=1e-12
    )


@pytest.mark.spec(25)
def test_the_warmup_is_torchs_linear_one() -> None:
    rise = torch_factors(lambda o: peers.LinearLR(o, 1 / 10, 1.0, 9), 20)
    curve = make("constant")
    assert [curve.factor(s) for s in range(20)] == pytest.approx(rise)


def test_the_one_cycle_is_torchs_with_its_first_step_left_out() -> None:
    peer = torch_factors(
        lambda o: peers.OneCycleLR(
            o,
            1.0,
            total_steps=101,
            pct_start=11 / 101,
            div_factor=1e12,
            final_div_factor=1,
            cycle_momentum=False,
        ),
        100,
    )
    curve = make("onecycle")
    assert [curve.factor(s) for s in range(10)] == pytest.approx(peer[1:11], abs=1e-9)
    assert [curve.factor(s) for s in range(10, 100)] == pytest.approx(peer[10:], abs=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "rmsprop-tf", "lamb"])
def test_the_momentum_of_one_cycle_is_torchs(name: str) -> None:
    owner = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0, momentum=0.9)
    peer = peers.OneCycleLR(
        owner,
        1.0,
        total_steps=101,
        pct_start=11 / 101,
        base_momentum=0.85,
        max_momentum=0.95,
        div_factor=1e12,
        final_div_factor=1,
    )
    theirs = []
    for _ in range(100):
        theirs.append(owner.param_groups[0]["momentum"])
        owner.step()
        peer.step()
    layers = Layers()
    for field, value in (("name", name), ("momentum", 0.95), ("rest_momentum", 0.95)):
        layers.set(f"optimizer.{field}={value}")
    ours = optimizers.build(
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)),
        layers.resolve(),
        torch.device("cpu"),
    )
    curve, seen = make("onecycle"), []
    for step in range(100):
        ours.follow(curve, step)
        groups = [group for part in ours.parts for group in part.param_groups]
        (momentum,) = {g["betas"][0] if "betas" in g else g["momentum"] for g in groups}
        seen.append(momentum)
    assert seen[:10] == pytest.approx(theirs[1:11], abs=1e-9) and min(seen) == pytest.approx(0.85)
    assert seen[10:] == pytest.approx(theirs[10:], abs=1e-9)


def test_only_one_cycle_moves_the_momentum() -> None:
    assert all(
        make(name).momentum_drop(step) == 0
        for name in CURVES
        if name != "onecycle"
        for step in range(100)
    )


def evaluations(*top1: float) -> list[Evaluation]:
    return [
        Evaluation.parse({"top1": value, "loss": 1 - value, "step": 10 * i}, TOP1)
        for i, value in enumerate(top1)
    ]


@pytest.mark.parametrize("watch", ["top1", "loss"])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.spec(25)
def test_plateau_drops_when_torch_does(watch: str, patience: int) -> None:
    values = [round(0.5 + 0.3 * math.sin(1.7 * i) - 0.004 * i, 2) for i in range(40)]
    curve = make("plateau", warmup=0, patience=patience, watch=watch, gamma=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    mode = "max" if watch == "top1" else "min"
    peer = peers.ReduceLROnPlateau(optimizer, mode, 0.5, patience, threshold=0, eps=0.0)
    past = evaluations(*values)
    for i in range(len(values)):
        peer.step(past[i].figures[watch])
        assert curve.factor(50, past[: i + 1]) == optimizer.param_groups[0]["lr"]
    assert curve.factor(50, past) < 0.5


def test_plateau_remembers_best_and_bad_ones_and_keeps_its_floor() -> None:
    curve = make("plateau", patience=1, end=0.05)
    assert Plateau.after(evaluations(0.5, 0.6, 0.6), curve) == Plateau(0.6, 1, 1.0)
    assert Plateau.after(evaluations(0.5, 0.6, 0.6, 0.4), curve) == Plateau(0.6, 0, 0.1)
    assert Plateau.after(evaluations(0.5, 0.6, 0.6, 0.4, 0.7), curve) == Plateau(0.7, 0, 0.1)
    assert curve.factor(4) == 0.5 and curve.factor(50) == 1.0
    assert curve.factor(50, evaluations(*[0.5] * 9)) == 0.05


def built(*settings: str, samples: int = 1000, batch: int = 100, total: int = 900) -> Schedule:
    layers = Layers()
    for setting in settings:
        layers.set(f"schedule.{setting}")
    return schedule.build(layers.resolve().schedule, samples, batch, total)


def test_durations_become_steps_in_any_unit() -> None:
    curve = built("name=multistep", "milestones=[30ep,50%,70000sample,800step]", "warmup=1%")
    assert curve.milestones == (300, 450, 700, 800) and curve.warmup == 9
    assert built("name=step", "every=2.45ep").every == Fraction(49, 2), (
        "a period is not rounded to whole steps"
    )
    assert built("name=wsd", "decay=20%").decay == 180
    assert built("warmup=''").warmup == 0


def test_what_cannot_take_place_is_said() -> None:
    assert built("name=multistep", "milestones=[30ep,60ep]").notes() == []
    assert (
        "1 of 2 milestones"
        in built("name=multistep", "milestones=[30ep,60ep]", total=400).notes()[0]
    )
    assert "does not end within the run" in built("warmup=5ep", total=40).notes()[0]
    assert "never drops" in built("name=step", "every=30ep", total=40).notes()[0]


def test_weight_decay_goes_to_its_end_along_half_a_cosine() -> None:
    """DINO's, from 0.04 to 0.4; parameters without decay stay without."""
    config = Config.model_validate(
        {"optimizer": {"name": "adamw", "weight_decay": 0.04, "weight_decay_end": 0.4}}
    )
    net, curve = nn.Linear(4, 3), Schedule("cosine", 10, 2, end=0.0)
    moving = optimizers.build(net, config, torch.device("cpu"))
    seen = []
    for step in range(10):
        moving.follow(curve, step)
        weight, bias = moving.parts[0].param_groups
        seen.append(weight["weight_decay"])
        assert bias["weight_decay"] == 0
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(10) / 10))
    assert seen == pytest.approx(expected.tolist())
