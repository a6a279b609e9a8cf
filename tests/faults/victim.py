"""Runs the real command line with a fault planted in it; started as a process of its own by the fault tests.

    python victim.py [--stage NAME --count K] [--evaluation K] [--sabotage position|optimizer|layout] -- train ...

``--stage`` kills the process (SIGKILL, by itself) when the K-th checkpoint reaches a stage of being published;
``--evaluation`` kills it in the middle of the K-th evaluation; ``--sabotage`` breaks the resume on purpose, for the
controls that must turn red.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from saccade import cli, files
from saccade.data.order import Order
from saccade.training import records, trainer


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
    real = trainer.evaluate
    seen = 0

    def evaluate(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        *others, poll = arguments

        def deadly(done: int) -> None:
            poll(done)
            if seen == count:
                die()

        return real(*others, deadly)

    trainer.evaluate = evaluate


def sabotage(kind: str) -> None:
    """Break one part of the resume: these are the mistakes that other trainers make."""
    real = records.resume

    def resume(run: Any, saved: Any, *rest: Any) -> None:
        fresh = {name: tensor.clone() for name, tensor in run.state.optimizers.tensors().items()}
        real(run, saved, *rest)
        if kind == "position":
            lost = run.state.step * run.global_batch % len(run.data.train)
            at = Order.at
            Order.at = lambda self, start, stop: at(self, start - lost, stop - lost)
        elif kind == "optimizer":
            for name, tensor in run.state.optimizers.tensors().items():
                tensor.copy_(fresh[name])
        else:
            for part in run.state.optimizers.parts:
                for slots in part.state.values():
                    slots["momentum_buffer"] = slots["momentum_buffer"].contiguous()

    records.resume = resume


def main() -> None:
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--evaluation", type=int, default=0)
    parser.add_argument("--sabotage", choices=("position", "optimizer", "layout"))
    faults = parser.parse_args(sys.argv[1:split])
    if faults.stage:
        kill_at_stage(faults.stage, faults.count)
    if faults.evaluation:
        kill_in_evaluation(faults.evaluation)
    if faults.sabotage:
        sabotage(faults.sabotage)
    sys.argv = ["saccade", *sys.argv[split + 1 :]]
    cli.main()


if __name__ == "__main__":
    main()
