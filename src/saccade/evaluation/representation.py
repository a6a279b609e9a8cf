"""Checking an encoder without labels: loss on held-out images, nearest neighbours, rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade import rng
from saccade.config.schema import Config
from saccade.data.images.fit import Fit
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order, RankSlice
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.distributed.world import ALONE, World
from saccade.evaluation import neighbours, passes
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features
from saccade.evaluation.rank import effective_rank, spread
from saccade.models.parts.learner import Learner
from saccade.models.parts.running_statistics import averaged_anew
from saccade.objectives.objective import Cell, Objective
from saccade.rng import Purpose

QUERIES = 5
"""One in this many images of a check is a query, whose loss is measured."""

ENOUGH = 100
"""Queries; fewer of validation tell nothing, and training images are asked for instead. What they
are called was not learned, so they are no worse judges.
"""

NORM_CELLS = 4
"""Cells of training images that the norms of an untrained network are fitted to."""


@dataclass(frozen=True, slots=True)
class Means:
    """The tools of a check: the objective and settings of a run, and its device.

    ``recipe`` is the preprocessing at evaluation.
    """

    objective: Objective
    recipe: Recipe
    config: Config
    readers: Readers
    precision: str
    device: torch.device
    world: World = ALONE


@dataclass(frozen=True, eq=False)
class Sample:
    """The images of a check: the ``bank``, and ``queries`` that it classifies.

    ``has_labels`` says whether there are classes; without them the queries are further images of
    the bank's split.
    """

    bank: Split
    queries: Split
    has_labels: bool

    @classmethod
    def of(cls, train: Split, val: Split, config: Config) -> Sample:
        """Draw the images by key, limited by the settings: the same ones at every check.

        The bank is from the training images, the queries from the validation images. If only one of
        the two has labels, or there are too few validation images, both are from one set.
        """
        size = config.pretrain.bank
        asked = max(size // QUERIES, 1)
        has_labels = len(train.classes) > 1
        both = train if has_labels else val
        if has_labels and set(val.classes) <= set(train.classes):
            if len(val) >= min(asked, ENOUGH):
                val = val.with_classes(train.classes)
                return cls(
                    drawn(train, size - asked, config.seed), drawn(val, asked, config.seed), True
                )
        elif len(both.classes) < 2:
            return cls(
                drawn(train, size - asked, config.seed), drawn(val, asked, config.seed), False
            )
        chosen = drawn(both, size, config.seed)
        places = np.arange(len(chosen))
        is_query = places % QUERIES == 0
        return cls(chosen.at(places[~is_query]), chosen.at(places[is_query]), True)


def drawn(split: Split, count: int, seed: int) -> Split:
    """Return ``count`` images of a split, or all of them, drawn by key."""
    if count >= len(split):
        return split
    keys = rng.key(seed, Purpose.BANK, np.arange(len(split)))
    return split.subset(np.argsort(keys, kind="stable")[:count], split.name)


def qualities(
    model: nn.Module, sample: Sample, means: Means, poll: Callable[[int], None]
) -> dict[str, float]:
    """Return the figures of a learner's features, in evaluation mode, the same on all ranks.

    ``knn`` is the top-1, 0..1, of the 20 nearest neighbours, if there are labels. ``rank`` and
    ``spread`` are those of the encoder's features; ``projector_rank``, ``projector_spread`` and
    ``projector_variance`` those of their projections, which the loss sees.
    """
    bank, projected = _seen(model, sample.bank, means, poll)
    queries, _ = _seen(model, sample.queries, means, poll)
    if not means.world.leads:
        return dict(means.world.broadcast(dict))

    figures: dict[str, float] = {}
    if sample.has_labels:
        classes = len(sample.bank.classes)
        figures["knn"] = neighbours.top1(bank, queries, num_classes=classes)
    figures |= {
        "rank": effective_rank(bank.vectors),
        "spread": spread(bank.vectors),
        "projector_rank": effective_rank(projected),
        "projector_spread": spread(projected),
        "projector_variance": float(projected.double().var(0, unbiased=False).sum()),
    }
    means.world.broadcast(lambda: figures)
    return figures


def _seen(
    model: nn.Module, split: Split, means: Means, poll: Callable[[int], None]
) -> tuple[Features, Tensor]:
    """Return features of a split and their projections, float32 (n, d) and (n, p).

    The first rank gets all, the others none.
    """
    assert isinstance(model, Learner)
    encoder = means.objective.encoder(model)
    widths: list[int] = []

    def ask(images: Tensor) -> Tensor:
        features = encoder(images)
        widths.append(features.shape[1])
        return torch.cat([features.float(), model.project(features).float()], 1)

    rows = passes.rows(
        model,
        means.recipe,
        split,
        means.readers,
        ask=ask,
        precision=means.precision,
        device=means.device,
        poll=poll,
        world=means.world,
    )
    vectors, projected = rows[:, : widths[0]], rows[:, widths[0] :]
    labels = torch.from_numpy(split.labels)[: len(rows)]
    return Features(vectors, labels), projected


def held_out_loss(
    model: nn.Module, split: Split, means: Means, poll: Callable[[int], None]
) -> dict[str, float]:
    """Return the mean loss of a learner on images of a split, in evaluation mode.

    They are augmented as in training, with the draws of epoch 0: the same crops and masks at every
    check. If the objective has a baseline, its loss is ``constant``. ``poll`` is called with the
    number of images done, after every cell.
    """
    config, world = means.config, means.world
    repeats = config.augment.repeats
    images = min(len(split), max(config.pretrain.bank // QUERIES, 1))
    # whole cells only: negatives belong to a cell, and no image is among its own
    cell = min(config.cell, images * repeats)
    count = images * repeats // cell
    view = _view(split, means, cell)

    # by cell, so that the sum is the same on any number of ranks
    losses = torch.zeros(2, count, device=means.device)
    steps = -(-count // world.size)
    with passes.evaluating(model):
        for step, batch in enumerate(
            batches(view, means.readers, cell * world.size, first_step=0, last_step=steps)
        ):
            number = step * world.size + world.rank
            loaded = batch.to(means.device).cell(step=0, number=number)
            if number < count:
                # not around the loader: what it fills would be inference tensors
                with torch.inference_mode():
                    answer, losses[0, number] = _answered(
                        model, loaded, means.objective, means.precision
                    )
                    constant = means.objective.constant_beside(loaded, answer)
                if constant is not None:
                    losses[1, number] = constant
            poll(min((step + 1) * world.size, count) * cell // repeats)

    world.sum_([losses])
    mean = losses.double().cpu().sum(1) / (count * cell)
    figures = {"loss": float(mean[0]), "n": count * cell // repeats}
    return figures | ({"constant": float(mean[1])} if mean[1] else {})


def pictured(model: nn.Module, split: Split, means: Means) -> NDArray[np.uint8] | None:
    """Return a learner's pictures of the first images of a split, uint8 (n, columns, S, S, 3).

    They are augmented as in training, with the draws of epoch 0, so they are the same at every
    check. None if there is nothing to show. Only this process computes it.
    """
    count = min(means.config.pretrain.pictures, len(split))
    if not count:
        return None
    alone = replace(means, world=ALONE)
    cell = count * means.config.augment.repeats
    with passes.evaluating(model):
        (batch,) = batches(
            _view(split, alone, cell), means.readers, cell, first_step=0, last_step=1
        )
        loaded = batch.to(means.device).cell(step=0, number=0)
        with torch.inference_mode(), autocast(means.precision, means.device):
            shown = means.objective.pictures(model, loaded)
    return None if shown is None else shown.permute(0, 1, 3, 4, 2).cpu().numpy()


def fit_norms(model: nn.Module, split: Split, means: Means, poll: Callable[[int], None]) -> None:
    """Set the statistics of BatchNorms to those of some training images, in place.

    Without this the features of an untrained network are not a fair baseline. The same on all
    ranks.
    """
    alone = replace(means, world=ALONE)
    cell = means.config.cell
    view = _view(split, alone, cell)
    with averaged_anew(model) as norms:
        if not norms:
            return
        for batch in batches(view, means.readers, cell, first_step=0, last_step=NORM_CELLS):
            with torch.no_grad():
                loaded = batch.to(means.device).cell(step=0, number=0)
                cell_loss(model, loaded, means.objective, means.precision)
            poll(0)


def cell_loss(model: nn.Module, cell: Cell, objective: Objective, precision: str) -> Tensor:
    """Return the loss of a learner summed over a cell, a float32 scalar."""
    return _answered(model, cell, objective, precision)[1]


def _answered(
    model: nn.Module, cell: Cell, objective: Objective, precision: str
) -> tuple[Any, Tensor]:
    """Return the output of a learner for a cell, in any form, and its loss summed over the cell."""
    inputs, targets = objective.prepare(cell)
    with autocast(precision, cell.images.device):
        answer = model(inputs)
    return answer, objective.total_of_heads(answer, targets, 0.0)


def _view(split: Split, means: Means, cell: int) -> TrainingView:
    """Return the images of a split as in training, at their final size, in cells of this size."""
    config, world = means.config, means.world
    section = config.data
    return TrainingView(
        split,
        Order(len(split), config.seed, config.augment.repeats),
        augment=config.augment.model_copy(update={"sizes": (1.0,)}),
        image_size=section.image_size,
        total_steps=1,
        exif=section.exif,
        rank_slice=RankSlice(cell, world.rank, world.size),
        fit=Fit.of(section.fit, section.eval_crop, section.mean),
    )
