"""The command line: verbs, nothing else.

Those about data and recipes are in ``cli_data`` and ``cli_recipes``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from saccade.cli import data as cli_data
from saccade.cli import launch, recipes
from saccade.cli import lr as cli_lr
from saccade.cli.app import Json, app, complain, explained, print_json, show, tell, unheard
from saccade.errors import DataError, Explained, SaccadeError, UsageError
from saccade.printable import cell, printable
from saccade.system import signals, streams

if TYPE_CHECKING:
    from saccade.config.schema import Config
    from saccade.runs.subject import Subject
    from saccade.setup.compose import Request

Words = Annotated[
    list[str] | None,
    typer.Argument(help="A YAML file, a recipe or a model; several are merged in order."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="A known name (digits, cifar10 ...), a folder, a tar or zip, or shards."
    ),
]
ValOption = Annotated[
    str | None, typer.Option("--val", help="Validation data, when it is not inside --data.")
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels", help="A CSV (path, label, perhaps split) for images not in class folders."
    ),
]
SplitNamesOption = cli_data.SplitNamesOption
ModelOption = Annotated[str | None, typer.Option("--model", help="A name from `saccade models`.")]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init", help="Start from weights: a run, a .safetensors or .pth file, timm:NAME."
    ),
]
EpochsOption = Annotated[str | None, typer.Option("--epochs", help="Length: 90, 90ep or 5000step.")]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images per optimiser step, over all devices (global)."),
]
LrOption = Annotated[
    float | None, typer.Option("--lr", help="Effective learning rate, never scaled.")
]
SizeOption = Annotated[
    int | None, typer.Option("--image-size", help="Side of the images the network sees, in pixels.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Every random draw follows from it.")
]
OutOption = Annotated[
    str, typer.Option("--out", help="The run folder. Default: runs/<model>-<data>-<fingerprint>.")
]
ResumeOption = Annotated[
    str, typer.Option("--resume", help="auto, never, or a run folder or one of its checkpoints.")
]
ChangedOption = Annotated[
    bool, typer.Option("--resume-changed", help="Go on although settings or images changed.")
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices", help="auto, cpu, mps, 8 (GPUs), 0,2 (these GPUs) or cpu:2 (processes)."
    ),
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16, or fp16 (GPUs only).")
]
TimeOption = Annotated[
    str | None, typer.Option("--max-time", help="Save and stop (exit 75) after this time: 20m, 2h.")
]
HoldoutOption = Annotated[
    str | None,
    typer.Option("--holdout", help="Fraction of the training images to validate on: 10%."),
]
MinivalOption = Annotated[
    str | None,
    typer.Option("--minival", help="Fraction of the training images to choose the best on."),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: section.key=value (repeatable).")
]
RunArgument = Annotated[
    Path, typer.Argument(help="A run folder, a checkpoint in it, or a model.safetensors.")
]
BestOption = Annotated[
    bool, typer.Option("--best", help="Take the best checkpoint of the run, not its last weights.")
]


def _request(given: dict[str, Any]) -> Request:
    """Turn the parameters of a verb, by their names, into what was asked for."""
    from saccade.setup.compose import FLAGS, Request, flag_settings

    flags = {name: given[name] for name in FLAGS if name in given}
    return Request(
        given["words"] or (), flag_settings(**flags), given["sets"] or (), out=given.get("out", "")
    )


@app.command(epilog="Example: saccade train --data photos.zip --holdout 10% --epochs 20")
def train(
    words: Words = None,
    data: DataOption = None,
    val: ValOption = None,
    labels: LabelsOption = None,
    split_names: SplitNamesOption = None,
    model: ModelOption = None,
    init: InitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    image_size: SizeOption = None,
    seed: SeedOption = None,
    out: OutOption = "",
    resume: ResumeOption = "auto",
    resume_changed: ChangedOption = False,
    devices: DevicesOption = None,
    precision: PrecisionOption = None,
    max_time: TimeOption = None,
    holdout: HoldoutOption = None,
    minival: MinivalOption = None,
    dry_run: DryOption = False,
    sets: SetOption = None,
    json_out: Json = False,
) -> None:
    """Train a classifier, or go on exactly where the same command stopped.

    Without arguments: the built-in digits.
    """
    given = locals()
    with explained(json_out):
        from saccade.runs import resuming
        from saccade.setup.agreement import settings_of
        from saccade.setup.compose import compose
        from saccade.setup.compose import dry_run as settled

        request = resuming.based(_request(given), resume)
        if dry_run:
            _print_config(settled(request))
            return
        from saccade import trainer
        from saccade.log import Log
        from saccade.runs import run_folder

        with launch.ranks(settings_of(request)) as world:
            log = Log(rank=world.rank)
            outcome = trainer.train(
                compose(request),
                out=out,
                resume=resume,
                resume_changed=resume_changed,
                log=log,
                world=world,
            )
        if not outcome.fresh:
            log.say(f"this run is finished: {outcome.folder} (start another with --resume never)")
            run_folder.conclude(outcome.result, outcome.folder, outcome.seconds, log)
        if json_out and world.leads:
            print_json({"run": str(outcome.folder), "seconds": outcome.seconds, **outcome.result})


def _print_config(config: Config) -> None:
    import yaml

    show(yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True), nl=False)


@app.command(epilog="Example: saccade check --data photos.zip --holdout 10%")
def check(
    words: Words = None,
    data: DataOption = None,
    val: ValOption = None,
    labels: LabelsOption = None,
    split_names: SplitNamesOption = None,
    model: ModelOption = None,
    init: InitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    image_size: SizeOption = None,
    seed: SeedOption = None,
    devices: DevicesOption = None,
    precision: PrecisionOption = None,
    holdout: HoldoutOption = None,
    minival: MinivalOption = None,
    sets: SetOption = None,
    json_out: Json = False,
) -> None:
    """Look for what would go wrong, and say how long training would take. Leaves nothing behind."""
    given = locals()
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight import checks
        from saccade.setup.compose import compose

        request = _request(given)
        log = Log()
        findings = checks.check(compose(request), log)
        if json_out:
            print_json({"findings": [f.to_json() for f in findings]})
        errors = [f for f in findings if f.severity == "error"]
        log.say(
            "nothing stands in the way"
            if not errors
            else f"{len(errors)} finding(s) stand in the way"
        )
        if errors:
            raise typer.Exit(errors[0].status)


@app.command(
    name="eval",
    epilog="Example: saccade eval runs/resnet8-digits-1a2b3c4d --data other-photos.zip --json",
)
def evaluate(
    run: RunArgument,
    data: DataOption = None,
    labels: LabelsOption = None,
    split_names: SplitNamesOption = None,
    split: Annotated[
        str, typer.Option("--split", help="Which split; default: the validation split.")
    ] = "",
    best: BestOption = False,
    devices: Annotated[
        str, typer.Option("--devices", help="auto (the run's), cpu, cuda or mps.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto (the run's), fp32, bf16, or fp16.")
    ] = "auto",
    json_out: Json = False,
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


@app.command(
    epilog="Example: saccade predict runs/resnet18-photos-1a2b3c4d cat.jpg holiday/ --top 3"
)
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes.")] = 5,
    best: BestOption = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Also write path, rank, class, probability.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")
    ] = False,
    json_out: Json = False,
) -> None:
    """Name what is in images, with probabilities, which are computed in float32 on every machine.

    Images that cannot be read are named on stderr; the others are answered, and the exit status is
    65.
    """
    with explained(json_out):
        from saccade import api, files
        from saccade.data.sources.ilsvrc import class_name

        rows: list[dict[str, Any]] = []
        bad = 0
        for prediction in api.predict(run, images, top=top, best=best, strict=strict):
            rows.append(
                {
                    "path": prediction.path,
                    "top": [{"class": c, "probability": p} for c, p in prediction.top],
                }
            )
            if prediction.error:
                bad += 1
                rows[-1]["error"] = prediction.error
                complain(f"{prediction.error}\n  where: {printable(str(prediction.path), keep='')}")
            elif not json_out:
                named = "  ".join(
                    f"{class_name(name)} {share:.1%}" for name, share in prediction.top
                )
                show(f"{printable(str(prediction.path), keep='')}: {named}")
        if csv is not None:
            files.write_bytes(csv, _csv(rows))
        if json_out:
            print_json(rows)
        if bad:
            complain(
                f"{bad:,} of {len(rows):,} images could not be read; they are named above", "red"
            )
            raise typer.Exit(DataError.status)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for row in rows:
        for rank, answer in enumerate(row["top"], 1):
            share = f"{answer['probability']:.6f}"
            writer.writerow([cell(row["path"], path=True), rank, cell(answer["class"]), share])
    return out.getvalue().encode()


@app.command(epilog="Example: saccade models 'resnet*' --image-size 128")
def models(
    pattern: Annotated[
        str, typer.Argument(help="A name, drawn stage by stage, or a pattern such as 'resnet*'.")
    ] = "*",
    image_size: SizeOption = None,
    num_classes: Annotated[int, typer.Option("--classes", min=1, help="Width of the head.")] = 1000,
    json_out: Json = False,
) -> None:
    """List the architectures with what they cost, or draw one."""
    with explained(json_out):
        from saccade.log import Log
        from saccade.models import find, list_models
        from saccade.report import architectures
        from saccade.report.tables import print_table

        several = any(c in pattern for c in "*?[")
        found = (list_models(pattern) if several else []) or [find(pattern).name]
        rows, left_out = architectures.rows(
            found, num_classes, image_size, Log(), with_stages=not several
        )
        if json_out:
            print_json(rows)
        elif several:
            print_table(architectures.shown(rows), "models", architectures.LEGEND)
        else:
            architectures.draw(rows[0])
        for reason in left_out:
            show(f"left out: {reason}", err=True)


@app.command(epilog="Example: saccade report runs/resnet18-photos-1a2b3c4d")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder or a checkpoint in one; several runs are compared on one page."
        ),
    ],
    best: BestOption = False,
    out: Annotated[
        Path, typer.Option("--out", help="Where the comparison of several runs goes.")
    ] = Path("comparison.html"),
    json_out: Json = False,
) -> None:
    """Write the page and the plots of a run, or one page that compares several."""
    with explained(json_out):
        from saccade.report import compare_runs
        from saccade.runs.subject import Subject

        if len(runs) == 1:
            page = _write_page(Subject.of(runs[0], best), runs[0])
        elif best:
            raise UsageError(
                "several runs are compared by their results", where="--best", fix="name one run"
            )
        else:
            page = compare_runs(runs, out)
        if json_out:
            print_json({"report": str(page)})
        else:
            show(str(page))


def _write_page(subject: Subject, named: Path) -> Path:
    """Write the page of a run, or of one of its checkpoints, which is scored anew for it."""
    from saccade import api
    from saccade.report import write_report

    if subject.saved is not None:
        if subject.folder is None:
            raise UsageError(
                "there is no run around this checkpoint", where=str(named), fix="name a run folder"
            )
        classifier, split = subject.classifier(), api.own_split(subject.config)
        result, _ = api.score(classifier, split, subject.resolved)
        return write_report(subject.folder, split, result, subject.path.name)
    try:
        return write_report(named, api.own_split(subject.config))
    # the images are gone: the page is written without the pictures of mistakes
    except SaccadeError:
        return write_report(named)


@app.command(
    name="verify-resume",
    epilog="Example: saccade verify-resume --data photos.zip --holdout 10%",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def verify_resume(
    context: typer.Context,
    kills: Annotated[int, typer.Option("--kills", min=1, help="How often to kill -9 the run.")] = 3,
    steps: Annotated[
        int, typer.Option("--steps", min=10, help="Length of the run in optimiser steps.")
    ] = 60,
    json_out: Json = False,
) -> None:
    """Kill and resume a short run of your own setup (arguments as for train).

    Compare all weights bit by bit.
    """
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight.verify_resume import prove_resume

        proof = prove_resume(list(context.args), kills=kills, steps=steps, log=Log())
        if json_out:
            print_json(proof)
        else:
            show(
                f"identical: {proof['kills']} kills, resumed at steps {proof['resumed_at']}, "
                f"digest {proof['digest'][:16]}"
            )


for verbs in (recipes, cli_lr, cli_data, launch):
    app.registered_commands.extend(verbs.app.registered_commands)


def _stand_somewhere() -> None:
    """Raise UsageError where the working directory was deleted: libraries end a process without
    a word there.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "the working directory is gone", fix="change to one that exists, such as: cd ~"
        ) from error


def main(run: Callable[[], object] = app) -> NoReturn:
    """Run the command line and leave with the documented exit status."""
    streams.open_missing()
    streams.open_output()
    streams.show_everything()
    signals.SIGNALS.catch()
    signals.SIGNALS.watch()
    status: object = 0
    try:
        _stand_somewhere()
        run()
    except Explained as error:
        status = tell(error)
    except streams.UnheardError as error:
        status = unheard(error)
    except SystemExit as end:
        status = end.code
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(cause, Explained):  # Ctrl-C while the arguments were read
            tell(cause)
    signals.SIGNALS.over()
    broken = streams.failure(sys.stdout)
    if broken and not status:
        status = unheard(broken)
    streams.give_up(sys.stdout)
    streams.give_up(sys.stderr)
    sys.exit(status)  # type: ignore[arg-type]
