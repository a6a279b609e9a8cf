"""Images a second of a training step on a GPU with synthetic images: Saccade's step and timm's, in
turn.

    python bench/gpu.py [--model resnet50] [--batch 256] [--side 224] [--rounds 5] [--steps 20]
    [--compile] [--profile]

Both take uint8 images from pinned memory, normalise them on the GPU, and end with updated weights:
SGD with Nesterov momentum, label smoothing 0.1, bfloat16. Ours is the program's own step
(`StepRunner`), as it runs by default, which includes the guard against bad numbers and
deterministic kernels, and once without the latter. timm's is its model, its optimiser factory and
its `PrefetchLoader`, in the order of its training script; with its defaults (float32, the usual
layout) and with its best flags (bfloat16, channels_last). All run in one process, ``--rounds``
times in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import timm
import timm.data.loader
import timm.loss
import timm.optim
import torch
from torch import Tensor, nn

from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.device import determinism
from saccade.device.compile import compile_in_place
from saccade.device.mfu import mfu
from saccade.models import create_model, meta_model
from saccade.models.parts.cost import cost
from saccade.setup.steps import make_step

GPU = torch.device("cuda")
HELD = 4
"""Different batches, used in turn."""

Steps = Callable[[int], None]


def batches(batch: int, side: int, layout: torch.memory_format) -> list[Batch]:
    """Return random images and labels in pinned memory, laid out as the loader does it."""
    numbers = np.arange(batch)
    held = []
    for _ in range(HELD):
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
        pixels = pixels.contiguous(memory_format=layout).pin_memory()
        held.append(Batch(pixels, torch.randint(0, 1000, (batch,)), numbers, numbers * 0))
    return held


def ours(
    model: str, batch: int, side: int, *, exact: bool = True, compiled: bool = False, cell: int = 0
) -> Steps:
    """Return what takes so many of our steps."""
    layers = Layers()
    for setting in (
        f"batch.global={batch}",
        f"batch.cell={cell or batch}",
        f"data.image_size={side}",
        "loss.label_smoothing=0.1",
        "optimizer.name=sgd",
        "optimizer.nesterov=true",
        "schedule.warmup=0step",
        "schedule.name=constant",
        "device=cuda",
        "precision=bf16",
    ):
        layers.set(setting)
    network = create_model(model, num_classes=1000, image_size=side, seed=0)
    if compiled:
        compile_in_place(network)
    state, stepper = make_step(layers.resolve(), network)
    held = batches(batch, side, torch.channels_last)

    def run(steps: int) -> None:
        determinism.switch_on()
        torch.use_deterministic_algorithms(exact)
        for step in range(steps):
            stepper.step(state, held[step % HELD])
        stepper.guard.settle()
        stepper.clock.read()

    return run


def timms(model: str, batch: int, side: int, *, best: bool, compiled: bool = False) -> Steps:
    """Return what takes so many of timm's steps."""
    layout = torch.channels_last if best else torch.contiguous_format
    network: nn.Module = (
        timm.create_model(model, num_classes=1000).to(GPU, memory_format=layout).train()
    )
    optimizer = timm.optim.create_optimizer_v2(
        network, opt="sgd", lr=0.1, momentum=0.9, weight_decay=5e-5
    )
    if compiled:
        network = torch.compile(network)
    criterion = timm.loss.LabelSmoothingCrossEntropy(0.1).to(GPU)
    held = batches(batch, side, torch.contiguous_format)

    def reader(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(steps):
            yield held[step % HELD].images, held[step % HELD].labels

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return reader(self.steps)

    def run(steps: int) -> None:
        torch.use_deterministic_algorithms(False)
        loader = Loader()
        loader.steps = steps
        for images, labels in timm.data.loader.PrefetchLoader(loader, device=GPU):
            with torch.autocast("cuda", torch.bfloat16, enabled=best):
                loss = criterion(network(images.contiguous(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def seconds(run: Steps, steps: int) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run(steps)
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def profile(run: Steps) -> None:
    """Print which kernels take the time of ten steps, and how long the host is busy."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as seen:
        run(10)
        torch.cuda.synchronize()
    print(
        seen.key_averages().table(
            sort_by="self_device_time_total", row_limit=30, max_name_column_width=90
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()

    what = given.model, given.batch, given.side
    jobs = {
        "saccade": ours(*what),
        "saccade, cells of 128": ours(*what, cell=128),
        "saccade, any kernels": ours(*what, exact=False),
        "timm, best flags": timms(*what, best=True),
        "timm, defaults": timms(*what, best=False),
    }
    if given.compile:
        jobs["saccade, compiled"] = ours(*what, compiled=True)
        jobs["timm, best flags, compiled"] = timms(*what, best=True, compiled=True)

    for name, run in jobs.items():
        print(f"{name:28} first 3 steps {seconds(run, 3):6.1f} s", flush=True)

    # In turn, so that a clock that slows down slows all of them.
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(given.rounds):
        for name, run in jobs.items():
            found[name].append(given.steps * given.batch / seconds(run, given.steps))

    gpu = torch.cuda.get_device_name()
    macs = cost(meta_model(given.model, num_classes=1000, image_size=given.side), given.side).macs
    base = statistics.median(found["timm, best flags"])
    print(
        f"{gpu}, torch {torch.__version__}, {given.model} at {given.side} px, batch "
        f"{given.batch}, n = {given.rounds}"
    )

    print(f"{'':28} {'img/s':>7} {'spread':>13} {'x timm best':>12} {'MFU':>6}")
    for name, speeds in found.items():
        middle = statistics.median(speeds)
        share = mfu(macs, middle, [gpu]) or 0.0
        print(
            f"{name:28} {middle:7.0f} {min(speeds):6.0f}-{max(speeds):<6.0f} "
            f"{middle / base:12.2f} {share:6.1%}",
            flush=True,
        )
    if given.profile:
        profile(jobs["saccade"])


if __name__ == "__main__":
    main()
