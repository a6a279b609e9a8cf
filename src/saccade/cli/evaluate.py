"""``saccade eval``: the score of saved weights."""

from __future__ import annotations

from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show


@app.command(
    name="eval",
    epilog="Example: saccade eval runs/resnet8-digits-1a2b3c4d --data other-photos.zip --json",
)
def evaluate(
    run: options.Run,
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    split: Annotated[
        str, typer.Option("--split", help="Which split; default: the validation split.")
    ] = "",
    best: options.Best = False,
    devices: Annotated[
        str, typer.Option("--devices", help="auto (the run's), cpu, cuda or mps.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto (the run's), fp32, bf16, or fp16.")
    ] = "auto",
    json_out: options.Json = False,
) -> None:
    """Score the saved weights of a run as the run did: every image exactly once."""
    with explained(json_out):
        from saccade.evaluation.views import phrase
        from saccade.runs import scoring
        from saccade.runs.subject import Subject

        if not data:
            scoring.only_with_data(labels=labels, split_names=split_names)
        subject = Subject.of(run, best)
        classifier = subject.classifier()
        chosen = scoring.judged_split(
            subject, data, split, labels=labels or "", split_names=split_names or ""
        )
        result, how = scoring.score(
            classifier, chosen, subject.resolved, devices=devices, precision=precision
        )
        views = classifier.recipe.eval_views

        if json_out:
            print_json(
                {
                    "run": str(run),
                    "weights": str(subject.path),
                    "split": chosen.name,
                    "views": views,
                    "precision": how.precision,
                    "device": how.device.type,
                    **result.to_json(),
                }
            )
            return

        objective, figures = classifier.recipe.learned, result.figures
        interval = objective.interval(figures)
        sure = f"95 % interval {interval[0]:.2%} to {interval[1]:.2%}; " if interval else ""
        about = f"{subject.phrase}, {how.precision}" if subject.saved else how.precision
        show(
            f"{'  '.join(objective.shown(figures))}  loss {result.loss:.4f}  "
            f"({objective.counted(figures)} of '{chosen.name}'{phrase(views)}; {sure}{about})"
        )
