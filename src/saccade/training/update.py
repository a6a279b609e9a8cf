"""One update of weights, buffers, optimiser state and average, or none at all where the numbers are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.training.kept import Kept
from saccade.training.state import State


class Buffers:
    """The buffers of a model (BatchNorm statistics) from before a step, and their mean over its cells."""

    def __init__(self, model: nn.Module) -> None:
        self._live = list(model.buffers())
        self._before = [b.clone() for b in self._live]
        self.sums = [torch.zeros_like(b) for b in self._live]
        self._cells = 0

    @torch.no_grad()
    def rewind(self) -> None:
        """Go back to the values from before the step, as every cell begins with them."""
        for live, before in zip(self._live, self._before, strict=True):
            live.copy_(before)

    @torch.no_grad()
    def collect(self) -> None:
        """Add what a cell has made of the buffers to the sums."""
        self._cells += 1
        for live, total in zip(self._live, self.sums, strict=True):
            total += live

    @torch.no_grad()
    def average(self, ranks: int) -> None:
        """Take the mean over the cells of all ranks, whose sums have been added up."""
        cells = self._cells * ranks
        for live, total in zip(self._live, self.sums, strict=True):
            live.copy_(total / cells if live.is_floating_point() else total // cells)

    def finite(self) -> Tensor:
        """Tell, as a bool scalar, whether all sums are finite: an overflowing variance leaves the loss as it is."""
        sums = [total for total in self.sums if total.is_floating_point()]
        if not sums:
            return torch.tensor(True)
        return torch.isfinite(torch.stack(torch._foreach_norm(sums, torch.inf))).all()

    def kept(self) -> Kept:
        """Return the values from before the step."""
        return Kept(self._live, self._before)


def update(state: State, buffers: Buffers, finite: Tensor, ranks: int, *, waits: bool) -> None:
    """Take one step with the gradients at hand where ``finite``, a bool scalar on the device, is True.

    With ``waits`` the flag is read, which costs nothing on a CPU, and a bad step is simply not taken. Without it the
    step is taken and masked on the device: fused kernels take the flag, the average follows by a weight of zero, and
    for buffers and methods without a fused kernel (Muon, LAMB, RMSprop) copies from before the step are put back.
    """
    if waits and not bool(finite):
        buffers.rewind()
        return
    buffers.average(ranks)
    mask = None if waits else finite
    if mask is not None:
        buffers.kept().put_back_unless(mask)
    state.optimizers.step(mask)
    if state.ema:
        state.ema.update(state.step, mask)
