"""One optimiser step: cells, BatchNorm, the guard; optimisers, schedule and average."""

from __future__ import annotations

import copy
import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.errors import ConfigError, DivergedError
from saccade.models import create_model
from saccade.optim import optimizers
from saccade.optim.ema import Ema
from saccade.optim.muon import orthogonalise
from saccade.optim.schedule import Schedule
from saccade.setup.steps import make_step
from saccade.training.state import State
from saccade.training.step import StepRunner, draw_drop_path

CPU = torch.device("cpu")


def make(cell: int, batch: int = 16, **settings: Any) -> tuple[State, StepRunner]:
    layers = Layers()
    given = {"schedule__warmup": "0step", "schedule__name": "constant", "ema__half_life": "3step"}
    given |= {"device": "cpu", "precision": "fp32", "batch__global": batch, "batch__cell": cell}
    for name, value in (given | settings).items():
        layers.set(f"{name.replace('__', '.')}={value}")
    model = create_model("resnet8", num_classes=4, image_size=16, seed=5)
    return make_step(layers.resolve(), model)


def batch(images: int = 16, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, 16, 16), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    numbers = np.arange(images)
    return Batch(pixels, torch.arange(images) % 4, numbers, numbers * 0)


def test_buffers_are_the_mean_over_the_cells_and_move_once() -> None:
    state, runner = make(8)
    whole = batch()
    runner.step(state, whole)
    means = []
    for part in (slice(0, 8), slice(8, 16)):
        alone, one = make(8, batch=8)
        one.step(
            alone,
            Batch(whole.images[part], whole.labels[part], whole.samples[part], whole.epochs[part]),
        )
        means.append(alone.model.get_buffer("bn1.running_mean").clone())
    torch.testing.assert_close(
        state.model.get_buffer("bn1.running_mean"), (means[0] + means[1]) / 2
    )
    assert not torch.equal(means[0], means[1])
    assert int(state.model.get_buffer("bn1.num_batches_tracked")) == 1


