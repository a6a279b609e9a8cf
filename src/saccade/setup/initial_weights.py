"""The initial state of a run besides random values: layers fitted to images, and existing
weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from saccade import recipes
from saccade.config.schema import Config, flatten
from saccade.data.augment.mix import normalise
from saccade.data.readers import Readers
from saccade.errors import CheckpointError, ConfigError
from saccade.findings import Finding, listed, tell
from saccade.log import Log
from saccade.models import Report, backends, find, load_weights
from saccade.models.parts.learner import Learner
from saccade.models.parts.running_statistics import named_statistics
from saccade.models.parts.whitening import IMAGES, Whitening
from saccade.models.quantized.naming import parsed
from saccade.models.weights.readings import heads_of, plain_name, state_of
from saccade.setup import quantized_start
from saccade.setup.ancestor import FOLLOWED, PATCHED, Ancestor, find_weights
from saccade.setup.first_images import first_images
from saccade.setup.head_start import start_head
from saccade.setup.weighing import judge, weigh
from saccade.training.run import Plan, Run

LEAST_SHARE = 0.5
"""Of the weights a start must give.

With less the rest would undo it, and the architecture is likely another.
"""

HEAD_SIDES = (1, 2, 4)
"""Dimensions of what heads are made of: biases, linear layers, 1x1 convolutions."""


def initialise(run: Run, log: Log, poll: Callable[[], None] = lambda: None) -> list[Finding]:
    """Set the parts of a new run that are not random; a resumed run already has them.

    Returns the findings about the weights, after printing them. With several ranks, the first one
    fits the head, and the others get its tensors. Raises as `load_initial` does, and what ``poll``
    raises.
    """
    model, average = run.state.model, run.state.ema
    if parsed(run.plan.recipe.model)[0] is not None:
        run.history.init = quantized_start.begin(run, _ancestor(run.plan.config), log)
        return []
    # before weights from elsewhere, which may replace what was fitted
    fit_whitening(model, run.plan, run.readers)
    learner = model if isinstance(model, Learner) else None
    run.history.init = load_initial(learner.encoder if learner else model, run.plan, log)
    findings: list[Finding] = []
    if run.plan.world.leads:
        findings = _unusual_recipe(run.plan)
        tell(findings, log)
    if learner:
        learner.start()
    elif run.history.init and run.plan.world.leads:
        found = weigh(run, log, poll)
        worth = judge(found, run.plan) if found else []
        tell(worth, log)
        findings += worth
        start_head(run, found, log, poll)
    # else the average would begin with the draws that were just overwritten
    if average:
        average.model.load_state_dict(model.state_dict())
    return findings


def fit_whitening(model: nn.Module, plan: Plan, readers: Readers) -> None:
    """Fit the whitening layer of networks that have one to the first training images, all of one
    size.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Whitening)]
    if not layers:
        return

    seen = list(first_images(plan, readers, IMAGES))
    # a batch has one size, but the size may grow during the run
    alike = torch.cat([part for part in seen if part.shape[2:] == seen[0].shape[2:]])[:IMAGES]

    section = plan.config.data
    images = normalise(alike, section.mean, section.std, section.channels)
    for layer in layers:
        layer.fit(images)


def load_initial(model: nn.Module, plan: Plan, log: Log) -> dict[str, Any]:
    """Copy the weights that ``model.init`` names, log what fitted, and return the record; empty if
    none are named.

    Raises CheckpointError if they cannot be loaded or belong to another architecture.
    """
    init = plan.config.model.init
    if not init:
        return {}
    ancestor = _ancestor(plan.config)
    followed = {n: v for n, v in ancestor.settings.items() if n in FOLLOWED}
    _warn_of_others(plan.config, followed, log)

    if ancestor.path is None:
        report = load_weights(model, backends.pretrained(init))
    else:
        report = load_weights(model, ancestor.path, classes=plan.recipe.classes)

    if report.share < LEAST_SHARE:
        raise CheckpointError(
            f"these weights belong to another architecture: {report}",
            where=f"--init {init}",
            fix="name the architecture of these weights with --model",
        )
    _refuse_other_pixels(plan, report)

    if plan.config.finetune.head_start == "anew":
        heads = heads_of(model)
        behind = tuple(n for n in state_of(model) if n.rpartition(".")[0] in heads)
        report = replace(report, fresh=behind)
    head = empty_heads(model, report, plan.objective.head)
    # how a new one starts is said once that is known
    new = "is new" if plan.config.finetune.head_start == "probe" else "starts at zero"
    start = {"zero": f"; the head {new}", "drawn": "; the head could not be found"}
    log.fact("from", f"{ancestor.phrase}; {report.summary}{start.get(head, '')}")
    _warn_of_drawn(model, report, init, log)
    _refuse_no_statistics(model, report, plan.config)
    if report.dialect == "pycls" and plan.config.data.channels == "rgb":
        log.warn("the published weights of pycls were trained on BGR images: add --bgr")
    log.event("init", init=init, digest=ancestor.digest, share=report.share, report=str(report))
    return ancestor.record(report.source, report.share) | {"head": head}


