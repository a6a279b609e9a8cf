"""The environment of a run: versions, processor, threads, devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saccade import rng
from saccade.distributed.world import ALONE, World


def environment(world: World = ALONE) -> dict[str, Any]:
    """Return the facts that affect the last bits of a run besides its settings, and those of a
    receipt."""
    import platform

    return {
        "saccade_draws": rng.DRAWS_VERSION,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": world.size,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that this program runs from, or None."""
    folder = Path(__file__).parents[3] / ".git"
    try:
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        return (
            (folder / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip()
            if ":" in head
            else head
        )
    except OSError:
        return None


def bit_exactness_lost(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the changes since an earlier attempt that can change the last bits, one phrase
    each."""
    names = ("torch", "processor", "threads", "gpu", "saccade_draws", "ranks")
    return [f"{n}: {before.get(n)} -> {now[n]}" for n in names if before.get(n) != now[n]]