class NoNorm(nn.Module):
    """A network without BatchNorm, whose step may not depend on how the batch is cut into cells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.spec(28)
def test_without_batchnorm_cells_only_change_the_order_of_summation() -> None:
    weights = []
    for cell in (16, 8, 4):
        _, runner = make(cell, optimizer__lr=0.1)
        model = NoNorm()
        state = State(model, optimizers.build(model, runner.config, CPU), None)
        for seed in range(3):
            runner.step(state, batch(seed=seed))
        weights.append(model.conv.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("poison", ["weight", "lr"])
def test_a_step_that_is_not_finite_leaves_no_trace(poison: str) -> None:
    state, runner = make(8)
    runner.step(state, batch())
    hook = None
    # NaN appears in the forward pass and reaches BatchNorm's buffers before any gradient
    if poison == "weight":
        hook = state.model.get_submodule("conv1").register_forward_hook(
            lambda *a: a[2] * float("nan")
        )
    else:  # finite loss, infinite gradient
        hook = state.model.get_submodule("fc").register_full_backward_hook(
            lambda *a: tuple(g * math.inf for g in a[1])
        )
    before = state.digest()
    with pytest.raises(DivergedError, match="step 1"):
        runner.step(state, batch(seed=1))
    assert state.digest() == before
    hook.remove()
    state.model.zero_grad()
    runner.step(state, batch(seed=1))
    assert state.digest() != before and state.step == 2


@pytest.mark.parametrize("cell", [1, 2])
def test_a_step_that_an_error_breaks_off_leaves_a_state_that_can_be_saved(cell: int) -> None:
    state, runner = make(8)
    runner.step(state, batch())
    before, seen = state.digest(), []

    def fail(*_: Any) -> None:
        seen.append(1)
        if len(seen) == cell:
            raise OSError("a rank is lost")

    # batch statistics have moved by then
    hook = state.model.get_submodule("fc").register_forward_hook(fail)
    with pytest.raises(OSError, match="lost"):
        runner.step(state, batch(seed=1))
    assert (state.digest(), state.whole, state.step) == (before, True, 1)
    hook.remove()
    runner.step(state, batch(seed=1))
    assert state.digest() != before


def test_optimiser_state_exists_from_the_start_in_the_layout_of_its_parameter() -> None:
    for name in ("sgd", "adamw", "muon"):
        state, runner = make(8, optimizer__name=name)
        at_start = {n: t.stride() for n, t in state.optimizers.tensors().items()}
        runner.step(state, batch())
        after = {n: t.stride() for n, t in state.optimizers.tensors().items()}
        assert at_start == after and len(at_start) >= len(list(state.model.parameters()))
        weight = state.model.get_parameter("conv1.weight")
        assert all(
            t.stride() == weight.stride()
            for n, t in state.optimizers.tensors().items()
            if n.startswith("conv1.weight/") and t.dim() == 4
        )


def test_norms_and_biases_are_not_decayed() -> None:
    state, _ = make(8, optimizer__weight_decay=0.1)
    for part in state.optimizers.parts:
        for group in part.param_groups:
            for param in group["params"]:
                assert (group["weight_decay"] > 0) == (param.dim() > 1)


@pytest.mark.parametrize("shape", [(64, 64), (32, 288), (256, 64)])
def test_a_muon_update_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    update = orthogonalise([torch.randn(shape)])[0].float()
    values = torch.linalg.svdvals(update)
    assert float(values.max()) < 1.4 and 0.6 < float(values.median()) < 1.3
    assert update.shape == shape


def test_schedules_rise_and_fall_where_they_should() -> None:
    cosine = Schedule("cosine", 100, 10, 0.0)
    factors = [cosine.factor(s) for s in range(100)]
    assert factors[0] == 0.1 and factors[9] == 1.0 == max(factors)
    assert factors[55] == pytest.approx(0.5) and 0 < factors[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))
    linear = Schedule("linear", 100, 0, 0.2)
    assert linear.factor(0) == 1.0 and linear.factor(50) == pytest.approx(0.6)
    assert Schedule("constant", 10, 0, 0.0).factor(9) == 1.0


def test_the_average_has_the_half_life_it_promises() -> None:
    model = nn.BatchNorm1d(1)
    ema = Ema(model, half_life_steps=50.0)
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.running_mean.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    for step in range(1000, 1050):
        ema.update(step)
    assert float(ema.model.weight) == pytest.approx(0.5, abs=1e-3)
    assert float(ema.model.running_mean) == pytest.approx(0.5, abs=1e-3), (
        "floating buffers are averaged, too"
    )
    assert int(ema.model.num_batches_tracked) == 7


def test_drop_path_masks_depend_on_step_and_cell_alone() -> None:
    model = create_model("resnet14", num_classes=4, image_size=16, drop_path=0.5)
    last = model.get_submodule("layer3.1.drop_path")
    masks = []
    for step, cell in ((0, 0), (0, 1), (1, 0), (0, 0)):
        draw_drop_path([last], 64, CPU, seed=0, step=step, cell=cell)
        masks.append(last.keep.clone())
    assert torch.equal(masks[0], masks[3]) and not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert set(masks[0].tolist()) == {0.0, 2.0}


def test_the_time_of_a_step_is_split_into_its_phases() -> None:
    state, runner = make(8)
    begun = time.perf_counter()
    runner.step(state, batch())
    runner.step(state, batch(seed=1))
    whole, spent = time.perf_counter() - begun, runner.clock.read()
    assert (
        0 < spent["optimiser"] < spent["forward_backward"] < whole and spent["communication"] >= 0
    )
    assert sum(spent.values()) <= whole
    assert sum(runner.clock.read().values()) == 0


def test_a_step_made_by_hand_is_that_of_a_run() -> None:
    """Settings decide all of it: optimiser, schedule, average, precision; plain torch agrees."""
    plain = {"optimizer__momentum": 0, "optimizer__weight_decay": 0, "loss__label_smoothing": 0}
    state, runner = make(16, optimizer__lr=0.1, **plain)
    assert state.model.training and state.ema is not None and runner.precision == "fp32"
    assert runner.schedule.factor(0) == runner.schedule.factor(1000) == 1
    with pytest.raises(ConfigError, match="has no cuda"):
        make(16, device="cuda" if not torch.cuda.is_available() else "mps")

    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    other = copy.deepcopy(state.model)
    whole = batch()
    runner.step(state, whole)

    pixels = whole.images.float() / 255
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (runner.config.data.mean, runner.config.data.std)
    )
    nn.functional.cross_entropy(other((pixels - mean) / std), whole.labels).backward()
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None
        update = before[name] - state.model.get_parameter(name).detach()
        wanted = 0.1 * parameter.grad
        assert (update - wanted).norm() <= 0.01 * wanted.norm(), name
