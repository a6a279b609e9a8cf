"""What holds on a GPU: the host never waits, bad steps leave no trace, the numbers are those of
the CPU.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.device import determinism
from saccade.device.async_scalar import Late
from saccade.device.compile import compile_in_place
from saccade.device.loss_scale import LossScale
from saccade.device.step_timer import Clock
from saccade.errors import DivergedError
from saccade.models import create_model
from saccade.objectives.classification import of_settings
from saccade.optim import optimizers
from saccade.optim.ema import Ema
from saccade.optim.methods import METHODS
from saccade.optim.schedule import Schedule
from saccade.training.guard import Guard
from saccade.training.loss_spike import LossRecord
from saccade.training.state import State
from saccade.training.step import StepRunner

if not torch.cuda.is_available():
    pytest.skip(
        "there is no GPU, or it is hidden: `make test-gpu` looks for one", allow_module_level=True
    )

GPU, CPU = torch.device("cuda"), torch.device("cpu")
EVERYTHING = {
    "augment__mixup": 0.4,
    "augment__cutmix": 1.0,
    "augment__erase": 0.5,
    "augment__erase_fill": "noise",
    "loss__label_smoothing": 0.1,
    "optimizer__clip": 1.0,
}


def make(
    model: str = "resnet8",
    precision: str = "bf16",
    device: torch.device = GPU,
    batch: int = 16,
    side: int = 16,
    drop_path: float = 0.0,
    **settings: Any,
) -> tuple[State, StepRunner]:
    layers = Layers()
    for name, value in {"batch__global": batch, "batch__cell": batch // 2, **settings}.items():
        layers.set(f"{name.replace('__', '.')}={value}")
    config = layers.resolve()
    if device == GPU:
        determinism.switch_on()
    network = create_model(model, num_classes=4, image_size=side, drop_path=drop_path, seed=5)
    network = network.to(device).to(memory_format=torch.channels_last)
    scale = LossScale(device) if precision == "fp16" else None
    losses = LossRecord(4.0, device)
    state = State(
        network,
        optimizers.build(network, config, device),
        Ema(network, 3.0),
        scale=scale,
        losses=losses,
    )
    schedule = Schedule("constant", 100, 0, 1.0)
    return state, StepRunner(
        config=config,
        schedule=schedule,
        precision=precision,
        device=device,
        guard=Guard("lr"),
        clock=Clock(device),
        objective=of_settings(config),
    )


def images(count: int = 16, side: int = 16, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draws)
    numbers = np.arange(count)
    pixels = pixels.contiguous(memory_format=torch.channels_last).pin_memory()
    return Batch(pixels, torch.arange(count) % 4, numbers, numbers * 0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("model", ["resnet8", "vit_ti_16"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimiser", METHODS)
def test_the_host_never_waits_for_the_gpu_in_a_step(
    model: str, precision: str, optimiser: str
) -> None:
    state, runner = make(
        model,
        precision,
        side=32,
        drop_path=0.1,
        optimizer__name=optimiser,
        optimizer__lr=1e-4,
        **EVERYTHING,
    )
    batches = [images(side=32, seed=seed) for seed in range(6)]
    runner.step(state, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            runner.step(state, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    runner.guard.settle()
    assert state.step == 6 and state.skipped == []


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("optimiser", METHODS)
@pytest.mark.parametrize("poison", ["forward", "gradient"])
def test_a_bad_step_leaves_no_trace(optimiser: str, precision: str, poison: str) -> None:
    state, runner = make(precision=precision, optimizer__name=optimiser, optimizer__lr=1e-3)
    for seed in range(2):
        runner.step(state, images(seed=seed))
    layer = state.model.get_submodule("conv1" if poison == "forward" else "fc")
    if poison == "forward":
        hook = layer.register_forward_hook(lambda *a: a[2] * float("nan"))
    else:
        hook = layer.register_full_backward_hook(lambda *a: tuple(g * float("inf") for g in a[1]))
    before = state.digest()
    runner.step(state, images(seed=2))
    assert state.digest() == before
    with pytest.raises(DivergedError, match="step 2"):
        runner.guard.settle()
    hook.remove()
    runner.step(state, images(seed=2))
    assert state.digest() != before


@pytest.mark.parametrize("optimiser", METHODS)
def test_the_same_steps_give_the_same_bits(optimiser: str) -> None:
    digests = []
    for _ in range(2):
        state, runner = make(
            side=32, drop_path=0.1, optimizer__name=optimiser, optimizer__lr=1e-3, **EVERYTHING
        )
        for seed in range(5):
            runner.step(state, images(side=32, seed=seed))
        digests.append(state.digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "lamb"])
def test_gpu_and_cpu_take_the_same_steps(optimiser: str) -> None:
    ends = []
    for device in (GPU, CPU):
        state, runner = make(
            precision="fp32", device=device, optimizer__name=optimiser, optimizer__lr=1e-3
        )
        losses = [float(runner.step(state, images(seed=seed))) for seed in range(3)]
        ends.append((losses, [p.detach().cpu() for p in state.model.parameters()]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-3)
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-3)


def test_a_number_is_read_late_without_waiting_for_later_work() -> None:
    value = torch.full((), 3.0, device=GPU)
    late = Late(value)
    heavy = torch.randn(8192, 8192, device=GPU)
    value.fill_(4.0)
    for _ in range(20):
        heavy @ heavy
    begun = time.perf_counter()
    assert late.read() == 3.0
    read_s = time.perf_counter() - begun
    torch.cuda.synchronize()
    assert read_s < (time.perf_counter() - begun) / 2


def test_the_time_of_a_step_is_split_into_its_phases() -> None:
    state, runner = make()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for seed in range(4):
        runner.step(state, images(seed=seed))
    torch.cuda.synchronize()
    whole, spent = time.perf_counter() - begun, runner.clock.read()
    assert min(spent["forward_backward"], spent["optimiser"]) > 0
    assert sum(spent.values()) <= whole


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method:DeprecationWarning", "ignore:TensorFloat32 tensor cores"
)
def test_a_compiled_network_takes_the_same_steps() -> None:
    ends = []
    for compiled in (False, True):
        state, runner = make("resnet14", precision="fp32", side=32)
        if compiled:
            compile_in_place(state.model)
        losses = [float(runner.step(state, images(side=32, seed=seed))) for seed in range(3)]
        ends.append(losses)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-3)


class Enlarging(nn.Module):
    """A network with an operation whose gradient has no kernel that repeats itself."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(
            nn.functional.interpolate(self.conv(x), scale_factor=2, mode="bicubic")
            .relu()
            .mean((2, 3))
        )


@pytest.mark.filterwarnings("ignore:upsample_bicubic2d_backward")
def test_an_operation_that_cannot_repeat_itself_is_told(tmp_path: Path) -> None:
    outcome = saccade.train(model=Enlarging(10), epochs="2step", out=str(tmp_path / "run"))
    record = json.loads((outcome.folder / "run.json").read_text(encoding="utf-8"))
    assert "upsample_bicubic2d_backward" in record["resolved"]["deterministic"]["reason"]
    assert "not-deterministic" in {finding["id"] for finding in record["findings"]}


def test_memory_that_runs_out_is_recognised() -> None:
    from saccade.preflight.out_of_memory import is_out_of_memory

    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, device=GPU)
    assert is_out_of_memory(caught.value)
