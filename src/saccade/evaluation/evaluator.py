"""Evaluation: every image exactly once, in cells of one fixed size, logits in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.data.decoded_cache import Decoded
from saccade.data.loader import EvaluationView, batches
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device.precision import autocast
from saccade.distributed.world import ALONE, World
from saccade.errors import ConfigError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits
from saccade.objectives.objective import Objective, Result

CELL = 100
"""Images per forward pass, always: kernels may round differently for other sizes."""


def evaluate(
    classifier: Classifier,
    split: Split,
    readers: Readers,
    precision: str,
    device: torch.device,
    poll: Callable[[int], None] = lambda _done: None,
    world: World = ALONE,
    decoded: Decoded | None = None,
) -> Result:
    """Score a classifier on a whole split; labels are matched by name.

    Each rank takes its share of the cells; all get the same figures, and the first one the logits
    of every image. ``poll`` is called with the number of images done after every cell and may raise
    to stop; ``decoded`` holds small images of a split that is scored again and again. Raises
    DataError on an unknown class and DivergedError on logits that are not finite.
    """
    recipe, network = classifier.recipe, classifier.network
    objective = recipe.learned
    # by name: other data may number the same classes otherwise
    split = objective.matched(split)
    view = EvaluationView(
        split,
        recipe.eval_side,
        recipe.framing,
        recipe.exif,
        rank=world.rank,
        ranks=world.size,
        decoded=decoded,
    )

    at_once = CELL * world.size
    # a run goes on training the same network
    was_training = network.training
    network.eval()
    rows = []
    cells = -(-len(split) // at_once)
    try:
        for cell in batches(view, readers, CELL, first_step=0, last_step=cells):
            images = recipe.normalised(cell.images.to(device, non_blocking=True))
            with torch.inference_mode(), autocast(precision, device):
                rows.append(mean_logits(network, images, recipe.eval_views))
            # only now: a GPU has the next cell to compute while the host waits for these
            if len(rows) > 1:
                rows[-2] = rows[-2].cpu()
            poll(min(len(rows) * at_once, len(split)))
    finally:
        network.train(was_training)

    # cells lie in turns on the ranks; the last one is padded
    rows[-1] = rows[-1].cpu()
    parts = world.gather(torch.stack(rows))
    truth = objective.truth(split)
    if not world.leads:
        return Result(world.broadcast(dict), torch.empty(0, rows[0].shape[1]), truth)
    logits = torch.stack(parts, 1).flatten(0, 2)[: len(split)]
    result = _judged(objective, logits.clone(), truth)
    # the others wait for this call above
    world.broadcast(result.to_json)
    return result


def _judged(objective: Objective, logits: Tensor, truth: Tensor) -> Result:
    """Let an objective judge; raises ConfigError where it lacks a figure that every run needs."""
    result = objective.judge(logits, truth)
    if lacking := {objective.primary.name, "loss", "n"} - set(result.figures):
        raise ConfigError(
            f"the objective '{objective.name}' gives no figure {', '.join(sorted(lacking))}",
            where=f"{type(objective).__name__}.judge",
            fix=f"return them, too; it gives {', '.join(sorted(result.figures))}",
        )
    return result
