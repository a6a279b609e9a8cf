"""One optimiser step: a global batch, cell by cell, becomes a new state."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade import rng
from saccade.config.schema import Config
from saccade.data.loader import Batch
from saccade.device.precision import autocast
from saccade.device.step_timer import Clock
from saccade.distributed.all_reduce import GradientSum
from saccade.distributed.world import ALONE, World
from saccade.models.parts.layers import DropPath
from saccade.objectives.objective import Cell, Objective
from saccade.optim.schedule import Schedule
from saccade.rng import Purpose
from saccade.training.bad_steps import Evidence
from saccade.training.guard import Finite
from saccade.training.state import State
from saccade.training.update import Buffers, update


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Everything a step needs besides state and batch.

    ``objective`` says what a cell becomes, and its loss.
    """

    config: Config
    schedule: Schedule
    precision: str
    device: torch.device
    finite: Finite
    world: World = ALONE
    gradients: GradientSum | None = None
    clock: Clock = field(default_factory=Clock)
    objective: Objective = field(kw_only=True)

    def step(self, state: State, batch: Batch) -> Tensor:
        """Advance the state by one step and return the mean loss of the global batch, a float32
        scalar.

        The batch holds this rank's cells; with n ranks these are every n-th cell of the global
        batch. The loss is summed over the global batch and divided once. BatchNorm statistics
        belong to a cell; running ones are averaged over the cells of a step, one momentum update
        per step. A step whose loss, gradients or buffers go bad, or whose loss jumps, leaves no
        trace but its number; raises DivergedError where the policy says so. An error before the
        update, such as a lost rank, leaves no trace either.
        """
        batch = replace(
            batch,
            images=batch.images.to(self.device, non_blocking=True),
            labels=batch.labels.to(self.device, non_blocking=True),
        )
        self.clock.start()
        buffers = Buffers(state.model)
        try:
            own = self._backward(state, batch, buffers)
            total = own.clone()
            self.clock.mark()
            if self.gradients:
                self.gradients.finish()
            self.world.sum_([total, *buffers.sums])
            buffers.take_last(self.world)
        except BaseException:
            buffers.undo()
            raise
        self.clock.mark()
        state.whole = False
        finite = self._finish_gradients(state, total) & buffers.finite(self.device)
        jumps = finite & state.losses.is_spike(total) if state.losses else torch.zeros_like(finite)
        good = finite & ~jumps
        state.optimizers.follow(self.schedule, state.step, state.evaluations)
        update(state, buffers, good, self.world.size, waits=self.device.type != "cuda")
        state.model.zero_grad()
        self.clock.mark()
        bad = ~finite
        if state.scale:  # an overflow is expected now and then, and only lowers the scale
            bad &= state.scale.is_exhausted() | ~torch.isfinite(total)
            state.scale.update(finite)
        if state.losses:
            state.losses.update(total, good)
        self.finite.watch(state, Evidence(state.step, bad | jumps, own, batch, jumps))
        state.step += 1
        state.whole = True
        return total

    def _backward(self, state: State, batch: Batch, buffers: Buffers) -> Tensor:
        """Add up gradients and buffers cell by cell, and return this rank's share of the mean
        loss, a scalar.
        """
        cell, world, images, labels = self.config.cell, self.world, batch.images, batch.labels
        total = torch.zeros((), device=self.device)
        for number, start in enumerate(range(0, len(images), cell)):
            buffers.rewind()
            part = slice(start, start + cell)
            place = world.rank + number * world.size
            inputs, targets = self.objective.prepare(
                Cell(
                    images[part],
                    labels[part],
                    batch.epochs[part],
                    batch.samples[part],
                    state.step,
                    place,
                )
            )
            is_last = start + cell >= len(images)
            summing = self.gradients.last_cell() if self.gradients and is_last else nullcontext()
            with summing:
                loss = self._forward(state, inputs, targets, place) / (len(images) * world.size)
                (loss * state.scale.factor if state.scale else loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            buffers.collect()
        return total

    def _forward(self, state: State, inputs: Tensor, targets: Any, cell: int) -> Tensor:
        """Return the loss summed over the images of a cell, a scalar."""
        seed = self.config.seed
        draw_drop_path(state.model, len(inputs), seed, state.step, cell)
        torch.manual_seed(rng.integer(seed, Purpose.DROPOUT, state.step, cell))
        with autocast(self.precision, self.device):
            answer = state.model(inputs)
        auxiliary_weight = getattr(state.model, "aux_weight", 0.0)
        return self.objective.total_of_heads(answer, targets, auxiliary_weight)

    def _finish_gradients(self, state: State, loss: Tensor) -> Tensor:
        """Take the loss scale out of the gradients, clip them, and tell whether all is finite, a
        bool scalar.
        """
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        if state.scale:
            torch._foreach_mul_(gradients, 1 / state.scale.factor)
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.optimizer.clip:  # a factor on the device: nothing waits for it
            clipped = torch.clamp(self.config.optimizer.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, clipped)
        return torch.isfinite(norm + loss)


def draw_drop_path(model: nn.Module, batch_size: int, seed: int, step: int, cell: int) -> None:
    """Set the mask of every DropPath layer for the next forward pass, a pure function of (seed,
    step, cell).
    """
    layers = [m for m in model.modules() if isinstance(m, DropPath)]
    if not layers:
        return
    draws = rng.uniform(
        rng.key(seed, Purpose.DROP_PATH, step, cell, range(batch_size)), len(layers)
    )
    device = next(model.parameters()).device
    rates = np.array([layer.rate for layer in layers])
    keep = np.ascontiguousarray(((draws >= rates) / (1 - rates)).T, dtype=np.float32)
    for layer, row in zip(
        layers, torch.from_numpy(keep).to(device, non_blocking=True), strict=True
    ):
        layer.keep = row
