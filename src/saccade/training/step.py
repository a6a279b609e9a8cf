"""One optimiser step: from a global batch, cell by cell, to a new state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade import rng
from saccade.config.schema import Config
from saccade.data.loader import Batch
from saccade.device.precision import autocast
from saccade.device.step_timer import Clock
from saccade.distributed.all_reduce import GradientSum
from saccade.distributed.world import ALONE, World
from saccade.models.parts.layers import DropPath
from saccade.objectives.objective import Objective
from saccade.optim.schedule import Schedule
from saccade.rng import Purpose
from saccade.training.bad_steps import Evidence
from saccade.training.guard import Guard
from saccade.training.state import State
from saccade.training.update import Buffers, update


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRunner:
    """Everything a step needs besides state and batch.

    ``objective`` prepares a cell and computes its loss.
    """

    config: Config
    schedule: Schedule
    precision: str
    device: torch.device
    guard: Guard
    objective: Objective
    world: World = ALONE
    gradients: GradientSum | None = None
    clock: Clock = field(default_factory=Clock)

    def step(self, state: State, batch: Batch) -> Tensor:
        """Advance the state by one step and return the mean loss of the global batch, a float32
        scalar.

        The batch holds this rank's cells; with n ranks these are every n-th cell of the global
        batch. The loss is summed over the global batch and divided once. BatchNorm statistics
        belong to a cell; running ones are averaged over the cells of a step, one momentum update
        per step. A step with a non-finite loss, gradient or buffer, or with a loss spike, changes
        only the step number; raises DivergedError if the policy says so. An error before the
        update, such as a lost rank, changes nothing.
        """
        batch = batch.to(self.device)
        self.clock.start()
        if state.freezing:
            state.freezing.settle(state.step)
        buffers = Buffers(state.modules)

        # until the sums are there, nothing but buffers and gradients has changed
        try:
            own_loss = self._backward(state, batch, buffers)
            self.clock.mark()
            loss = self._sum_over_ranks(own_loss, buffers)
        except BaseException:
            buffers.undo()
            raise
        self.clock.mark()

        # the verdict stays on the device: nothing waits for it here
        state.whole = False
        # one bad gradient makes the norm bad, so two scalars tell of all of them
        norm = self._finish_gradients(state)
        finite = torch.isfinite(norm + loss) & buffers.stayed_finite(self.device)
        spike = finite & state.losses.is_spike(loss) if state.losses else torch.zeros_like(finite)
        good = finite & ~spike

        # from the step and the evaluations alone, which a checkpoint holds: a resumed run has the
        # same rates
        state.optimizers.follow(self.schedule, state.step, state.evaluations)
        update(state, buffers, good, self.world.size, waits=self.device.type != "cuda")
        self.objective.after_update(state.model, state.step, good)
        state.forget_gradients()
        self.clock.mark()

        bad = self._note_outcome(state, loss, finite=finite, good=good) | spike
        self.guard.watch(
            state, Evidence(step=state.step, bad=bad, loss=own_loss, batch=batch, jumps=spike)
        )
        # last: an error above leaves the number of the step that was not done
        state.step += 1
        state.whole = True
        return loss

    def _backward(self, state: State, batch: Batch, buffers: Buffers) -> Tensor:
        """Add up gradients and buffers cell by cell, and return this rank's share of the mean
        loss, a scalar.
        """
        cell, world, images = self.config.cell, self.world, batch.images
        total = torch.zeros((), device=self.device)
        for number, start in enumerate(range(0, len(images), cell)):
            buffers.rewind()
            part = batch.part(start, start + cell)
            # the place in the global batch, not on this rank: draws are the same on any number of
            # ranks
            place = world.rank + number * world.size
            loaded = part.cell(step=state.step, number=place)
            inputs, targets = self.objective.prepare(loaded)

            # the sums over the ranks begin while the backward pass of the last cell still computes
            is_last = start + cell >= len(images)
            summing = self.gradients.last_cell() if self.gradients and is_last else nullcontext()
            with summing:
                # divided before the backward pass, so gradients that are added up are those of the
                # mean
                loss = self._forward(state, inputs, targets, place) / (len(images) * world.size)
                scaled = loss * state.scale.factor if state.scale else loss
                scaled.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            buffers.collect()
        return total

    def _forward(self, state: State, inputs: Any, targets: Any, cell: int) -> Tensor:
        """Return the loss summed over the images of a cell, a scalar."""
        seed = self.config.seed
        draw_drop_path(
            state.drop_paths,
            self.objective.rows(inputs),
            self.device,
            seed=seed,
            step=state.step,
            cell=cell,
        )
        # dropout inside the network draws from torch's generator: it starts anew for each cell, so
        # its draws do not depend on what was drawn before
        torch.manual_seed(rng.integer(seed, Purpose.DROPOUT, state.step, cell))
        # the loss is computed outside of it, in float32
        with autocast(self.precision, self.device):
            answer = state.computing(inputs)
        auxiliary_weight = getattr(state.model, "aux_weight", 0.0)
        return self.objective.total_of_heads(answer, targets, auxiliary_weight)

    def _sum_over_ranks(self, own_loss: Tensor, buffers: Buffers) -> Tensor:
        """Sum gradients, running statistics and the loss, a scalar, over all ranks; return the
        loss.
        """
        # this rank's own share is kept: it is evidence of which rank saw a bad batch
        loss = own_loss.clone()
        if self.gradients:
            self.gradients.finish()
        # one exchange for the loss and all statistics: each costs a round trip
        self.world.sum_([loss, *buffers.sums])
        buffers.take_last(self.world)
        return loss

    def _finish_gradients(self, state: State) -> Tensor:
        """Divide the gradients by the loss scale and clip them.

        Return their norm before clipping, a scalar.
        """
        gradients = [p.grad for p in state.parameters if p.grad is not None]
        if state.scale:
            torch._foreach_mul_(gradients, 1 / state.scale.factor)

        # after the scale was taken out: the limit of clipping is one of true gradients
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.config.optimizer.clip:  # a factor on the device: nothing waits for it
            clipped = torch.clamp(self.config.optimizer.clip / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(gradients, clipped)
        return norm

    def _note_outcome(self, state: State, loss: Tensor, *, finite: Tensor, good: Tensor) -> Tensor:
        """Update the loss scale and the record of losses after the step.

        Return whether the step went bad, a bool scalar, as are ``finite`` and ``good``.
        """
        bad = ~finite
        if state.scale:
            # an overflow in fp16 is expected now and then: it lowers the scale and is no alarm
            bad &= state.scale.is_exhausted() | ~torch.isfinite(loss)
            state.scale.update(finite)
        if state.losses:
            state.losses.update(loss, good)
        return bad


def draw_drop_path(
    layers: Sequence[DropPath],
    batch_size: int,
    device: torch.device,
    *,
    seed: int,
    step: int,
    cell: int,
) -> None:
    """Set the masks of DropPath layers for the next forward pass, a pure function of (seed, step,
    cell).
    """
    if not layers:
        return
    draws = rng.uniform(
        rng.key(seed, Purpose.DROP_PATH, step, cell, range(batch_size)), len(layers)
    )
    rates = np.array([layer.rate for layer in layers])
    # kept paths are scaled up by what is dropped, so the expected sum stays
    keep = np.ascontiguousarray(((draws >= rates) / (1 - rates)).T, dtype=np.float32)

    # one copy to the device for all layers
    masks = torch.from_numpy(keep).to(device, non_blocking=True)
    for layer, mask in zip(layers, masks, strict=True):
        layer.keep = mask
