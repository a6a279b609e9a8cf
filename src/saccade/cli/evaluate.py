"""``saccade eval``: the score of saved weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show

if TYPE_CHECKING:
    from saccade.objectives.objective import Result
    from saccade.runs.scoring import Opened
    from saccade.runs.subject import Conditions


@app.command(
    name="eval",
    epilog="Example: saccade eval runs/resnet8-digits-1a2b3c4d --data other-photos.zip --json",
)
def evaluate(
    run: options.Weights,
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    split: Annotated[
        str, typer.Option("--split", help="Which split; default: the validation split.")
    ] = "",
    best: options.Best = False,
    model: options.Architecture = None,
    mean: options.Mean = None,
    std: options.Std = None,
    bgr: options.Bgr = None,
    image_size: options.ImageSize = None,
    devices: options.DevicesAsRun = "auto",
    precision: options.PrecisionAsRun = "auto",
    json_out: options.Json = False,
) -> None:
    """Score the saved weights of a run as the run did: every image exactly once.

    Weights that others trained are scored with --model, which names their network.
    """
    with explained(json_out):
        from saccade.runs import scoring
        from saccade.runs.foreign import Expected

        if not data:
            scoring.only_with_data(labels=labels, split_names=split_names)
        opened = scoring.opened(
            run,
            Expected.of(model, mean=mean, std=std, bgr=bgr, image_size=image_size),
            best,
            data=data,
            split=split,
            labels=labels or "",
            split_names=split_names or "",
        )
        classifier, chosen = opened.classifier, opened.split
        result, how = scoring.score(
            classifier, chosen, opened.resolved, devices=devices, precision=precision
        )
        if not json_out:
            show(_line(opened, result, how))
            return
        print_json(
            {
                "run": str(run),
                "weights": opened.path,
                "split": chosen.name,
                "views": classifier.recipe.eval_views,
                "precision": how.precision,
                "device": how.device.type,
                **result.to_json(),
            }
        )


def _line(opened: Opened, result: Result, how: Conditions) -> str:
    """Return the figures for people, how sure they are, and what they were counted over."""
    from saccade.evaluation.views import phrase

    recipe, figures = opened.classifier.recipe, result.figures
    objective = recipe.learned
    interval = objective.interval(figures)
    sure = f"95 % interval {interval[0]:.2%} to {interval[1]:.2%}; " if interval else ""
    about = f"{opened.phrase}, {how.precision}" if opened.phrase else how.precision
    return (
        f"{'  '.join(objective.shown(figures))}  loss {result.loss:.4f}  "
        f"({objective.counted(figures)} of '{opened.split.name}'{phrase(recipe.eval_views)}; "
        f"{sure}{about})"
    )
