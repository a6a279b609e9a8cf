"""Computing the features for a run with a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from saccade import units
from saccade.data.augment.chain import present
from saccade.data.loader import Batch, EvaluationView, batches
from saccade.data.order import Indices, Order, RankSlice
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.evaluation import passes
from saccade.evaluation.passes import CELL
from saccade.log import Log
from saccade.models.parts.embedding import embed, head_name
from saccade.objectives.objective import Cell
from saccade.training.held_features import HeldFeatures
from saccade.training.run import Run
from saccade.training.stop import Stop

MOST_BYTES = 16 << 30
"""Upper limit for all features of a run together, in bytes: the rest needs memory, too."""

TRIED = 4
"""Images on which the head alone is compared with the whole network."""

TOLERANCE = 0.02
"""How far the two may lie apart, over the largest logit: a rounding to bfloat16 is 0.004."""

Poll = Callable[[int], None]


def hold(run: Run, stop: Stop, log: Log) -> Run:
    """Return the run as it trains: on cached features if the settings ask for it.

    Each attempt computes them again, with the same bits, so no checkpoint holds them. If they
    cannot be cached, the whole network computes in each step, and the log says why.
    """
    plan, model = run.plan, run.state.model
    if not plan.config.finetune.holds:
        return run
    if why := plan.world.broadcast(lambda: obstacle(run)):
        log.warn(f"features are not cached but computed in each step: {why}")
        return run

    train, judged, count = plan.data.train, plan.data.chosen_on, plan.config.finetune.views
    rounds = [*[train] * count, judged]
    found: list[Tensor] = []
    with log.progress("features", sum(map(len, rounds))) as bar:
        for number, split in enumerate(rounds):
            before = sum(map(len, rounds[:number]))

            def poll(done: int, before: int = before) -> None:
                bar.update(before + done, "computed once")
                stop.check()

            as_judged = number == 0 or split is judged
            seen = _as_judged(run, split, poll) if as_judged else _augmented(run, number, poll)
            found.append(_on_all_ranks(run, seen, len(split)))

    views, last = torch.stack(found[:-1]), found[-1]
    log.fact("features", f"{views.shape[2]:,} of each image are cached; only the head is trained")
    head = head_name(model)
    run.state.compute_with(model.get_submodule(head))
    held = HeldFeatures(plan.view, head, views=views, split=judged, judged=last)
    return replace(run, features=held)


def obstacle(run: Run) -> str:
    """Say why the features of a run cannot be cached; return an empty string if they can."""
    plan, model = run.plan, run.state.model
    if not plan.holds_features:
        return "the images are mixed (augment.mixup, augment.cutmix), or have no labels"
    head = model.get_submodule(head_name(model))
    if not isinstance(head, nn.Linear):
        return f"the head is a {type(head).__name__}, not a linear layer"

    width, count = head.in_features, plan.config.finetune.views * len(plan.data.train)
    if 4 * count * width > MOST_BYTES:
        return f"they need {units.human_size(4 * count * width)} of memory"
    features, whole = _tried(run)
    if not _is_passed_on(run, features):
        return f"{type(plan.objective).__name__} changes the images before the network sees them"
    with torch.inference_mode(), autocast(plan.precision, plan.device):
        alone = head(features.to(plan.device)).float().cpu()
    is_all = bool((whole - alone).abs().max() <= TOLERANCE * whole.abs().max())
    return "" if is_all else "other layers follow them besides the head"


def _tried(run: Run) -> tuple[Tensor, Tensor]:
    """Return the features and the logits of a few training images, float32 (k, d) and (k, C)."""
    plan, model = run.plan, run.state.model
    recipe = plan.recipe
    view = EvaluationView(plan.data.train, recipe.eval_side, recipe.framing, recipe.exif)
    found: list[Tensor] = []

    def ask(cell: Batch) -> Tensor:
        images = recipe.normalised(cell.images.to(plan.device))
        found.extend([embed(model, images).float().cpu(), model(images).float().cpu()])
        return found[-1]

    cells = batches(view, run.readers, TRIED, first_step=0, last_step=1)
    passes.through(model, cells, ask=ask, count=TRIED, precision=plan.precision, device=plan.device)
    features, logits = found
    return features.clone(), logits


def _is_passed_on(run: Run, features: Tensor) -> bool:
    """Tell whether an objective passes features, (k, d), to the network unchanged."""
    plan, places = run.plan, np.arange(len(features))
    labels = torch.from_numpy(plan.data.train.labels[places % len(plan.data.train)])
    device = plan.device
    cell = Cell(features.to(device), labels.to(device), places * 0, places, step=0, number=0)
    try:
        inputs, _ = plan.objective.prepare(cell)
    # any code may run here, and features are not what it was written for
    except Exception:
        return False
    return isinstance(inputs, Tensor) and torch.equal(inputs, cell.images)


def _as_judged(run: Run, split: Split, poll: Poll) -> Tensor:
    """Return the features of a split as evaluation sees it, float32 (n, d) on the first rank."""
    plan, model = run.plan, run.state.model
    return passes.rows(
        model,
        replace(plan.recipe, eval_views=1),
        split,
        run.readers,
        ask=lambda images: embed(model, images),
        precision=plan.precision,
        device=plan.device,
        poll=poll,
        world=plan.world,
    )


def _augmented(run: Run, epoch: int, poll: Poll) -> Tensor:
    """Return the features of the training images as an epoch sees them, float32 (n, d) on the
    first rank.
    """
    plan, model, world = run.plan, run.state.model, run.plan.world
    view = replace(
        plan.view,
        order=_EachOnce(len(plan.data.train), plan.config.seed, epoch),
        rank_slice=RankSlice(CELL, world.rank, world.size),
        augment=plan.view.augment.model_copy(update={"sizes": (1.0,)}),
    )

    def ask(cell: Batch) -> Tensor:
        images = cell.images.to(plan.device)
        seen = present(images, cell.epochs, cell.samples, plan.config, step=0, cell=0)[0]
        return embed(model, seen)

    count = passes.cells_of(plan.data.train, world)
    cells = batches(view, run.readers, CELL * world.size, first_step=0, last_step=count)
    return passes.through(
        model,
        cells,
        ask=ask,
        count=len(plan.data.train),
        precision=plan.precision,
        device=plan.device,
        poll=poll,
        world=world,
    )


class _EachOnce(Order):
    """Every sample of one epoch, in the order of the split, padded with the last one."""

    def __init__(self, num_samples: int, seed: int, epoch: int) -> None:
        super().__init__(num_samples, seed)
        self._epoch = epoch

    def at(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Return (epochs, samples), int64 of shape ``(stop - start,)``."""
        samples = np.minimum(np.arange(start, stop, dtype=np.int64), self.num_samples - 1)
        return np.full_like(samples, self._epoch), samples


def _on_all_ranks(run: Run, rows: Tensor, count: int) -> Tensor:
    """Return the rows (n, d) that the first rank has."""
    world = run.plan.world
    shared = rows if world.leads else torch.empty(count, rows.shape[1])
    world.copy_from_first_([shared])
    return shared
