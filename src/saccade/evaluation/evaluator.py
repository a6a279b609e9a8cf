"""Evaluation: every image exactly once, with figures of the objective from float32 logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.data.decoded_cache import Decoded
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.distributed.world import ALONE, World
from saccade.errors import ConfigError
from saccade.evaluation import passes
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits
from saccade.objectives.objective import Objective, Result


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
    """Evaluate a classifier on a whole split; labels are matched by name.

    Each rank computes a part of the cells; all get the same figures, and the first one gets the
    logits of every image. ``poll`` is called with the number of finished images after every cell
    and can raise to stop; ``decoded`` caches small images of a split that is evaluated often.
    Raises DataError on an unknown class and DivergedError on logits that are not finite.
    """
    recipe, network = classifier.recipe, classifier.network
    objective = recipe.learned
    # by name: other data may number the same classes otherwise
    split = objective.matched(split)
    logits = passes.rows(
        network,
        recipe,
        split,
        readers,
        ask=lambda images: mean_logits(network, images, recipe.eval_views),
        precision=precision,
        device=device,
        poll=poll,
        world=world,
        decoded=decoded,
    )

    truth = objective.truth(split)
    if not world.leads:
        return Result(world.broadcast(dict), logits, truth)
    result = _judged(objective, logits.clone(), truth)
    # the others wait for this call above
    world.broadcast(result.to_json)
    return result


def _judged(objective: Objective, logits: Tensor, truth: Tensor) -> Result:
    """Compute the figures of an objective; raises ConfigError if a required figure is missing."""
    result = objective.judge(logits, truth)
    if lacking := {objective.primary.name, "loss", "n"} - set(result.figures):
        raise ConfigError(
            f"the objective '{objective.name}' does not return {', '.join(sorted(lacking))}",
            where=f"{type(objective).__name__}.judge",
            fix=f"return these figures, too; it returns {', '.join(sorted(result.figures))}",
        )
    return result
