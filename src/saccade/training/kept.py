"""Undoing an update on the device, where the host does not know yet whether it was good."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Kept:
    """Tensors of any shapes ``(...)`` and their values from before an update."""

    def __init__(self, live: Iterable[Tensor], before: list[Tensor] | None = None) -> None:
        self._live = list(live)
        self._before = [t.detach().clone() for t in self._live] if before is None else before

    @torch.no_grad()
    def put_back_unless(self, finite: Tensor) -> None:
        """Undo the update where ``finite``, a bool scalar on the same device, is False; nothing waits for it."""
        for live, before in zip(self._live, self._before, strict=True):
            torch.where(finite, live, before, out=live)
