"""Runs a few steps on real ranks: started once per rank by the tests, with torchrun's variables
set.

    python gang.py RESULT.json

The first rank writes what every rank saw. The models, batches and splits are those that the tests
compute on their own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_buffers import Odd

from saccade.config.layers import Layers
from saccade.config.schema import GuardSection
from saccade.data.loader import Batch
from saccade.data.order import RankSlice
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source
from saccade.distributed import sync_batchnorm
from saccade.distributed import world as dist
from saccade.distributed.world import ALONE, World
from saccade.errors import DivergedError, PreemptedError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.evaluator import evaluate
from saccade.models import create_model
from saccade.setup.steps import make_step
from saccade.training.guard import Guard
from saccade.training.state import State
from saccade.training.step import StepRunner
from saccade.training.stop import Stop

CPU = torch.device("cpu")
IMAGES, CELL, STEPS = 24, 4, 3
KINDS = {
    "sgd fp32": ("sgd", "fp32"),
    "muon bf16": ("muon", "bf16"),
    "adamw fp32": ("adamw", "fp32"),
    "odd buffers": ("sgd", "fp32"),
    "multi-label": ("sgd", "fp32"),
}
SIZES = (1, 7, 511)


def make(kind: str, world: World, cells: int) -> tuple[State, StepRunner]:
    """Return a net with BatchNorm, mixup, dropout (or odd buffers) and an average, and what
    steps it.
    """
    name, precision = KINDS[kind]
    layers = Layers()
    for setting in (
        f"batch.global={cells * CELL}",
        f"batch.cell={CELL}",
        f"optimizer.name={name}",
        "augment.mixup=0.4",
        "schedule.warmup=0step",
        "schedule.name=constant",
        "ema.half_life=3step",
        "device=cpu",
        f"precision={precision}",
    ):
        layers.set(setting)
    config = layers.resolve()
    if kind == "odd buffers":
        model: torch.nn.Module = Odd()
    else:
        model = create_model(
            "resnet8", num_classes=4, image_size=16, seed=5, dropout=0.1, drop_path=0.1
        )
    return make_step(config, model, world=world)


def batch(step: int, world: World, cells: int) -> Batch:
    """Return the rank's part of a batch that is the same for any number of ranks."""
    draws = np.random.default_rng(step).integers(0, 256, (cells * CELL, 3, 16, 16), dtype=np.uint8)
    mine = RankSlice(CELL, world.rank, world.size).places(cells * CELL)
    pixels = torch.from_numpy(draws[mine]).contiguous(memory_format=torch.channels_last)
    return Batch(pixels, torch.from_numpy(mine % 4), mine, mine * 0)


def digest(kind: str, world: World, cells: int) -> str:
    """Return the digest of weights, buffers, average and optimiser after a few steps."""
    state, runner = make(kind, world, cells)
    for step in range(STEPS):
        runner.step(state, batch(step, world, cells))
    return state.digest()


def figures(num_images: int, world: World) -> dict[str, Any]:
    """Return the evaluation of an untrained net on so many of the built-in digits."""
    split: Split = open_source("digits").splits["train"]
    split = split.subset(np.arange(num_images), "some")
    model = create_model("resnet8", num_classes=10, image_size=16, seed=5).eval()
    recipe = Recipe("resnet8", split.classes, 16, 1.0, (0.5,) * 3, (0.5,) * 3, "ignore")
    readers = Readers(1)
    result = evaluate(Classifier(model, recipe), split, readers, "fp32", CPU, lambda _: None, world)
    readers.close()
    assert len(result.logits) == (num_images if world.leads else 0)
    return result.to_json()


def diverged(world: World) -> str:
    """Return what a rank raises when the batch of the last rank makes its loss infinite."""
    state, runner = make("sgd fp32", world, 2 * world.size)
    before = state.digest()
    poison = batch(0, world, 2 * world.size)
    if world.rank == world.size - 1:
        state.model.get_submodule("fc").register_full_backward_hook(
            lambda *a: tuple(g * float("inf") for g in a[1])
        )
    try:
        runner.step(state, poison)
    except DivergedError as error:
        return error.what if state.digest() == before else "a trace was left"
    return "nothing"


def skipped(world: World) -> bool:
    """Tell whether a step that was bad on the last rank alone is, on this one, as if it had
    never been.
    """
    digests = []
    for plants in (True, False):
        state, runner = make("adamw fp32", world, 2 * world.size)
        runner = replace(runner, guard=Guard("lr", GuardSection(bad_steps="skip")))
        for step in range(STEPS):
            if step == 1 and not plants:
                state.step += 1
                continue
            layer, hook = state.model.get_submodule("conv1"), None
            if step == 1 and world.rank == world.size - 1:
                hook = layer.register_forward_hook(lambda *a: a[2] * float("nan"))
            runner.step(state, batch(step, world, 2 * world.size))
            if hook:
                hook.remove()
        assert state.skipped == [1] * plants
        digests.append(state.digest())
    return digests[0] == digests[1]


def synced(world: World) -> dict[str, list[float]]:
    """Return output, gradients and buffers of a norm that sees this rank's part of 8 images with
    all the others.
    """
    draws = torch.Generator().manual_seed(3)
    whole, slopes = (
        torch.randn(8, 3, 5, 5, generator=draws) * 4 + 7,
        torch.randn(8, 3, 5, 5, generator=draws),
    )
    mine = slice(8 // world.size * world.rank, 8 // world.size * (world.rank + 1))
    norm = torch.nn.BatchNorm2d(3)
    sync_batchnorm.convert(norm, world)
    images = whole[mine].clone().requires_grad_()
    out = norm(images)
    (out * slopes[mine]).sum().backward()
    parts = [out.detach(), images.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]
    return {str(n): part.flatten().tolist() for n, part in enumerate(parts) if part is not None}


def stopped(world: World) -> str:
    """Return what a rank raises when only the last one gets SIGTERM."""
    with Stop(world) as stop:
        stop.begin()
        stop.check()
        if world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            stop.check()
        except PreemptedError as error:
            return error.what
    return "nothing"


def main(out: Path) -> None:
    """Do everything on this rank and let the first one write what all of them saw."""
    torch.set_num_threads(1)
    with dist.joined(60) as world:
        world.connect(CPU, 30)
        seen: dict[str, Any] = {kind: digest(kind, world, 2) for kind in KINDS if world.size == 2}
        seen |= {"more cells": digest("sgd fp32", world, 2 * world.size)}
        seen |= {str(n): figures(n, world) for n in SIZES}
        seen |= {"diverged": diverged(world), "stopped": stopped(world), "skipped": skipped(world)}
        seen |= {"synced": synced(world)}
        tensor = torch.full((2, 3, 2, 2), float(world.rank)).contiguous(
            memory_format=torch.channels_last
        )
        world.copy_from_first_([tensor, ints := torch.tensor([world.rank])])
        seen |= {
            "copied": float(tensor.abs().sum() + ints.sum()),
            "highest": world.highest(10 * world.rank),
        }
        everyone = world.exchange(seen)
        if world.leads:
            out.write_text(json.dumps(everyone))


if __name__ == "__main__":
    assert ALONE.size == 1
    main(Path(sys.argv[1]))
