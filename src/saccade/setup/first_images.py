"""The first training images of a run, for what is fitted to images before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from saccade.data.loader import batches
from saccade.data.order import EVERYTHING
from saccade.data.readers import Readers
from saccade.training.run import Plan


def first_images(plan: Plan, readers: Readers, count: int) -> Iterator[Tensor]:
    """Yield the first global batches, uint8 (B, 3, S, S), that hold ``count`` images or more.

    They are the same on any number of ranks. A shorter run has fewer.
    """
    steps = min(-(-count // plan.global_batch), plan.total_steps)
    view = replace(plan.view, rank_slice=EVERYTHING)
    for batch in batches(view, readers, plan.global_batch, first_step=0, last_step=steps):
        yield batch.images
