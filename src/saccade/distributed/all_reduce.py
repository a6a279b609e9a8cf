"""Summing the gradients of all ranks, bucket by bucket, while the backward pass still computes the
others.

Not torch's DistributedDataParallel: that one rearranges its buckets after the first step, and with
more than two ranks the order of a sum depends on the buckets, so a resumed run would differ in the
last bits from an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saccade.distributed.world import World, flatten, unflatten

# as in torch's DistributedDataParallel: large enough to fill the line, small enough to overlap
BUCKET_BYTES = 25 << 20


class GradientSum:
    """The gradients of a model, in fixed buckets from the last parameter to the first, as they
    become ready.

    A parameter must get a gradient in every cell or in none.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        # from the last parameter on, as the backward pass reaches it first
        self._buckets = _buckets([p for p in reversed(list(model.parameters())) if p.requires_grad])
        self._place = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._last_cell = False
        self._missing: list[int] = []
        self._started: list[tuple[Tensor, Callable[[], None]]] = []
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    @contextmanager
    def last_cell(self) -> Iterator[None]:
        """Run the backward pass of a step's last cell in here.

        The sums start as gradients become ready.
        """
        self._missing = [len(bucket) for bucket in self._buckets]
        self._last_cell = True
        try:
            yield
        finally:
            self._last_cell = False
        # parameters without a gradient never call the hook: their buckets begin here
        self._start(to=len(self._buckets))

    def finish(self) -> None:
        """Wait for the sums of a step; afterwards the gradients are those of all ranks."""
        for bucket, (joined, finish) in zip(self._buckets, self._started, strict=True):
            finish()
            _put_back(joined, bucket)
        self._started.clear()

    def _ready(self, parameter: Tensor) -> None:
        # gradients of earlier cells are only added up on this rank
        if not self._last_cell:
            return
        self._missing[self._place[parameter]] -= 1
        # only up to the first bucket that still waits, even where later ones are ready
        done = next((n for n, missing in enumerate(self._missing) if missing), len(self._missing))
        self._start(to=done)

    def _start(self, to: int) -> None:
        """Start the sums up to a bucket, always in the same order: the ranks match them by it."""
        for bucket in self._buckets[len(self._started) : to]:
            # zeros where this rank has no gradient: the ranks must add up equal shapes
            joined = flatten(
                [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            )
            self._started.append((joined, self._world.start_sum(joined)))


def _put_back(joined: Tensor, bucket: list[Tensor]) -> None:
    parts = torch.split(joined, [p.numel() for p in bucket])
    used = [(part, p.grad) for part, p in zip(parts, bucket, strict=True) if p.grad is not None]
    for part, grad in used:
        unflatten(part, [grad])


def _buckets(parameters: list[nn.Parameter]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    room = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        # `room` is 0 at first, so the first parameter always opens a bucket
        if size > room or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            room = max(BUCKET_BYTES, size)
        buckets[-1].append(parameter)
        room -= size
    return buckets
