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
        from saccade import api
        from saccade.evaluation.metrics import accuracies, wilson_interval
        from saccade.evaluation.views import phrase
        from saccade.runs.subject import Subject

        if not data:
            api.only_with_data(labels=labels, split_names=split_names)
        subject = Subject.of(run, best)
        classifier = subject.classifier()
        chosen = api.judged_split(subject, data, split, labels or "", split_names or "")
        result, how = api.score(classifier, chosen, subject.resolved, devices, precision)
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

        low, high = wilson_interval(result.correct, result.n)
        shares = "  ".join(accuracies(result.to_json(), len(classifier.recipe.classes)))
        about = f"{subject.phrase}, {how.precision}" if subject.saved else how.precision
        show(
            f"{shares}  loss {result.loss:.4f}  "
            f"({result.correct} of {result.n} images of '{chosen.name}'{phrase(views)}; "
            f"95 % interval {low:.2%} to {high:.2%}; {about})"
        )
