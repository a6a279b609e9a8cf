"""An optimiser that the user hands over: driven by our schedule, saved and restored whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.optim import own_optimizer
from saccade.optim.own_optimizer import OwnOptimizer
from saccade.optim.schedule import Schedule

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Counting(torch.optim.Optimizer):
    """Written by hand: numbers, lists and changed groups instead of tensors alone."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "seen": 0})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["seen"] += 1
            for param in group["params"]:
                slots = self.state[param]
                if not slots:  # only in the first step
                    slots["history"] = [torch.zeros_like(param), torch.zeros_like(param)]
                    slots["norms"] = {"last": 0.0}
                slots["norms"]["last"] = float(param.grad.norm())
                slots["history"] = [slots["history"][1], param.grad.clone()]
                mean = (slots["history"][0] + slots["history"][1]) / 2
                with torch.no_grad():
                    param -= group["lr"] / group["seen"] / (1 + slots["norms"]["last"]) * mean


FACTORIES: dict[str, Factory] = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "fused Adam": lambda params: torch.optim.Adam(params, lr=0.01, fused=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
    "hand-written": lambda params: Counting(params, lr=0.1),
}
FALLING = Schedule("linear", total=10, warmup=0, end=0.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    return model.to(memory_format=torch.channels_last)


def steps(model: nn.Module, optimizer: OwnOptimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        model.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.follow(FALLING, step)
        optimizer.step()


def resumed(model: nn.Module, optimizer: OwnOptimizer, factory: Factory) -> Any:
    """Return model and optimiser as another process would restore them, by way of JSON."""
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    other = own_optimizer.build(fresh, factory, "mine")
    other.adopt(json.loads(json.dumps(optimizer.facts())))
    with torch.no_grad():
        saved = optimizer.tensors()
        live = other.tensors()
        assert list(saved) == list(live)
        for name, tensor in live.items():
            tensor.set_(torch.empty_like(saved[name]))  # type: ignore[call-overload]
            tensor.copy_(saved[name])
    return fresh, other


@pytest.mark.parametrize("name", FACTORIES)
def test_an_optimizer_goes_on_bit_for_bit_whatever_its_state_holds(name: str) -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES[name], "mine")
    # most make their state in the first step
    assert bool(optimizer.tensors()) is (name == "Adagrad")
    steps(model, optimizer, 0, 4)

    fresh, other = resumed(model, optimizer, FACTORIES[name])
    steps(model, optimizer, 4, 8)
    steps(fresh, other, 4, 8)
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)
    assert other.facts() == optimizer.facts()


def test_control_without_its_state_it_goes_elsewhere() -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES["hand-written"], "mine")
    steps(model, optimizer, 0, 4)
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    other = own_optimizer.build(fresh, FACTORIES["hand-written"], "mine")
    steps(model, optimizer, 4, 5)
    steps(fresh, other, 4, 5)
    assert not torch.equal(next(model.parameters()), next(fresh.parameters()))


def test_the_schedule_scales_the_rate_of_every_group() -> None:
    def two(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        matrices, vectors = ([p for p in params if (p.dim() > 1) == wide] for wide in (True, False))
        return torch.optim.SGD(
            [{"params": matrices, "lr": 0.4}, {"params": vectors, "lr": 0.02}], momentum=0.9
        )

    optimizer = own_optimizer.build(network(), two, "two")
    optimizer.follow(FALLING, 5)
    assert [g["lr"] for g in optimizer.parts[0].param_groups] == [0.2, 0.01]
    assert optimizer.lr == 0.2 and optimizer.formula == "0.4 and 0.02 of SGD from two"
    assert set(optimizer.parts[0].param_groups[0]) == set(
        two([*network().parameters()]).param_groups[0]
    )


def test_a_bad_step_leaves_no_trace_not_even_the_first() -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES["AdamW"], "mine")
    before = [p.clone() for p in model.parameters()]
    for param in model.parameters():
        param.grad = torch.full_like(param, float("nan"))
    optimizer.step(torch.tensor(False))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.tensors() == {}


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda params: 3, "returned int, not a torch.optim.Optimizer"),
        (
            lambda params: torch.optim.SGD(network().parameters(), lr=0.1),
            "not belong to the trained network",
        ),
    ],
)
def test_what_cannot_be_trained_with_is_named(factory: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own_optimizer.build(network(), factory, "mine")


def test_a_state_that_cannot_be_saved_is_named() -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES["SGD"], "mine")
    steps(model, optimizer, 0, 1)
    slots: dict[str, Any] = optimizer.parts[0].state[next(model.parameters())]
    slots["when"] = object()
    with pytest.raises(ConfigError, match=r"keeps a object as '0\.weight/when'"):
        optimizer.facts()


def test_a_damaged_state_is_refused() -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES["AdamW"], "mine")
    steps(model, optimizer, 0, 1)
    facts = optimizer.facts()
    facts["state"]["0.weight"]["dict"]["exp_avg"] = {"tensor": ["float31", [1], False]}
    with pytest.raises(CheckpointError, match="another optimiser, or is damaged"):
        own_optimizer.build(network(), FACTORIES["AdamW"], "mine").adopt(facts)


def test_the_step_count_lies_where_torch_looks_for_it() -> None:
    model = network()
    optimizer = own_optimizer.build(model, FACTORIES["AdamW"], "mine")
    steps(model, optimizer, 0, 1)
    form = optimizer.facts()["state"]["0.weight"]["dict"]
    assert form["step"] == {"tensor": ["float32", [], True]}
    assert form["exp_avg"] == {"tensor": ["float32", [4, 3, 3, 3], False]}
    first: Tensor = optimizer.tensors()["0.weight/exp_avg"]
    assert first.stride() == next(model.parameters()).stride()
