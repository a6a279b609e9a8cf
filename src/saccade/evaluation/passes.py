"""One pass over a split: every image exactly once, in cells of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from saccade.data.decoded_cache import Decoded
from saccade.data.loader import Batch, EvaluationView, batches
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.distributed.world import ALONE, World
from saccade.evaluation.classifier import Recipe

CELL = 100
"""Images per forward pass, always: kernels may round differently for other sizes."""


def rows(
    network: nn.Module,
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    ask: Callable[[Tensor], Tensor],
    precision: str,
    device: torch.device,
    poll: Callable[[int], None] = lambda _done: None,
    world: World = ALONE,
    decoded: Decoded | None = None,
) -> Tensor:
    """Return what ``ask`` makes of every image, float32 (n, k) on the CPU, in the split's order.

    ``ask`` gets normalised images, float32 (100, 3, S, S), in evaluation mode, and returns a row
    for each. Each rank takes its share of the cells; the first one gets all rows, the others none,
    (0, k). ``poll`` is called with the number of images done after every cell and may raise to
    stop; ``decoded`` holds small images of a split that is looked at again and again.
    """
    view = EvaluationView(
        split,
        recipe.eval_side,
        recipe.framing,
        recipe.exif,
        rank=world.rank,
        ranks=world.size,
        decoded=decoded,
    )
    return through(
        network,
        batches(view, readers, CELL, first_step=0, last_step=cells_of(split, world)),
        ask=lambda cell: ask(recipe.normalised(cell.images.to(device, non_blocking=True))),
        count=len(split),
        precision=precision,
        device=device,
        poll=poll,
        world=world,
    )


def cells_of(split: Split, world: World) -> int:
    """Return how many cells of a pass over a split each rank takes; the last may be padded."""
    return -(-len(split) // (CELL * world.size))


def through(
    network: nn.Module,
    cells: Iterable[Batch],
    *,
    ask: Callable[[Batch], Tensor],
    count: int,
    precision: str,
    device: torch.device,
    poll: Callable[[int], None] = lambda _done: None,
    world: World = ALONE,
) -> Tensor:
    """Return what ``ask`` makes of the images of cells, float32 (``count``, k) on the CPU.

    As `rows`, for cells of any view: every rank gives those that are its own, in order.
    """
    at_once = CELL * world.size
    # a run goes on training the same network, parts of which may rest in evaluation mode
    was_training = network.training
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    found: list[Tensor] = []
    try:
        for cell in cells:
            with torch.inference_mode(), autocast(precision, device):
                found.append(ask(cell).float())
            # only now: a GPU has the next cell to compute while the host waits for these
            if len(found) > 1:
                found[-2] = found[-2].cpu()
            poll(min(len(found) * at_once, count))
    finally:
        network.train(was_training)
        for part, mode in modes:
            part.training = mode

    # cells lie in turns on the ranks; the last one is padded
    found[-1] = found[-1].cpu()
    parts = world.gather(torch.stack(found))
    if not world.leads:
        return torch.empty(0, found[0].shape[1])
    return torch.stack(parts, 1).flatten(0, 2)[:count]
