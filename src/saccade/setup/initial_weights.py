"""What a run begins with besides draws: a look at the images, and weights from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from saccade.config.schema import flatten
from saccade.data.augment.mix import normalise
from saccade.data.loader import batches
from saccade.data.order import EVERYTHING
from saccade.errors import CheckpointError, ConfigError
from saccade.log import Log
from saccade.models import Report, backends, find, load_weights
from saccade.models.parts.whitening import IMAGES, Whitening
from saccade.setup.ancestor import FOLLOWED, PATCHED, find_weights
from saccade.training.run import Run

LEAST_SHARE = 0.5
"""Of the weights a start must give.

With less the rest would undo it, and the architecture is likely another.
"""


def start(run: Run, log: Log) -> None:
    """Set what is not drawn, in a run that begins; a resumed run has all of it.

    Raises as `start_from_weights` does.
    """
    look_at_images(run)
    start_from_weights(run, log)
    if run.state.ema:
        run.state.ema.model.load_state_dict(run.state.model.state_dict())


def look_at_images(run: Run) -> None:
    """Fit whitening layers, of networks that begin with one, to the first training images, all
    of one size.
    """
    layers = [layer for layer in run.state.model.modules() if isinstance(layer, Whitening)]
    if not layers:
        return
    steps = min(-(-IMAGES // run.global_batch), run.total_steps)
    view = replace(run.view, rank_slice=EVERYTHING)  # the same images on any number of ranks
    seen = [batch.images for batch in batches(view, run.readers, run.global_batch, 0, steps)]
    alike = torch.cat([part for part in seen if part.shape[2:] == seen[0].shape[2:]])[:IMAGES]
    images = normalise(alike, run.config.data.mean, run.config.data.std)
    for layer in layers:
        layer.fit(images)


def start_from_weights(run: Run, log: Log) -> None:
    """Copy the weights that ``model.init`` names and say what fitted.

    Raises CheckpointError when they cannot be had or are of another architecture.
    """
    init = run.config.model.init
    if not init:
        return
    try:
        ancestor = find_weights(init)
    except FileNotFoundError as error:
        raise CheckpointError(
            "these weights are gone", where=f"--init {init}", fix="bring them back"
        ) from error
    if ancestor.digest != run.config.model.init_digest:
        raise CheckpointError(
            "these weights changed while the run started", where=f"--init {init}", fix="start again"
        )
    model = run.state.model
    if ancestor.path is None:
        published = backends.pretrained(init)
        report = load_weights(model, published.state)
        followed = (
            {"data.mean": published.mean, "data.std": published.std} if published.mean else {}
        )
        _warn_of_others(run, followed, log)
    else:
        report = load_weights(model, ancestor.path, classes=run.recipe.classes)
        _warn_of_others(run, {n: v for n, v in ancestor.settings.items() if n in FOLLOWED}, log)
    if report.share < LEAST_SHARE:
        raise CheckpointError(
            f"these weights are of another architecture: {report}",
            where=f"--init {init}",
            fix="name the architecture that they belong to with --model",
        )
    _refuse_other_pixels(run, report)
    log.fact("from", ancestor.phrase)
    for line in str(report).splitlines():
        log.say(line)
    if report.dialect == "pycls":
        log.warn("the published weights of pycls were trained on BGR images; this run gives RGB")
    run.init.update(ancestor.record(report.source, report.share))
    log.event("init", init=init, digest=ancestor.digest, share=report.share, report=str(report))


def _warn_of_others(run: Run, followed: Mapping[str, Any], log: Log) -> None:
    """Say where the user wants other pixels than the weights were trained for: each costs
    accuracy without a word.
    """
    settings = flatten(run.config.dump())
    for name, theirs in followed.items():
        ours, theirs = settings[name], list(theirs) if isinstance(theirs, tuple) else theirs
        # another size is what many want, and is said with the model
        if ours != theirs and name != "data.image_size":
            log.warn(
                f"--init {run.config.model.init} was trained with {name} {theirs}, this run "
                f"has {ours}"
            )


def _refuse_other_pixels(run: Run, report: Report) -> None:
    """Raise ConfigError where the layer that sees the pixels would stay random: all that follows
    would be wasted.
    """
    if not report.first:
        return
    init, family = run.config.model.init, ""
    if not run.recipe.model.startswith("custom:"):
        family = find(run.recipe.model).family
    takes_patches = report.patch and family in PATCHED
    raise ConfigError(
        f"the first layer does not fit: {report.first}; everything after it was trained for "
        "what that layer gives",
        where=f"--init {init}",
        fix=f"--set model.patch_size={report.patch} takes the patches of these weights"
        if takes_patches
        else "name the architecture that the weights belong to with --model",
        finding="init-first-layer",
    )
