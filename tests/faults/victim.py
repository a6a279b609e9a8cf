"""Runs the real command line with a fault planted in it.

Started as a process of its own by the fault tests.

    python victim.py [--stage NAME --count K] [--evaluation K] [--sabotage
    position|optimizer|layout]
                     [--nan STEP ...] [--leave-out STEP ...] [--burst STEP ...] [--other-images
                     STEP] -- train ...

``--stage`` kills the process (SIGKILL, by itself) when the K-th checkpoint reaches a stage of being
published; ``--evaluation`` kills it in the middle of the K-th evaluation; ``--sabotage`` breaks the
resume on purpose, for the controls that must turn red. ``--nan`` makes one image of the second cell
of these steps NaN, which is a cell of the second rank where there are two; ``--leave-out`` jumps
over steps. ``--burst`` gives every image of these steps another class with great certainty, as a
run of wrong labels does to a trained network; ``--other-images`` mirrors the images of one step,
the smallest mistake in the data that a control must see.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

import torch

from saccade import files
from saccade.cli import main as cli
from saccade.data.order import Order
from saccade.objectives.classification import Classification
from saccade.runs import resuming
from saccade.training import judging, loop, step

BROKEN_LOADER_AT = 20
"""The batch at which ``--loader`` strikes."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_stage(name: str, count: int) -> None:
    seen = 0

    def hook(stage: str) -> None:
        nonlocal seen
        seen += stage == name
        if seen == count and stage == name:
            die()

    files.stage = hook


def kill_in_evaluation(count: int) -> None:
    real = judging.evaluate
    seen = 0

    def evaluate(*arguments: Any, poll: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1

        def deadly(done: int) -> None:
            poll(done)
            if seen == count:
                die()

        return real(*arguments, poll=deadly, **named)

    judging.evaluate = evaluate


def sabotage(kind: str) -> None:
    """Break one part of the resume: these are the mistakes that other trainers make."""
    real = resuming.resume

    def resume(run: Any, saved: Any, *rest: Any, **more: Any) -> None:
        fresh = {name: tensor.clone() for name, tensor in run.state.optimizers.tensors().items()}
        real(run, saved, *rest, **more)
        if kind == "position":
            lost = run.state.step * run.plan.global_batch % len(run.plan.data.train)
            at = Order.at
            Order.at = lambda self, start, stop: at(self, start - lost, stop - lost)
        elif kind == "optimizer":
            for name, tensor in run.state.optimizers.tensors().items():
                tensor.copy_(fresh[name])
        else:
            for part in run.state.optimizers.parts:
                for slots in part.state.values():
                    slots["momentum_buffer"] = slots["momentum_buffer"].contiguous()

    resuming.resume = resume


def plant_nan(steps: list[int]) -> None:
    real = Classification.prepare

    def prepare(self: Any, cell: Any) -> Any:
        inputs, targets = real(self, cell)
        if cell.step in steps and cell.number == 1:
            inputs[3] = float("nan")
        return inputs, targets

    Classification.prepare = prepare


def break_loader(kind: str) -> None:
    real = loop.batches

    def batches(*arguments: Any, **more: Any) -> Any:
        for number, batch in enumerate(real(*arguments, **more)):
            if number == BROKEN_LOADER_AT and kind == "bug":
                raise RuntimeError("the loader broke")
            if number == BROKEN_LOADER_AT:
                return
            yield batch

    loop.batches = batches


def leave_out(steps: list[int]) -> None:
    real = step.StepRunner.step

    def run(self: Any, state: Any, batch: Any) -> Any:
        if state.step not in steps:
            return real(self, state, batch)
        state.step += 1
        return torch.zeros(())

    step.StepRunner.step = run


def plant_burst(steps: list[int]) -> None:
    real = step.StepRunner._forward

    def forward(self: Any, state: Any, inputs: Any, *rest: Any) -> Any:
        if state.step not in steps:
            return real(self, state, inputs, *rest)
        push = torch.tensor([[40.0, 0.0]])
        hook = state.model.register_forward_hook(lambda *a: a[2] + push)
        try:
            return real(self, state, inputs, *rest)
        finally:
            hook.remove()

    step.StepRunner._forward = forward


def mirror_images(number: int) -> None:
    real = Classification.prepare

    def prepare(self: Any, cell: Any) -> Any:
        inputs, targets = real(self, cell)
        return (inputs.flip(3) if cell.step == number else inputs), targets

    Classification.prepare = prepare


def main() -> None:
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--evaluation", type=int, default=0)
    parser.add_argument("--sabotage", choices=("position", "optimizer", "layout"))
    parser.add_argument("--nan", type=int, nargs="*", default=[])
    parser.add_argument("--leave-out", type=int, nargs="*", default=[])
    parser.add_argument("--burst", type=int, nargs="*", default=[])
    parser.add_argument("--other-images", type=int, default=-1)
    parser.add_argument("--loader", choices=("bug", "dry"))
    faults = parser.parse_args(sys.argv[1:split])
    if faults.stage:
        kill_at_stage(faults.stage, faults.count)
    if faults.evaluation:
        kill_in_evaluation(faults.evaluation)
    plant_nan(faults.nan)
    leave_out(faults.leave_out)
    plant_burst(faults.burst)
    mirror_images(faults.other_images)
    if faults.loader:
        break_loader(faults.loader)
    if faults.sabotage:
        sabotage(faults.sabotage)
    sys.argv = ["saccade", *sys.argv[split + 1 :]]
    cli.main()


if __name__ == "__main__":
    main()
