"""The loss before the first step: its expected value, and likely causes of another one.

With initial weights, a wrong first loss is an error: a new head starts at zero, so the loss is
exactly that of guessing, and a head from the weights must be better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from saccade.config.schema import DataSection
from saccade.data.loader import Batch
from saccade.errors import DivergedError
from saccade.findings import Finding
from saccade.models.weights.preprocessing import HALVES, IMAGENET
from saccade.preflight import rehearsal
from saccade.preflight.speed import (
    Poll,
    copy_of,
    first_loss,
    global_state_kept,
    largest_step,
    load_cells,
)
from saccade.training.run import Plan, Run
from saccade.training.state import State

USUAL_LOSS = (0.5, 2.0)
ABSURD_LOSS = 10.0

_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NORMALISATIONS = {"ImageNet's": IMAGENET, "one half": HALVES, "none": _PLAIN}
"""Means and deviations that published weights were trained with.

*Source:* torchvision's and timm's published weights.
"""


def judge(loss: float, run: Run, poll: Poll) -> list[Finding]:
    """Compare the first loss, in nats per image, with that of a network that guesses.

    Raises DivergedError if it is not finite.
    """
    plan, head = run.plan, run.history.init.get("head")
    expected, formula = plan.objective.expected_first_loss
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} before the first step",
            where=plan.recipe.model,
            fix="check data.mean, data.std and the loaded weights, if any",
            finding="not-finite",
        )
    if math.isnan(expected) and not plan.objective.answers:
        return []  # its looks compare it with that of a constant answer
    if math.isnan(expected):
        text = f"the loss {formula} is {loss:.3g} at the start; its usual value is not known"
        return [Finding("loss-at-start", "note", text, where=plan.recipe.model)]
    if plan.config.model.init and plan.objective.answers:
        return _with_weights(loss, expected, str(head), run=run, poll=poll)

    text = f"the loss at the start is {loss:.2f}; {formula} = {expected:.2f} is usual"
    if loss > ABSURD_LOSS * expected:
        fix = "check the weight initialisation, data.mean and data.std"
        return [
            Finding("loss-at-start", "error", text, where=plan.recipe.model, fix=fix, status=76)
        ]
    # a network of the user's own may well have been trained
    low = 0.0 if plan.recipe.model.startswith("custom:") else USUAL_LOSS[0]
    if not low * expected <= loss <= USUAL_LOSS[1] * expected:
        fix = "check the weight initialisation"
        return [Finding("loss-at-start", "warning", text, where=plan.recipe.model, fix=fix)]
    return []


def _with_weights(
    loss: float, expected: float, head: str, *, run: Run, poll: Poll
) -> list[Finding]:
    """Refuse a first loss that valid weights cannot have, with the likely cause."""
    low = USUAL_LOSS[0] * expected if head == "zero" else 0.0
    cell, state = None, None
    if head == "loaded":
        with global_state_kept(run.plan.device):
            cell = load_cells(run, largest_step(run.plan), poll)[0][0]
            state = copy_of(run)[0]
            # statistics of a batch would hide that the pixels are not those of the weights
            state.model.eval()
            loss = max(loss, first_loss(state, run.plan, cell))
    if low <= loss <= USUAL_LOSS[1] * expected:
        return []

    _, formula = run.plan.objective.expected_first_loss
    text = f"the loss at the start is {loss:.2f}; guessing gives {formula} = {expected:.2f}: "
    where = f"--init {run.plan.config.model.init}"
    if head == "probe":
        # it was right about the images as evaluation sees them
        text += "the head is a linear probe of unaugmented images and does not fit augmented ones"
        fix = "use weaker crops and colour changes, or --set finetune.head_start=zero"
        return [Finding("loss-at-start", "warning", text, where=where, fix=fix)]
    if cell is None or state is None:
        text += (
            "the head was set to zero, but it is not the last layer"
            if head == "zero"
            else ("the head could not be found, so it is random")
        )
        fix = "make the head the last layer of the network, and set its weights to zero"
        return [Finding("loss-at-start", "error", text, where=where, fix=fix, status=76)]

    with global_state_kept(run.plan.device), rehearsal.explained(run.plan):
        cause, fix = _likely_cause(state, run, cell)
    return [Finding("loss-at-start", "error", text + cause, where=where, fix=fix, status=76)]


def _likely_cause(state: State, run: Run, cell: Batch) -> tuple[str, str]:
    """Say the likely cause of a trained head that is worse than guessing, and what to do."""
    plan, known = run.plan, run.history.init.get("settings", {})
    losses = {
        flags: (first_loss(state, _seen_as(plan, changes), cell), what)
        for flags, what, changes in _other_pixels(plan.config.data, known)
    }
    flags = min(losses, key=lambda name: losses[name][0])
    least, what = losses[flags]
    # a wrong answer is also less sure of itself with less contrast; only a right one beats guessing
    if least < plan.objective.expected_first_loss[0]:
        return f"with {what} it is {least:.2f}, so the weights probably expect that", flags
    return (
        "the weights are probably for other classes or other images, or damaged; no other mean, "
        "standard deviation or channel order gives a lower loss",
        "start with a new head: --set finetune.head_start=anew",
    )


def _other_pixels(
    section: DataSection, known: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield flags, texts and settings of common preprocessing.

    ``known`` has the known settings of these weights, by dotted name: they come first.
    """
    ways = dict(NORMALISATIONS)
    if "data.mean" in known and "data.std" in known:
        own = tuple(known["data.mean"]), tuple(known["data.std"])
        ways = {"as the weights were trained": own} | {n: w for n, w in ways.items() if w != own}

    for channels in ("rgb", "bgr"):
        for name, (mean, std) in ways.items():
            if (mean, std, channels) == (section.mean, section.std, section.channels):
                continue
            flags = f"--mean {_listed(mean)} --std {_listed(std)}" + " --bgr" * (channels == "bgr")
            what = f"mean and standard deviation {name}" + " in BGR order" * (channels == "bgr")
            yield flags, what, {"mean": mean, "std": std, "channels": channels}


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _seen_as(plan: Plan, changes: dict[str, Any]) -> Plan:
    data = plan.config.data.model_copy(update=changes)
    return replace(plan, config=plan.config.model_copy(update={"data": data}))
