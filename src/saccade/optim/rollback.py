"""Undoing an update on the device, before the host knows whether it was good."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from saccade.distributed.world import flatten, of_one_kind, unflatten


class Kept:
    """Tensors of any shapes ``(...)`` and their values from before an update.

    The values lie side by side, those of one type together: a GPU copies one long tensor as fast as
    one short one. ``before`` holds them, one tensor (n,) for each of ``groups``.
    """

    def __init__(self, live: Iterable[Tensor]) -> None:
        self.groups = of_one_kind(list(live))
        self.before = [flatten(group) for group in self.groups]

    def put_back(self) -> None:
        """Undo the update."""
        for group, before in zip(self.groups, self.before, strict=True):
            unflatten(before, group)

    @torch.no_grad()
    def put_back_unless(self, finite: Tensor) -> None:
        """Undo the update where ``finite``, a bool scalar on the same device, is False.

        Nothing waits for it.
        """
        for group, before in zip(self.groups, self.before, strict=True):
            unflatten(torch.where(finite, flatten(group), before), group)
