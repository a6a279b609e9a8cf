"""What a run in 8 bits begins with: the weights of a run in floats, and the first ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from saccade.data.augment.mix import normalise
from saccade.errors import CheckpointError
from saccade.log import Log
from saccade.models import create_model, load_weights
from saccade.models.quantized import building, compensating
from saccade.models.quantized.naming import parsed
from saccade.setup.ancestor import Ancestor
from saccade.setup.first_images import first_images
from saccade.training.run import Plan, Run

WATCHED = 512
"""Training images that show the first ranges."""

FROZEN_AT = 0.5
"""Share of the run after which ranges stay as they are."""


def begin(run: Run, ancestor: Ancestor, log: Log) -> dict[str, Any]:
    """Give a run in 8 bits its weights and its first ranges; return what is recorded of them.

    Raises CheckpointError where the weights are not all there.
    """
    plan, model = run.plan, run.state.model
    scheme, base = parsed(plan.recipe.model)
    assert scheme is not None, "the name says how it is quantised"
    section = plan.config.model
    network = create_model(
        base,
        num_classes=plan.objective.head,
        image_size=plan.config.data.image_size,
        strides=section.strides,
        patch_size=section.patch_size,
    )

    assert ancestor.path is not None
    report = load_weights(network, ancestor.path, classes=plan.recipe.classes)
    if report.fresh or report.missing:
        raise CheckpointError(
            f"these weights are not all of {base}: {report}",
            where=f"--init {section.init}",
            fix="name a finished run: saccade quantize RUN",
        )

    building.take_weights(model, network, scheme, plan.config.data.image_size)
    # decoded once: some schemes look at them twice
    images = list(first_images(plan, run.readers, WATCHED))
    building.watch(model, _seen(plan, images), int(plan.total_steps * FROZEN_AT))
    if scheme.compensates:
        assert isinstance(model, GraphModule)
        compensating.compensate(model, _seen(plan, images))
    log.fact("from", f"{ancestor.phrase}; all of it, {scheme.name}")
    log.event("init", init=section.init, digest=ancestor.digest, share=1.0, report=str(report))
    return ancestor.record(report.source, report.share) | {"head": "loaded"}


def _seen(plan: Plan, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield images, uint8 (B, 3, S, S), as the network sees them: cells of normalised float32
    (b, 3, S, S), on the device.
    """
    section = plan.config.data
    for images in batches:
        for part in torch.split(images, plan.config.cell):
            yield normalise(part.to(plan.device), section.mean, section.std, section.channels)
