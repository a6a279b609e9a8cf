"""One update of weights, buffers, optimiser state and average, or none if values are not finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from saccade.distributed.world import World, flatten, unflatten
from saccade.errors import ConfigError
from saccade.models.parts.running_statistics import is_running_statistic
from saccade.models.weights.tensor_bytes import form
from saccade.optim.rollback import Kept
from saccade.training.state import State


class Buffers:
    """The buffers of a model before a step, and their changes by the cells of the step.

    Every cell begins with the values before the step. Floating running statistics become the mean
    over all cells; any other buffer that changes (a counter, queue or mask) gets the value from the
    last cell of the last rank. Unchanged buffers keep their bits. ``sums`` is for the statistics,
    two tensors (n,) for each type: the values of all cells added up, at least in float32, and in
    how many cells each value changed.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # looked up anew in every step: code of the user may put other tensors in their place
        self._places = [
            (module, name, buffer)
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

        # a buffer under two names is kept once, and is a statistic where one of them says so
        live = {id(buffer): buffer for _, _, buffer in self._places}
        averaged = {id(b) for m, name, b in self._places if is_running_statistic(m, name, b)}
        self._statistics = Kept(buffer for number, buffer in live.items() if number in averaged)
        self._others = Kept(buffer for number, buffer in live.items() if number not in averaged)

        self.sums: list[Tensor] = []
        self._cells = 0

    def rewind(self) -> None:
        """Restore the values from before the step, with which every cell begins."""
        if self._cells:
            self._statistics.put_back()
            self._others.put_back()

    def undo(self) -> None:
        """Restore the values from before the step, wherever it was interrupted."""
        for module, name, buffer in self._places:
            module._buffers[name] = buffer
        self._statistics.put_back()
        self._others.put_back()

    @torch.no_grad()
    def collect(self) -> None:
        """Add what a cell has made of the running statistics to the sums.

        Raises ConfigError if a buffer has changed its shape or type.
        """
        self._put_values_in_place()
        values = []
        for group, before in zip(self._statistics.groups, self._statistics.before, strict=True):
            now = flatten(group)
            values += [
                # added up in float32: many cells in bfloat16 would lose their last ones
                now.to(torch.promote_types(now.dtype, torch.float32)),
                (now != before).float(),
            ]
        self.sums = (
            [a + b for a, b in zip(self.sums, values, strict=True)] if self._cells else values
        )
        self._cells += 1

    def _put_values_in_place(self) -> None:
        """Copy buffers that the forward pass replaced (``self.mean = new``) into the old tensors.

        The average and the next cell use the old tensors, which would keep outdated values.
        """
        for module, name, buffer in self._places:
            now = module._buffers.get(name)
            if now is buffer:
                continue
            if (
                now is None
                or now.shape != buffer.shape
                or not torch.can_cast(now.dtype, buffer.dtype)
            ):
                raise _other_form(module, name, buffer, now)
            buffer.copy_(now)
            module._buffers[name] = buffer

    def take_last(self, world: World) -> None:
        """Take all other buffers from the last rank, which had the last cell of the global
        batch."""
        world.copy_from_last_([buffer for group in self._others.groups for buffer in group])

    def average(self, ranks: int) -> None:
        """Take the mean of the statistics over the cells of all ranks, whose sums have been
        added up.
        """
        cells = self._cells * ranks
        # the live values are the mean already, to the last bit
        if cells == 1:
            return
        kept = self._statistics
        for number, (group, before) in enumerate(zip(kept.groups, kept.before, strict=True)):
            total, changes = self.sums[2 * number : 2 * number + 2]
            # a mean of equal numbers is not always that number
            unflatten(torch.where(changes > 0, (total / cells).to(before.dtype), before), group)

    def stayed_finite(self, device: torch.device) -> Tensor:
        """Tell, as a bool scalar, whether all buffers are valid.

        An overflowing variance does not change the loss, so the loss alone is not enough. A mask
        can contain infinities: buffers that are not statistics are invalid only if a number turns
        into NaN.
        """
        finite = torch.ones((), dtype=torch.bool, device=device)

        for total, changes in zip(self.sums[::2], self.sums[1::2], strict=True):
            # what no cell changed was as it is before, and is no fault of this step
            finite = finite & (torch.isfinite(total) | (changes == 0)).all()
        for group, before in zip(self._others.groups, self._others.before, strict=True):
            now = flatten(group)
            finite = finite & ((now == now) | (before != before)).all()  # NaN is unequal to itself
        return finite

    def put_back_unless(self, finite: Tensor) -> None:
        """Restore the values from before the step if ``finite``, a bool scalar on the device, is
        False.
        """
        self._statistics.put_back_unless(finite)
        self._others.put_back_unless(finite)


def _other_form(module: nn.Module, name: str, before: Tensor, now: Tensor | None) -> ConfigError:
    after = "None" if now is None else form(now)
    return ConfigError(
        f"the forward pass changes the buffer '{name}' from {form(before)} to {after}",
        where=type(module).__name__,
        fix="a buffer is saved with the weights, so its shape and type must not change: "
        "create it in __init__ in its final size, or use a plain attribute",
    )


def update(state: State, buffers: Buffers, finite: Tensor, ranks: int, *, waits: bool) -> None:
    """Take one step with the current gradients if ``finite``, a bool scalar on the device, is True.

    With ``waits`` the flag is read, which costs nothing on a CPU, and a bad step is simply not
    taken. Without it the step is taken and masked on the device: fused kernels take the flag, the
    average follows by a weight of zero, and for buffers and methods without a fused kernel (Muon,
    LAMB, RMSprop) copies from before the step are put back.
    """
    if waits and not bool(finite):
        buffers.rewind()
        return
    # before the copies are put back: a masked step must find the old values, not the mean
    buffers.average(ranks)
    mask = None if waits else finite
    if mask is not None:
        buffers.put_back_unless(mask)
    state.optimizers.step(mask)
    # after the weights: the average follows what the step made of them
    if state.ema:
        still = state.freezing.still if state.freezing else frozenset[int]()
        state.ema.update(state.step, mask, still)
