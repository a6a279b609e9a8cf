"""What the cells of a step make of a network's buffers, whatever kind these are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.errors import ConfigError, DivergedError
from saccade.objectives.classification import of_settings
from saccade.optim import optimizers
from saccade.optim.ema import Ema
from saccade.optim.schedule import Schedule
from saccade.training.guard import Guard
from saccade.training.state import State
from saccade.training.step import StepRunner

CPU = torch.device("cpu")
CELL, CELLS, SIDE = 4, 4, 6

STILL = {
    "causal": torch.ones(4, 4, dtype=torch.bool).tril(),
    "minus_infinity": torch.full((4, 4), -math.inf).triu(1),
    "unknown": torch.tensor([1.0, math.nan]),
    "byte_wide": torch.tensor([255, 200, 3], dtype=torch.uint8),
    "small": torch.tensor([-128, 127], dtype=torch.int8),
    "short_int": torch.tensor([32767, -32768], dtype=torch.int16),
    "unsigned": torch.tensor([65535, 1], dtype=torch.uint16),
    "large": torch.tensor(2**62 + 1),
    "float_half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
    "brain": torch.linspace(0.1, 300, 7, dtype=torch.bfloat16),
    "rotation": torch.tensor([1 + 2j, -3j], dtype=torch.complex64),
    "eighth": torch.tensor([0.5, 448.0]).to(torch.float8_e4m3fn),
    "running_idle": torch.tensor([0.1, 0.7, 1e-30]),
    "empty": torch.zeros(0, 3),
}
"""Buffers that no forward pass changes, each of a kind that adding up or dividing would spoil."""


class Odd(nn.Module):
    """A small network with buffers of every kind.

    ``replace`` sets new tensors instead of writing into the old ones.
    """

    def __init__(self, *, replace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 4)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(
                    torch.linspace(-0.3, 0.4 + number, parameter.numel()).view_as(parameter)
                )
        self.norm = nn.BatchNorm2d(4)
        self.coarse = nn.BatchNorm2d(4).to(torch.bfloat16)
        self.replace = replace
        for name, value in STILL.items():
            self.register_buffer(name, value.clone(), persistent=name != "unknown")
        self.register_buffer("running_peak", torch.tensor(0.0))
        self.register_buffer("queue", torch.zeros(CELL, 4))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("dark", torch.zeros(CELL, dtype=torch.bool))
        self.register_buffer("alias", self.queue)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        self.coarse(x.to(torch.bfloat16))
        features = x.relu().mean((2, 3))
        if self.training:
            peak = 0.5 * self.running_peak + 0.5 * features.detach().max()
            if self.replace:
                self.running_peak, self.queue = peak, features  # not detached, as people write it
                self.seen, self.dark = self.seen + len(x), features.detach().sum(1) < 0.9
            else:
                self.running_peak.copy_(peak)
                self.queue.copy_(features.detach())
                self.seen += len(x)
                torch.lt(features.detach().sum(1), 0.9, out=self.dark)
        return self.fc(features)


def make(model: nn.Module, cells: int = CELLS, **settings: Any) -> tuple[State, StepRunner]:
    layers = Layers()
    values = {"batch.global": cells * CELL, "batch.cell": CELL, "optimizer.lr": 0.1} | settings
    for name, value in values.items():
        layers.set(f"{name}={value}")
    config = layers.resolve()
    state = State(model, optimizers.build(model, config, CPU), Ema(model, 3.0))
    return state, StepRunner(
        config=config,
        schedule=Schedule("constant", 100, 0, 1.0),
        precision="fp32",
        device=CPU,
        guard=Guard("lr"),
        objective=of_settings(config),
    )


def batch(cells: int = CELLS, first: int = 0) -> Batch:
    draws = np.random.default_rng(7).integers(0, 256, (CELLS * CELL, 3, SIDE, SIDE), dtype=np.uint8)
    numbers = np.arange(first * CELL, (first + cells) * CELL)
    return Batch(
        torch.from_numpy(draws[numbers]), torch.from_numpy(numbers % 4), numbers, numbers * 0
    )


def each_cell_alone(*, replace: bool = False) -> list[dict[str, Tensor]]:
    """Return the buffers after a step on each cell of the batch, every one from the same start."""
    found = []
    for cell in range(CELLS):
        state, runner = make(Odd(replace=replace), cells=1)
        runner.step(state, batch(1, first=cell))
        found.append({name: buffer.clone() for name, buffer in state.model.named_buffers()})
    return found


def filling(name: str, value: float) -> Any:
    """Return a hook that fills a buffer of its module."""

    def fill(module: nn.Module, _inputs: object) -> None:
        module.get_buffer(name).fill_(value)

    return fill


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("replace", [False, True])
def test_every_kind_of_buffer_is_right_after_a_step_of_several_cells(replace: bool) -> None:
    state, runner = make(Odd(replace=replace))
    known = dict(state.model.named_buffers())
    runner.step(state, batch())
    after, alone = dict(state.model.named_buffers()), each_cell_alone(replace=replace)
    for name, value in STILL.items():
        assert bits(after[name]) == bits(value), f"{name}: what no cell changed keeps its bits"
    for name in (
        "norm.running_mean",
        "norm.running_var",
        "coarse.running_mean",
        "coarse.running_var",
        "running_peak",
    ):
        mean = torch.stack([one[name].double() for one in alone]).mean(0)
        step = torch.finfo(after[name].dtype).eps
        torch.testing.assert_close(after[name].double(), mean, rtol=step, atol=step / 100, msg=name)
        if name != "coarse.running_var":  # it moves by less than bf16 can say
            assert any(not torch.equal(one[name], alone[0][name]) for one in alone[1:]), name
    assert int(after["norm.num_batches_tracked"]) == 1 and int(after["seen"]) == CELL, (
        "counters advance once"
    )
    for name in ("queue", "dark"):
        assert torch.equal(after[name], alone[-1][name]) and not torch.equal(
            after[name], alone[0][name]
        ), name
    assert state.model.alias is known["queue"]
    assert all(after[name] is buffer for name, buffer in known.items()), (
        "average and checkpoint hold on to these"
    )
    assert not any(buffer.requires_grad for buffer in after.values())


def test_a_statistic_that_no_cell_changed_keeps_its_bits_where_a_mean_would_not() -> None:
    model = Odd()
    model.running_idle = torch.linspace(0.1, 1, 100)
    before = model.running_idle.clone()
    assert not torch.equal((before + before + before) / 3, before), "or this shows nothing"
    state, runner = make(model, cells=3)
    runner.step(state, batch(3))
    assert torch.equal(model.running_idle, before)


def test_half_precision_statistics_are_added_up_in_float32() -> None:
    model = Odd()
    model.register_buffer("running_wide", torch.tensor(1.0, dtype=torch.float16))
    model.register_forward_pre_hook(filling("running_wide", 40000.0))
    state, runner = make(model)
    runner.step(state, batch())
    assert float(model.running_wide) == 40000.0, "four of them are beyond float16"


def test_the_average_follows_statistics_and_takes_the_rest_as_it_is() -> None:
    state, runner = make(Odd())
    for _ in range(3):
        runner.step(state, batch())
    raw, slow = dict(state.model.named_buffers()), dict(state.ema.model.named_buffers())
    for name in (*STILL, "queue", "seen", "dark", "norm.num_batches_tracked"):
        assert bits(slow[name]) == bits(raw[name]), name
    assert not torch.equal(slow["norm.running_mean"], raw["norm.running_mean"])


def test_a_bad_step_leaves_no_trace_in_any_buffer() -> None:
    state, runner = make(Odd())
    runner.step(state, batch())
    before = {name: bits(buffer) for name, buffer in state.model.named_buffers()}
    hook = state.model.conv.register_forward_hook(lambda *a: a[2] * float("nan"))
    with pytest.raises(DivergedError):
        runner.step(state, batch())
    hook.remove()
    assert {name: bits(buffer) for name, buffer in state.model.named_buffers()} == before


def test_a_statistic_that_overflows_makes_a_bad_step() -> None:
    model = Odd()
    model.norm.register_forward_pre_hook(filling("running_var", math.inf))
    state, runner = make(model)
    with pytest.raises(DivergedError):
        runner.step(state, batch())


def test_a_buffer_that_changes_its_shape_is_refused_by_name() -> None:
    class Grows(Odd):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            self.queue = torch.cat([self.queue, self.queue])
            return out

    state, runner = make(Grows())
    with pytest.raises(
        ConfigError, match=r"buffer 'queue' from float32\[4, 4\] to float32\[8, 4\]"
    ):
        runner.step(state, batch())
