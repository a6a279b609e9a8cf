"""Deterministic runs on a GPU, where many faster kernels sum in any order."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saccade.errors import ConfigError

_REFUSAL = re.compile(r"(\S+) does not have a deterministic implementation")


def switch_on(*, strict: bool = True) -> None:
    """Use only deterministic kernels.

    It costs less than 1 % of a step of ResNet-50 (docs/LOG.md).

    If an operation has none, torch raises RuntimeError, or warns with ``strict`` off. Then
    attention is not deterministic either: torch uses its fast kernel.
    """
    # read when the first matrix is multiplied
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads it


_TAKEN = threading.Lock()


@contextmanager
def owned() -> Iterator[None]:
    """Use the global state of the process and restore it: generators, number of threads, switches.

    Raises ConfigError if another training of this process uses it.
    """
    if not _TAKEN.acquire(blocking=False):
        raise ConfigError(
            "another training is running in this process",
            where="saccade.train",
            fix="train one after the other, or use one process per training: threads of one "
            "process share the random generator and the number of compute threads, so "
            "neither training would be deterministic",
        )
    # asking for a GPU's generator would start CUDA in a process that computes on the CPU
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    generators = torch.random.fork_rng([torch.cuda.current_device()] if started else [])
    try:
        with compute_threads(), put_back(), generators:
            yield
    finally:
        _TAKEN.release()


@contextmanager
def compute_threads(count: int | None = None) -> Iterator[None]:
    """Compute with ``count`` threads in here, and with as many as before afterwards.

    With None the number stays until something in here changes it. The last bits of a sum depend on
    it.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def put_back() -> Iterator[None]:
    """Restore the switches afterwards, because a calling Python program may not want them."""
    strictness = torch.get_deterministic_debug_mode()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(strictness)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


@contextmanager
def kept() -> Iterator[None]:
    """Run the user's code in this context, and restore the state that the run's bits depend on."""
    grads, default = torch.is_grad_enabled(), torch.get_default_dtype()
    with compute_threads(), put_back():
        try:
            yield
        finally:
            torch.set_grad_enabled(grads)
            torch.set_default_dtype(default)


def refused(error: BaseException) -> str:
    """Return the operation for which torch has no deterministic kernel, or nothing for any other
    error.
    """
    found = _REFUSAL.search(str(error)) if isinstance(error, RuntimeError) else None
    return found[1] if found else ""
