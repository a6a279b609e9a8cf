"""``saccade eval``: the evaluation of saved weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show

if TYPE_CHECKING:
    from saccade.objectives.objective import Objective, Result
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
        str, typer.Option("--split", help="The split to evaluate; default: the validation split.")
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
    """Evaluate the saved weights of a run, with the same settings: every image exactly once.

    Weights from another program need --model, which names their network. A softmax.npy beside
    labels.npy, as `saccade embed` writes them, needs no network.
    """
    with explained(json_out):
        from saccade.runs import answers, scoring
        from saccade.runs.foreign import Expected

        if file := answers.file_of(run):
            pixels = {"mean": mean, "std": std, "bgr": bgr, "image_size": image_size}
            images = {"data": data, "labels": labels, "split_names": split_names}
            answers.refuse_flags(**images, best=best, model=model, **pixels)
            _answers(file, split, json_out)
            return
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

        result, how = scoring.score(
            opened.classifier,
            opened.split,
            opened.resolved,
            devices=devices,
            precision=precision,
        )

        if json_out:
            print_json(_facts(run, opened, result, how))
        else:
            show(_line(opened, result, how))


def _answers(file: Path, split: str, json_out: bool) -> None:
    """Print the score of predictions in a file."""
    from saccade.runs import answers

    result, objective, name = answers.score(file, split)
    if json_out:
        print_json({"softmax": str(file), "split": name, **result.to_json()})
    else:
        show(_figures(objective, result, f"of '{name}'", "as the file has them"))


def _facts(run: Path, opened: Opened, result: Result, how: Conditions) -> dict[str, Any]:
    return {
        "run": str(run),
        "weights": opened.path,
        "split": opened.split.name,
        "views": opened.classifier.recipe.eval_views,
        "precision": how.precision,
        "device": how.device.type,
        **result.to_json(),
    }


def _line(opened: Opened, result: Result, how: Conditions) -> str:
    """Return the figures for people, with their interval and the number of images."""
    from saccade.evaluation.views import phrase

    recipe = opened.classifier.recipe
    about = f"{opened.phrase}, {how.precision}" if opened.phrase else how.precision
    images = f"of '{opened.split.name}'{phrase(recipe.eval_views)}"
    return _figures(recipe.learned, result, images, about)


def _figures(objective: Objective, result: Result, images: str, about: str) -> str:
    """Return figures with their interval; ``about`` says how they were measured."""
    figures = result.figures
    interval = objective.interval(figures)
    sure = f"95 % interval {interval[0]:.2%} to {interval[1]:.2%}; " if interval else ""
    return (
        f"{'  '.join(objective.shown(figures))}  loss {result.loss:.4f}  "
        f"({objective.counted(figures)} {images}; {sure}{about})"
    )
