"""The start of a new head when training starts from weights: the linear probe of their frozen
features.

A random head sends gradients into the network that damage good features before the head has learned
to use them. *Source:* Kumar et al. 2022, arXiv 2202.10054 (LP-FT).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config.schema import Config
from saccade.evaluation import passes, probe
from saccade.evaluation.features import Features, sample
from saccade.evaluation.kept_features import features_once
from saccade.evaluation.probe import Probe
from saccade.evaluation.worth import Worth, is_uneven
from saccade.log import Log
from saccade.models.parts.embedding import embed, head_name
from saccade.objectives.classification import Classification
from saccade.objectives.objective import heads
from saccade.optim.optimizers import peak
from saccade.recipes import FEW_TO_TUNE
from saccade.training.run import Plan, Run
from saccade.units import Rate

MOST_IMAGES = 5_000
"""Largest number of training images for the probe."""

MOST_PRODUCTS = 500_000_000
"""Of images x classes x features, which is what one step of fitting costs."""

ALIKE = 0.999
"""Cosine of the logits that a head should give and those that the network then gives."""

RIDGE = 1e-3

FULL_RATE_ERROR, LEAST_SCALE = 0.1, 0.2
"""Share of held-out images that the probe gets wrong, from which on rates are full; and the least
they are multiplied by below. Measured on two sets only: docs/finetuning.md.
"""

Head = nn.Linear | nn.Conv2d


def start_head(run: Run, worth: Worth | None, log: Log, poll: Callable[[], None]) -> None:
    """Set a new head to the linear probe of the training images, and log it.

    Nothing happens if the settings do not request it, or if the weights have a head. ``worth``
    already has the probe if the set is small. Raises what ``poll`` raises.
    """
    plan, init = run.plan, run.history.init
    asked = plan.config.finetune.head_start == "probe"
    if not asked or init.get("head") not in ("zero", "drawn"):
        return
    head = head_of(run.state.model)
    why = _unfit(plan, head)
    if why or head is None:
        log.fact("head", f"starts at zero: {why}")
        return

    if (
        worth
        and worth.learned == len(plan.data.train)
        and plan.objective.head == len(worth.probe.bias)
    ):
        found, seen = worth.probe, worth.features
    else:
        seen = _features(run, min(MOST_IMAGES, MOST_PRODUCTS // head.weight.numel()), log, poll)
        found = probe.fit(seen, plan.objective.head, plan.config.seed)
    if _set(run, head, found if head.bias is not None else unbiased(found, seen.vectors)):
        init["head"] = "probe"
        text = f"starts as the linear probe of {len(seen):,} training images"
        log.fact("head", f"{text}, top-1 {found.held_out_top1:.1%} on held-out training images")
        _ease(run, found, log)
    else:
        log.fact("head", "starts at zero: more than one layer follows the features")


def _ease(run: Run, found: Probe, log: Log) -> None:
    """Lower the learning rates of a small set whose frozen features answer nearly all of it.

    There is little to gain there, and full rates lose more than they gain. A rate that the user
    gave is never scaled.
    """
    plan = run.plan
    is_given = not Rate.parse(plan.config.optimizer.lr).per
    scale = min(max((1 - found.held_out_top1) / FULL_RATE_ERROR, LEAST_SCALE), 1.0)
    if scale == 1 or is_given or len(plan.data.train) >= FEW_TO_TUNE:
        return
    # a probe that always names the most frequent class is seldom wrong, and has much to learn
    train = plan.data.train
    if is_uneven(torch.from_numpy(train.labels), len(train.classes)):
        return
    run.history.init["rate_scale"] = round(scale, 3)
    full, _ = peak(plan.config.optimizer, plan.global_batch)
    text = f"lr {full * scale:.2g} = {full:g} x {scale:.2g}: frozen features leave little to learn"
    log.fact("rate", f"{text} (--lr sets your own rate)")


def rate_scale(init: Mapping[str, Any], config: Config) -> float:
    """Return what the rates are multiplied by in a run that began with these weights."""
    return float(init.get("rate_scale", 1.0)) if Rate.parse(config.optimizer.lr).per else 1.0


def eased(run: Run) -> Run:
    """Return a run whose rates are scaled as its weights ask for; on all ranks alike."""
    plan, init = run.plan, run.history.init
    scale = plan.world.broadcast(lambda: rate_scale(init, plan.config))
    rates = replace(run.stepper.schedule, scale=scale)
    return replace(run, stepper=replace(run.stepper, schedule=rates))


def _features(run: Run, limit: int, log: Log, poll: Callable[[], None]) -> Features:
    """Return the features of up to ``limit`` training images, from the cache if possible."""
    plan = run.plan
    with log.progress("features", min(limit, len(plan.data.train))) as bar:

        def told(done: int) -> None:
            bar.update(done, "of training images, to start the head")
            poll()

        return features_once(
            run.state.model,
            plan.recipe,
            plan.data.train,
            run.readers,
            precision=plan.precision,
            device=plan.device,
            poll=told,
            limit=limit,
        )


def head_of(network: nn.Module) -> Head | None:
    """Return the layer that computes the logits, None if it is not found."""
    name = head_name(network)
    found = network.get_submodule(name) if name else None
    return found if isinstance(found, nn.Linear | nn.Conv2d) else None


def unbiased(found: Probe, vectors: Tensor) -> Probe:
    """Return a probe without a bias whose logits for such vectors, float32 (n, d), are nearly the
    same: the weights take it over along what all the vectors have in common.
    """
    raw = vectors.double()
    # the direction whose product with every vector is as near to one as can be
    square = raw.T @ raw
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    common = torch.linalg.solve(square + ridge, raw.sum(0))
    weight = found.weight.double() + torch.outer(found.bias.double(), common)
    return replace(found, weight=weight.float(), bias=torch.zeros_like(found.bias))


def _set(run: Run, head: Head, found: Probe) -> bool:
    """Copy a probe into a head, and set it back to zero if the network then gives other logits.

    A factor on the logits is divided out.
    """
    _copy(head, found)
    plan, network = run.plan, run.state.model

    def ask(images: Tensor) -> Tensor:
        return torch.cat([embed(network, images).float(), heads(network(images))[0].float()], 1)

    few = sample(plan.data.train, passes.CELL)
    # of features that hardly differ between images, logits are small differences of large numbers:
    # in bf16 they can be noise
    both = passes.rows(
        network,
        plan.recipe,
        few,
        run.readers,
        ask=ask,
        precision="fp32",
        device=plan.device,
    ).double()
    logits = both[:, -len(found.bias) :]
    wanted = both[:, : found.weight.shape[1]] @ found.weight.double().T + found.bias.double()

    product, square = (logits * wanted).sum(), wanted.square().sum()
    alike = float(product / (logits.norm() * wanted.norm()).clamp(min=1e-12))
    factor = float(product / square.clamp(min=1e-12)) if alike > ALIKE else 0.0
    _copy(head, found, 1 / factor if factor else 0.0)
    return factor > 0


def _copy(head: Head, found: Probe, times: float = 1.0) -> None:
    with torch.no_grad():
        head.weight.copy_((times * found.weight).reshape(head.weight.shape))
        if head.bias is not None:
            head.bias.copy_(times * found.bias)


def _unfit(plan: Plan, head: Head | None) -> str:
    """Return why a probe cannot be this head, empty if it can."""
    if not isinstance(plan.objective, Classification):
        return f"a probe needs one class per image, and this run learns {plan.objective.name}"
    if head is None:
        return "the network has no last linear layer"
    if head.weight.shape[0] != plan.objective.head:
        return f"the last linear layer has {head.weight.shape[0]} outputs"
    if MOST_PRODUCTS // head.weight.numel() < 2 * plan.objective.head:
        return f"a probe of {plan.objective.head:,} classes takes too long"
    return ""
