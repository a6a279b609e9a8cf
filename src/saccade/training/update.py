"""One update of weights, buffers, optimiser state and average, or none at all where the numbers are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.dist import flatten, unflatten
from saccade.training.kept import Kept
from saccade.training.state import State


class Buffers:
    """The buffers of a model (BatchNorm statistics) from before a step, and their mean over its cells.

    ``sums`` are the values of all cells so far, added up: one tensor (n,) for each type of number.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = Kept(model.buffers())
        self.sums: list[Tensor] = []
        self._cells = 0

    def rewind(self) -> None:
        """Go back to the values from before the step, as every cell begins with them."""
        if self._cells:
            self._before.put_back()

    @torch.no_grad()
    def collect(self) -> None:
        """Add what a cell has made of the buffers to the sums."""
        values = [flatten(group) for group in self._before.groups]
        self.sums = [a + b for a, b in zip(self.sums, values, strict=True)] if self._cells else values
        self._cells += 1

    def average(self, ranks: int) -> None:
        """Take the mean over the cells of all ranks, whose sums have been added up."""
        cells = self._cells * ranks
        if cells == 1:
            return
        for group, total in zip(self._before.groups, self.sums, strict=True):
            unflatten(total / cells if total.is_floating_point() else total // cells, group)

    def finite(self, device: torch.device) -> Tensor:
        """Tell, as a bool scalar, whether all sums are finite: an overflowing variance leaves the loss as it is."""
        finite = torch.ones((), dtype=torch.bool, device=device)
        for total in self.sums:
            finite = finite & torch.isfinite(total).all()
        return finite

    def put_back_unless(self, finite: Tensor) -> None:
        """Go back to the values from before the step where ``finite``, a bool scalar on the device, is False."""
        self._before.put_back_unless(finite)


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
        buffers.put_back_unless(mask)
    state.optimizers.step(mask)
    if state.ema:
        state.ema.update(state.step, mask)
