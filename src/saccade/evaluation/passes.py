"""One pass over a split: every image exactly once, in cells of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from saccade.data.decoded_cache import Decoded
from saccade.data.loader import Batch, EvaluationView, batches
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.allocator import keep_freed_memory
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
    """Return the result of ``ask`` for every image, float32 (n, k) on the CPU, in the split's
    order.

    ``ask`` gets normalised images, float32 (100, 3, S, S), in evaluation mode, and returns a row
    for each. Each rank computes a part of the cells; the first one gets all rows, the others none,
    (0, k). ``poll`` is called with the number of images done after every cell and may raise to
    stop; ``decoded`` caches small images of a split that is used often.
    """
    return through(
        network,
        cells(recipe, split, readers, world=world, decoded=decoded),
        ask=_normalised(ask, recipe, device),
        count=len(split),
        precision=precision,
        device=device,
        poll=poll,
        world=world,
    )


def row_by_row(
    network: nn.Module,
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    ask: Callable[[Tensor], Tensor],
    precision: str,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield what `rows` returns in parts, float32 (up to 100, k): the whole result can be too large
    for memory.
    """
    own = cells(recipe, split, readers)
    left, wanted = len(split), _normalised(ask, recipe, device)
    with closing(_asked(network, own, ask=wanted, precision=precision, device=device)) as parts:
        for part in parts:
            # the last cell is padded
            yield part[:left]
            left -= len(part)


def looked_at(
    network: nn.Module,
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    ask: Callable[[Tensor], Tensor],
    poll: Callable[[int], None] = lambda _done: None,
) -> Tensor:
    """Return the result of ``ask`` for the pixels of every image, float32 (n, k), in float32.

    As `rows`, on the CPU; ``ask`` gets uint8 (100, 3, S, S).
    """
    return through(
        network,
        cells(recipe, split, readers),
        ask=lambda cell: ask(cell.images),
        count=len(split),
        precision="fp32",
        device=torch.device("cpu"),
        poll=poll,
    )


def cells(
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    world: World = ALONE,
    decoded: Decoded | None = None,
) -> Iterator[Batch]:
    """Yield the cells of a pass over a split, as evaluation sees its images; the last is padded."""
    view = EvaluationView(
        split,
        recipe.eval_side,
        recipe.framing,
        recipe.exif,
        rank=world.rank,
        ranks=world.size,
        decoded=decoded,
    )
    return batches(view, readers, CELL, first_step=0, last_step=cells_of(split, world))


def _normalised(
    ask: Callable[[Tensor], Tensor], recipe: Recipe, device: torch.device
) -> Callable[[Batch], Tensor]:
    return lambda cell: ask(recipe.normalised(cell.images.to(device, non_blocking=True)))


def cells_of(split: Split, world: World) -> int:
    """Return the number of cells of each rank in a pass over a split; the last one can be
    padded."""
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
    """Return the result of ``ask`` for the images of cells, float32 (``count``, k) on the CPU.

    As `rows`, for cells of any view: every rank passes its own cells, in order.
    """
    at_once = CELL * world.size
    found: list[Tensor] = []
    # closed at once where ``poll`` stops: the network has to be as it was
    with closing(
        _asked(network, cells, ask=ask, precision=precision, device=device)
    ) as parts_of_rank:
        for part in parts_of_rank:
            found.append(part)
            poll(min(len(found) * at_once, count))

    # cells lie in turns on the ranks; the last one is padded
    parts = world.gather(torch.stack(found))
    if not world.leads:
        return torch.empty(0, found[0].shape[1])
    return torch.stack(parts, 1).flatten(0, 2)[:count]


def _asked(
    network: nn.Module,
    cells: Iterable[Batch],
    *,
    ask: Callable[[Batch], Tensor],
    precision: str,
    device: torch.device,
) -> Generator[Tensor]:
    """Yield the result of ``ask`` for each cell, float32 (B, k) on the CPU.

    The network is in evaluation mode meanwhile.
    """
    before: Tensor | None = None
    keep_freed_memory(device)
    with evaluating(network):
        for cell in cells:
            with torch.inference_mode(), autocast(precision, device):
                answer = ask(cell).float()
            # only now: a GPU has the next cell to compute while the host waits for this one
            if before is not None:
                yield before.cpu()
            before = answer
        if before is not None:
            yield before.cpu()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and restore the mode of each module at the end."""
    # a run goes on training the same network, parts of which may rest in evaluation mode
    was_training = network.training
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        # also a method of the network's own, which may do more than set the modes
        network.train(was_training)
        for part, mode in modes:
            part.training = mode
