"""Reading a number from the device without delaying the next step."""

from __future__ import annotations

import torch
from torch import Tensor


class Late:
    """A scalar on its way to the host: the copy is queued now, behind the work that computes it,
    and read later.

    To read the scalar itself one step later would wait for that step too.
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            # pinned: a copy to pageable memory would block the host
            self._host = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._host.copy_(value.detach(), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            # a clone, because the caller may go on adding to the tensor
            self._host = value.detach().clone()

    def read(self) -> float:
        """Return the number; waits for the step that it belongs to."""
        if self._event:
            self._event.synchronize()
        return float(self._host)
