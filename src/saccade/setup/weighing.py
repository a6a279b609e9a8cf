"""A test of initial weights before training, and a comparison with the result at the end."""

from __future__ import annotations

import math
from collections.abc import Callable

from saccade.config.finetune import BACKBONE
from saccade.errors import ConfigError
from saccade.evaluation import untrained
from saccade.evaluation import worth as weights
from saccade.evaluation.worth import Worth
from saccade.findings import Finding
from saccade.log import Log
from saccade.objectives.classification import Classification
from saccade.training.run import Plan, Run
from saccade.units import human_count

MOST_CLASSES = weights.LEARNED
"""With more classes, some would have no image to learn from."""

FEWEST_JUDGED = 30
"""With fewer validation images one of them is more than three points, and nothing is concluded."""

PIXELS = {
    "ImageNet's mean and deviation": "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    "0.5": "--mean 0.5 --std 0.5",
    "BGR": "--bgr",
}
"""What to write for each way to normalise that `saccade.evaluation.worth` compares."""


def weigh(run: Run, log: Log, poll: Callable[[], None]) -> Worth | None:
    """Measure the accuracy of frozen features of the weights on validation images, beside the same
    network untrained; None if the run does not have one class per image.

    The results go into the history of the run and are cached, so a second start takes no time.
    Raises what ``poll`` raises.
    """
    plan, init = run.plan, run.history.init
    # weights that give the head, too, are judged by the first loss
    if not isinstance(plan.objective, Classification) or init.get("head") == "loaded":
        return None
    if (classes := len(plan.data.train.classes)) > MOST_CLASSES:
        log.fact("worth", f"not measured: a probe of {classes:,} classes takes too long")
        return None
    sides = plan.data.train, plan.data.val
    # a network of the user's own cannot be made a second time
    named = not plan.recipe.model.startswith("custom:")
    beside = untrained.count(run.state.model) if named else 0
    count = weights.total(plan.recipe, sides, beside=beside)
    with log.progress("testing the initial weights", count) as bar:

        def told(done: int) -> None:
            bar.update(done, "with frozen features of some images")
            poll()

        try:
            drawn = []
            if named:
                drawn = untrained.networks(plan.recipe, sides[0], run.readers, device=plan.device)
            found = weights.worth(
                run.state.model,
                drawn,
                plan.recipe,
                sides,
                readers=run.readers,
                seed=plan.config.seed,
                precision=plan.precision,
                device=plan.device,
                poll=told,
            )
        except ConfigError as error:  # nothing tells which of its numbers are features
            log.fact("worth", f"not known: {error.what}")
            return None
    init["worth"] = found.to_json() | {"helps": found.helps}
    return found


def judge(found: Worth, plan: Plan) -> list[Finding]:
    """Say whether weights help, and whether they were trained with other pixels."""
    frozen, other = found.frozen, found.untrained
    unknown = other is not None and not found.helps and found.judged < FEWEST_JUDGED
    text = f"frozen {frozen.best:.1%} (neighbours {frozen.knn:.1%}, linear {frozen.probe:.1%})"
    if other is not None:
        doubt = "do not clearly help" if frozen.best > other.best else "do not help"
        helps = f"these weights {'help' if found.helps else doubt}"
        helps = "too few images to tell whether these weights help" if unknown else helps
        text += f", untrained {other.best:.1%}"
        if found.balanced:
            ours, theirs = found.balanced
            text += f"; each class with the same weight {ours:.1%}, untrained {theirs:.1%}"
        text += f": {helps}"
    text += (
        f" ({human_count(found.judged, 'image')} of '{plan.data.val.name}', "
        f"{found.learned:,} to learn from)"
    )
    place = f"--init {plan.config.model.init}"
    if unknown:
        fix = "hold out more validation images, or train without --init, too, and compare"
        findings = [Finding("weights-worth", "note", text, where=place, fix=fix)]
    elif found.helps is False:
        fix = "use weights that were trained on more similar images, or train without --init"
        if other is not None and frozen.best > other.best:
            fix = "too few validation images to be sure: train without --init, too, and compare"
        findings = [Finding("weights-worth", "warning", text, where=place, fix=fix)]
    else:
        findings = [Finding("weights-worth", "note", text, where=place)]

    if found.better:
        ours, theirs = next(iter(found.pixels.values())), found.pixels[found.better]
        text = (
            f"kNN is right for {ours:.1%} of a few images with these settings and for "
            f"{theirs:.1%} with {found.better}: the weights were probably trained that way"
        )
        fix = f"try {PIXELS.get(found.better, 'it without --bgr')}"
        findings.append(Finding("weights-pixels", "warning", text, where=place, fix=fix))
    return findings


def compare(top1: float, run: Run) -> list[Finding]:
    """Warn if a finished run, of this ``top1``, 0..1, is below the frozen features at its start."""
    worth, settings = run.history.init.get("worth"), run.plan.config.finetune
    if not worth:
        return []
    frozen, count = max(worth["frozen"].values()), worth["judged"]
    if top1 >= frozen:
        return []
    error = math.sqrt(frozen * (1 - frozen) / max(count, 1))
    text = (
        f"fine-tuned {top1:.1%}, frozen {frozen:.1%}: training reached less than a probe of the "
        f"frozen features (standard error with {human_count(count, 'image')}: {error:.1%})"
    )
    fix = "try --freeze backbone or a lower --lr, or another --seed to see the random variation"
    if settings.freeze == BACKBONE and not settings.unfreeze:
        probed = run.history.init.get("head") == "probe"
        other = "a lower --lr" if probed else "--set finetune.head_start=probe"
        fix = f"only the head was trained: try more --epochs, or {other}"
    if frozen - top1 > 2 * error:
        return [Finding("frozen-is-better", "warning", text, where="top-1", fix=fix)]
    return [Finding("frozen-is-better", "note", text, where="top-1", fix=fix)]
