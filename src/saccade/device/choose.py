"""The choice of the device of a run."""

from __future__ import annotations

import torch

from saccade.distributed.world import Devices
from saccade.errors import ConfigError


def pick_device(wanted: str, local_rank: int = 0) -> tuple[str, str]:
    """Return (device type, the reason) for the value of ``--devices``, and make a GPU the current
    one.

    Raises ConfigError if it does not exist.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }

    devices = Devices.parse(wanted)
    kind, reason = devices.kind, "as asked"
    if kind == "auto":
        kind, reason = (
            next(name for name, present in available.items() if present),
            "the fastest one available",
        )

    if not available[kind]:
        present = [n for n, p in available.items() if p]
        fix = f"use --devices {' or '.join(present)}"
        if devices.count > 1:
            fix += f"; cpu:{devices.count} for processes"
        raise ConfigError(
            f"this machine has no {kind} (--devices {wanted})", where="device", fix=fix
        )

    if kind == "cuda":
        # a rank takes the GPU of its place on this machine, or of the list that was given
        number = devices.numbers[local_rank] if devices.numbers else local_rank
        if number >= torch.cuda.device_count():
            raise ConfigError(
                f"no GPU {number} for rank {local_rank} of this machine: it has "
                f"{torch.cuda.device_count()}",
                where="device",
                fix="start at most one rank per GPU",
            )
        torch.cuda.set_device(number)
    return kind, reason