def _unusual_recipe(plan: Plan) -> list[Finding]:
    """Note a recipe for training from scratch that was named with weights to start from."""
    config = plan.config
    scratch = {*recipes.names()} - {*recipes.TUNING, recipes.OTHER_SIZE}
    if not config.model.init or not plan.objective.answers or config.recipe not in scratch:
        return []
    return [
        Finding(
            "recipe-from-scratch",
            "note",
            f"the recipe {config.recipe} is for training from scratch, and its rates can destroy "
            "what the weights have learned",
            where=f"--init {config.model.init}",
            fix="without a named recipe, one for fine-tuning is chosen",
        )
    ]


def _warn_of_drawn(model: nn.Module, report: Report, init: str, log: Log) -> None:
    """Warn of layers in the middle that are not in the weights: the layers after them get noise."""
    names = {plain_name(name) for name, _ in model.named_parameters()}
    left = [name for name in report.missing if name in names and name not in report.fresh]
    if left:
        log.warn(
            f"{len(left):,} tensors besides the head are missing in --init {init} and start at "
            f"random values: {listed(left, len(left))}; the weights may belong to another network"
        )


def _refuse_no_statistics(model: nn.Module, report: Report, config: Config) -> None:
    """Raise CheckpointError where norms would keep running statistics that nobody measured."""
    kept = config.finetune.norms == "frozen" or config.finetune.rests
    missing = {plain_name(name) for name in named_statistics(model)} & {*report.missing}
    if missing and kept:
        some = listed(sorted(missing), 2)
        raise CheckpointError(
            f"these weights have no running statistics of BatchNorm ({some}), and this run keeps "
            "those that a norm starts with",
            where=f"--init {config.model.init}",
            fix="save all of model.state_dict(), buffers included, and use that file; or train "
            "with new statistics: --set finetune.norms=train, without --freeze",
        )


def empty_heads(model: nn.Module, report: Report, outputs: int) -> str:
    """Set heads that the weights do not have to zero, and return how the main one starts.

    ``outputs`` is the width of a head. Returns ``zero``, ``loaded``, or ``drawn`` if the head is
    unknown. A random head sends noise into good weights; timm's is as large as +-0.7. From zero the
    first loss is ln C for any network, and the head learns first. *Source:* Zhang et al. 2019
    (Fixup), section 3, for zero last layers.
    """
    fresh = {name: t for name, t in model.named_parameters() if plain_name(name) in report.fresh}
    if not fresh:
        return "loaded"
    # what is no head of a network that others wrote must not be emptied: all would be lost
    heads = {n: t for n, t in fresh.items() if t.shape[0] == outputs and t.dim() in HEAD_SIDES}
    with torch.no_grad():
        for tensor in heads.values():
            tensor.zero_()
    return "zero" if len(heads) == len(fresh) else "drawn"


def _ancestor(config: Config) -> Ancestor:
    """Find the weights again; raises CheckpointError if they are gone or have changed."""
    init = config.model.init
    if not init:
        raise ConfigError(
            "a network in 8 bits begins with trained weights",
            where=f"--model {config.model.name}",
            fix="train it in floats, then: saccade quantize RUN",
        )
    try:
        found = find_weights(init)
    except FileNotFoundError as error:
        raise CheckpointError(
            "the weights file no longer exists", where=f"--init {init}", fix="restore the file"
        ) from error
    # the folder of the run is named after the weights that were seen first
    if found.digest != config.model.init_digest:
        raise CheckpointError(
            "the weights file changed while the run started",
            where=f"--init {init}",
            fix="start again",
        )
    return found.of_network(config.model.name)


def _warn_of_others(config: Config, followed: Mapping[str, Any], log: Log) -> None:
    """Warn if the preprocessing differs from the training of the weights: it silently costs
    accuracy.
    """
    settings = flatten(config.dump())
    for name, theirs in followed.items():
        ours, theirs = settings[name], list(theirs) if isinstance(theirs, tuple) else theirs
        # another size is what many want, and is said with the model
        if ours != theirs and name != "data.image_size":
            log.warn(
                f"--init {config.model.init} was trained with {name} {theirs}, but this run uses "
                f"{ours}"
            )


def _refuse_other_pixels(plan: Plan, report: Report) -> None:
    """Raise ConfigError if the first layer would stay random: all further weights would be
    useless."""
    if not report.first:
        return
    init, family = plan.config.model.init, ""
    if not plan.recipe.model.startswith("custom:"):
        family = find(plan.recipe.model).family
    takes_patches = report.patch and family in PATCHED
    raise ConfigError(
        f"the first layer does not fit: {report.first}; all further layers depend on it",
        where=f"--init {init}",
        fix=f"--set model.patch_size={report.patch} uses the patch size of these weights"
        if takes_patches
        else "name the architecture of the weights with --model",
        finding="init-first-layer",
    )
