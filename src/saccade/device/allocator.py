"""Memory that a pass has freed stays in the process for the next pass."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""*Source:* glibc's malloc.h."""


def keep_freed_memory(device: torch.device) -> None:
    """Tell the allocator not to return large freed blocks to the system, where a CPU computes and
    the allocator supports this (glibc).

    A pass over many images allocates and frees the same hundreds of megabytes each time. Returned
    blocks come back as new pages that the system has to clear: 20,000 page faults a step of
    ResNet-18 at 112 px, 7 to 10 % of its time, and more than a third of the time of
    `saccade probe` at 224 px. It costs memory, as gaps stay between blocks: a pass with cells of
    100 images at 224 px needs a third more (`docs/LOG.md`, 2026-11-26 and 2026-11-30).
    """
    if device.type == "cpu":
        _keep()


@cache
def _keep() -> None:
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # large blocks from the heap and not from mmap, whose pages always go back when they are freed
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
