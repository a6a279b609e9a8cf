"""The effect of another image size on trained weights: their results at both sizes, before and
after.

Training crops images, so a network sees larger objects in training than at the test. On larger test
images the objects have the usual size, but the statistics of the last layers still belong to small
images; so the head and the last norm before it are trained on large ones. *Source:* Touvron et al.
2019, "Fixing the train-test resolution discrepancy", arXiv 1906.06423.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from saccade.config.finetune import BUT_LAST_NORM
from saccade.device.placing import placed
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.log import Log
from saccade.models import backends, load_weights
from saccade.objectives.objective import Result
from saccade.setup import build
from saccade.training.judging import score
from saccade.training.run import Run

BEFORE, AFTER = "before", "after"


def are_compared(run: Run) -> bool:
    """Tell whether the sizes are compared: the head came with the weights, and only this head and
    the last norm are trained.
    """
    freeze, came = run.plan.config.finetune.freeze, run.history.init
    return freeze == BUT_LAST_NORM and came.get("head") == "loaded"


def judge_before(run: Run, poll: Callable[[], None], log: Log) -> None:
    """Evaluate the initial weights at their own image size and at that of the run.

    All ranks share the images. The results are stored in the history of the run.
    """
    if not are_compared(run):
        return
    plan, split = run.plan, run.plan.data.val
    for side in sides(run):
        with log.progress(f"before training, at {side} px", len(split)) as bar:

            def tell(done: int) -> None:
                bar.update(done, "the weights as they came")
                poll()

            classifier = Classifier(_as_it_came(run, side), _at(plan.recipe, side))
            _keep(run, BEFORE, side, score(run, classifier, split, tell))

    said = ", ".join(f"{e['side']} px {plan.objective.primary.shown(e)}" for e in run.history.sizes)
    log.fact("before", f"{said} on '{split.name}', with the unchanged weights")


def judge_after(run: Run, trained: Classifier, result: Result, poll: Callable[[int], None]) -> None:
    """Add the final results: ``result`` at the size of the run, and the result at the other."""
    if not are_compared(run):
        return
    own = run.plan.recipe.eval_side
    for side in sides(run):
        at_side = Classifier(trained.network, _at(trained.recipe, side))
        judged = result if side == own else score(run, at_side, run.plan.data.val, poll)
        _keep(run, AFTER, side, judged)


def sides(run: Run) -> list[int]:
    """Return the image sizes, in pixels, of the final evaluation.

    If sizes are compared, it includes the one of the initial weights, if known.
    """
    own = run.plan.recipe.eval_side
    if not are_compared(run):
        return [own]
    made_for = run.history.init["settings"].get("data.image_size", own)
    return sorted({int(made_for), own})


def _at(recipe: Recipe, side: int) -> Recipe:
    return replace(recipe, image_size=side, eval_size=0)


def _keep(run: Run, when: str, side: int, result: Result) -> None:
    """Put a result into the history, replacing that of an earlier attempt."""
    others = [e for e in run.history.sizes if (e["when"], e["side"]) != (when, side)]
    run.history.sizes[:] = [*others, {"when": when, "side": side, **result.to_json()}]


def _as_it_came(run: Run, side: int) -> nn.Module:
    """Return the network for images of a size, with the initial weights of the run.

    A network with tables for a size is built for it, so that nothing is resized twice.
    """
    plan = run.plan
    model, name = plan.objective.encoder(run.state.model), plan.recipe.model
    if side == plan.recipe.image_size or name.startswith("custom:"):
        return model
    section = plan.config.data.model_copy(update={"image_size": side})
    config = plan.config.model_copy(update={"data": section})
    smaller = build.registered(config, plan.objective.head)

    path = run.history.init["path"]
    source = path if path else backends.pretrained(plan.config.model.init)
    load_weights(smaller, source, classes=plan.recipe.classes)
    return placed(smaller, plan.precision, plan.device)
