"""What an encoder that learns without labels is like: its loss on images held out of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.data.images.fit import Fit
from saccade.data.loader import Batch, TrainingView, batches
from saccade.data.order import Order, RankSlice
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.distributed.world import ALONE, World
from saccade.objectives.objective import Cell, Objective

QUERIES = 5
"""Of the images of a look, one in so many is a query, and has its loss measured."""


@dataclass(frozen=True, slots=True)
class Means:
    """What looks are made with: the objective and settings of a run, and what computes."""

    objective: Objective
    config: Config
    readers: Readers
    precision: str
    device: torch.device
    world: World = ALONE


def held_out_loss(
    model: nn.Module, split: Split, means: Means, poll: Callable[[int], None]
) -> dict[str, float]:
    """Return the mean loss of a learner on images of a split, in evaluation mode.

    They are seen as in training, with the draws of epoch 0: the same crops and masks at every look.
    Where the objective has a yardstick its loss is there as ``constant``. ``poll`` is called with
    the number of images done, after every cell.
    """
    config, world = means.config, means.world
    cell, repeats = config.cell, config.augment.repeats
    images = min(len(split), max(config.pretrain.bank // QUERIES, 1))
    # whole cells only: negatives belong to a cell
    count = max(images * repeats // cell, 1)
    view = _view(split, means)

    # by cell, so that the sum is the same on any number of ranks
    losses = torch.zeros(2, count, device=means.device)
    steps = -(-count // world.size)
    with evaluating(model):
        for step, batch in enumerate(
            batches(view, means.readers, cell * world.size, first_step=0, last_step=steps)
        ):
            number = step * world.size + world.rank
            loaded = on_device(batch, means.device, number)
            if number < count:
                # not around the loader: what it fills would be inference tensors
                with torch.inference_mode():
                    losses[0, number] = cell_loss(model, loaded, means.objective, means.precision)
                    constant = means.objective.constant(loaded)
                if constant is not None:
                    losses[1, number] = constant
            poll(min((step + 1) * world.size, count) * cell // repeats)

    world.sum_([losses])
    mean = losses.double().cpu().sum(1) / (count * cell)
    figures = {"loss": float(mean[0]), "n": count * cell // repeats}
    return figures | ({"constant": float(mean[1])} if mean[1] else {})


def on_device(batch: Batch, device: torch.device, number: int = 0) -> Cell:
    """Return a loaded cell on a device, as cell ``number`` of step 0."""
    there = batch.to(device)
    return Cell(
        images=there.images,
        labels=there.labels,
        epochs=there.epochs,
        samples=there.samples,
        step=0,
        number=number,
        small=there.small,
    )


def cell_loss(model: nn.Module, cell: Cell, objective: Objective, precision: str) -> Tensor:
    """Return the loss of a learner summed over a cell, a float32 scalar."""
    inputs, targets = objective.prepare(cell)
    with autocast(precision, cell.images.device):
        answer = model(inputs)
    return objective.total_of_heads(answer, targets, 0.0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its modules back into its own at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _view(split: Split, means: Means) -> TrainingView:
    """Return the images of a split as training sees them, at their final size."""
    config, world = means.config, means.world
    section = config.data
    return TrainingView(
        split,
        Order(len(split), config.seed, config.augment.repeats),
        augment=config.augment.model_copy(update={"sizes": (1.0,)}),
        image_size=section.image_size,
        total_steps=1,
        exif=section.exif,
        rank_slice=RankSlice(config.cell, world.rank, world.size),
        fit=Fit.of(section.fit, section.eval_crop, section.mean),
    )
