"""Memory that a step has freed stays in the process for the next step."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""*Source:* glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Tell the allocator not to return large freed blocks to the system, if it supports this
    (glibc).

    A training step allocates and frees the same hundreds of megabytes each time. Returned blocks
    come back as new pages that the system has to clear: 20,000 page faults a step of ResNet-18 at
    112 px, 7 to 10 % of its time (`docs/LOG.md`, 2026-11-26). The peak of the memory in use does
    not change.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # large blocks from the heap and not from mmap, whose pages always go back when they are freed
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
