"""The files of a run: run.json, config.yaml, earlier attempts, and the lines printed at the
start."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from saccade import files, recipes, units
from saccade._version import __version__
from saccade.config.schema import Config
from saccade.data.sources.handed import is_handed
from saccade.device import environment
from saccade.errors import Explained, PreemptedError, SaccadeError
from saccade.evaluation import views
from saccade.findings import Finding
from saccade.log import Log, read_events
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import Objective
from saccade.recipes import receipts
from saccade.runs.metrics_csv import Table
from saccade.runs.tensorboard import TensorBoard
from saccade.setup.ancestor import own_entry
from saccade.training import recorded
from saccade.training.events import Evaluated, RunEnded, RunStarted
from saccade.training.meter import Meter, steps_between_events
from saccade.training.run import Plan, Run


def announce(run: Run, log: Log) -> None:
    """Print the plan of the run: data, model, batch, rate, precision, threads."""
    plan, config, data = run.plan, run.plan.config, run.plan.data
    log.say()

    epoch = plan.epoch_size
    drawn = f" ({epoch:,} per epoch)" if epoch < len(data.train) else ""
    images = f"{len(data.train):,} training images{drawn}, {len(data.val):,} in '{data.val.name}'"
    learned = f"{plan.objective.head} {plan.objective.noun}"
    if not plan.objective.answers:
        learned = f"{plan.objective.name} pretraining, without labels"
    known_as = f"(fingerprint {data.fingerprint[:12]})"
    log.fact("data", f"{data.source.name}: {images}, {learned}  {known_as}")

    params = sum(p.numel() for p in run.state.model.parameters())
    side = f"{config.data.image_size} px"
    if config.data.eval_size:
        side += f", evaluated at {plan.recipe.eval_side} px"
    if config.model.patch_size:
        side = f"patches of {config.model.patch_size} px, {side}"
    side += views.phrase(config.data.eval_views)
    ema = f"; EMA half-life {config.ema.half_life} is the model" if run.state.ema else ""
    log.fact("model", f"{plan.recipe.model}, {params / 1e6:.2f} M parameters, {side}{ema}")

    length = f"{config.epochs} = {plan.total_steps:,} steps"
    if config.within:
        known = f"{plan.total_steps:,} steps, fitted" if plan.choices.length.value else "fitted"
        length = f"{known} to {config.within}"
    log.fact("length", f"{length}; recipe {config.recipe or 'none'}, seed {config.seed}")
    batch = units.human_batch(plan.global_batch, config.cell, plan.world.size)
    log.fact("batch", f"global {batch}{_left_cell(config)}")
    for name, said in plan.objective.announced():
        log.fact(name, said)
    log.fact("rate", f"lr {run.state.optimizers.formula}; {config.schedule.phrase}")
    for note in run.stepper.schedule.notes():
        log.warn(note)

    if run.state.freezing:
        log.fact("frozen", str(run.state.freezing))
    names = plan.behaviour.names()
    if names:
        log.fact("yours", ", ".join(f"{name} {value}" for name, value in names.items()))
    if config.data.processes and "augment" in names:
        log.warn(
            "reading processes cannot call your augmentation: threads of this process read "
            "the images"
        )
    if config.patience:
        log.fact("patience", _patience(plan))

    log.fact("runs on", _place(plan))
    log.fact("folder", str(plan.folder))


def _patience(plan: Plan) -> str:
    """Say what ends the run early, and the effect on its result."""
    count, title = plan.config.patience, plan.objective.primary.title
    several = f"{count} evaluations" if count > 1 else "the first evaluation"
    text = f"the run ends after {several} on '{plan.data.chosen_on.name}' without a better {title}"
    if not plan.config.data.minival:
        text += (
            "; the final result is on the same images (optimistic; --minival 2% chooses on "
            "other images)"
        )
    return f"{text}; the schedule does not change"


def _place(plan: Plan) -> str:
    """Say the device, the number format and the threads."""
    choices = plan.choices
    name = choices.device.value
    if plan.device.type == "cuda":
        name = torch.cuda.get_device_name(plan.device)
    return (
        f"{name}, {choices.precision.value} ({choices.precision.reason}), "
        f"{choices.compute_threads.value} compute threads, "
        f"{choices.reader_threads.value} reading threads"
    )


def _left_cell(config: Config) -> str:
    """Say that the cell of the recipe was replaced because it does not divide the requested
    batch."""
    if config.batch.cell or config.recipe not in recipes.names():
        return ""
    cell = recipes.find(config.recipe).settings.get("batch", {}).get("cell", 0)
    return (
        f"; the recipe's cell of {cell} does not divide it"
        if cell and config.batch.global_ % cell
        else ""
    )


def begin(run: Run, findings: list[Finding], log: Log, attempt: int) -> None:
    """Write config.yaml and run.json and open the event stream."""
    plan, history = run.plan, run.history
    history.attempts.append(attempt)
    history.findings.extend(f.to_json() for f in findings)
    if not plan.world.leads:
        return

    # the whole configuration, defaults as well: a later version with other defaults still repeats
    # it
    settings = plan.config.dump() | {"resolved": plan.choices.to_json()}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    files.write_bytes(plan.folder / "config.yaml", text.encode())

    # the table goes on from the events of earlier attempts: it reads them before new ones come
    stream = plan.folder / "log.jsonl"
    table = Table(plan.folder / "metrics.csv", read_events(stream), plan.objective)
    log.listeners.add(table, RunStarted, Evaluated)
    log.attempt = attempt
    log.open(stream)
    if plan.config.log.tensorboard:
        figures = [*plan.objective.columns().values(), "loss"]
        folder = files.within(plan.folder, "tensorboard")
        log.listeners.add(TensorBoard(folder, figures, steps_between_events(plan)))

    log.event("start", step=run.state.step, total_steps=plan.total_steps, saccade=__version__)
    # a process that is killed leaves this word, and so nobody takes the run for finished
    _write(run, "running", {})
    log.listeners.tell(
        RunStarted(
            folder=plan.folder,
            model=plan.recipe.model,
            classes=plan.recipe.classes,
            step=run.state.step,
            total_steps=plan.total_steps,
            attempt=attempt,
        )
    )


def end(run: Run, error: Explained, log: Log) -> None:
    """Record and report why a run ends early."""
    log.event("end", status=type(error).__name__, step=run.state.step, message=error.what)
    log.note(str(error))
    failed(run, error)
    status, step = _status(error), run.state.step
    log.listeners.tell(RunEnded(run.plan.folder, status, step, figures={}, message=error.what))


def broken_off(run: Run, error: BaseException, log: Log) -> None:
    """Report that an unexplained error ends the run, so that listeners can clean up."""
    message = f"{type(error).__name__}: {error}"
    log.listeners.tell(
        RunEnded(run.plan.folder, "failed", run.state.step, figures={}, message=message)
    )


def complete(run: Run, result: Evaluation, meter: Meter) -> None:
    """Write the final run.json."""
    best = run.state.best
    assert best is not None
    _write(
        run,
        "done",
        {
            "result": result.to_json(),
            "best": best.to_json() | {"note": _contest(run)},
            "seconds": round(meter.seconds, 2),
            "time": meter.summary(),
            "digest": run.state.digest(),
            "skipped_steps": run.state.skipped,
            "ended_early": _ended_early(run),
        },
    )


def _ended_early(run: Run) -> str | None:
    """Say that patience ended the run before its last step; None if it did not."""
    step, plan = run.state.step, run.plan
    if step == plan.total_steps:
        return None
    return (
        f"patience ended the run at step {step:,} of {plan.total_steps:,}: "
        f"{plan.config.patience} evaluations on '{plan.data.chosen_on.name}' without improvement"
    )


def _contest(run: Run) -> str:
    """Say which evaluations the best was chosen from."""
    count, name = len(run.state.evaluations), run.plan.data.chosen_on.name
    among = f"best of {units.human_count(count, 'evaluation')} on"
    one_view = ", one view of each image" if run.plan.recipe.eval_views > 1 else ""
    if run.plan.config.data.minival:
        return f"{among} '{name}', held out of the training images{one_view}"
    same = "this same set" if run.plan.data.chosen_on is run.plan.data.val else f"'{name}'"
    return f"{among} {same}{one_view} (optimistic)"


def failed(run: Run, error: Explained) -> None:
    """Write into run.json why the run ended, if its folder can still be written.

    The facts of a finished run stay if continuing it was refused.
    """
    if not run.plan.world.leads:
        return
    try:
        before = recorded.facts(run.plan.folder)
        # no attempt of this process began, so the facts of the one before still hold
        if before is not None and before["status"] == "done" and not run.history.attempts:
            return
        _write(run, _status(error), {"exit_status": error.status, "message": str(error)})
    # the error that ends the run is what is told, not that it could not be written down
    except SaccadeError:
        return


def _status(error: Explained) -> str:
    if error.status == PreemptedError.status:
        return "preempted"  # early or late
    return type(error).__name__.removesuffix("Error").removesuffix("Run").lower()


def _write(run: Run, status: str, more: dict[str, Any]) -> None:
    plan, data, history = run.plan, run.plan.data, run.history
    facts = {
        "saccade": __version__,
        "status": status,
        "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": {
            "name": data.source.name,
            "train": len(data.train),
            "val": len(data.val),
            "val_split": data.val.name,
            "classes": list(plan.objective.outputs),
            "fingerprint": data.fingerprint,
            "contents": data.contents,
            "where": {"train": data.train.where, "val": data.val.where},
        },
        "model": {
            "name": plan.recipe.model,
            "params": sum(p.numel() for p in run.state.model.parameters()),
            "identity": history.network,
        },
        "handed_over": plan.behaviour.names(),
        "batch": {"global": plan.global_batch, "cell": plan.config.cell, "ranks": plan.world.size},
        "objective": plan.objective.name,
        "primary": plan.objective.primary.name,
        **plan.objective.facts(),
        "learning_rate": run.state.optimizers.formula,
        "steps": plan.total_steps,
        "resolved": plan.choices.to_json(),
        "environment": environment.environment(plan.world),
        "command": " ".join(sys.argv[1:]),
        "job": _job(os.environ),
        "attempts": history.attempts[-1] if history.attempts else 0,
        "lineage": history.lineage,
        "init": history.init or None,
        **({"untrained": history.untrained} if history.untrained else {}),
        "sizes": history.sizes,
        "trained_on": own_entry(plan.config, data.fingerprint),
        "findings": history.findings,
    }

    files.write_json(plan.folder / "run.json", facts | more)


def _job(env: Mapping[str, str]) -> str | None:
    """Return the SLURM job and its restart count, for the batch script. None outside SLURM."""
    number = env.get("SLURM_JOB_ID")
    return f"{number}.{env.get('SLURM_RESTART_COUNT', 0)}" if number else None


def conclude(
    result: dict[str, Any], folder: Path, seconds: float, log: Log, *, objective: Objective
) -> None:
    """Print the result and the next commands."""
    try:
        facts = files.read_json(folder / "run.json")
        best, early = facts["best"], facts.get("ended_early")
        given, sizes = facts["trained_on"]["data"], facts.get("sizes", [])
    except (OSError, ValueError, KeyError):
        # the run is done and its result is known: a folder that somebody changed, or that the first
        # rank is still writing, must not hide that
        best, early, given, sizes = None, None, {}, []

    primary = objective.primary
    counted = f"{objective.counted(result)} of '{result['split']}'"
    log.say()
    log.say(
        f"  {'   '.join(objective.shown(result))}   "
        f"({counted}{views.phrase(result.get('views', 1))}, with the saved weights re-read from "
        "disk)"
    )

    if early:
        log.say(f"  {early}")
    for side in sorted({entry["side"] for entry in sizes}):
        ways = [f"{e['when']} {primary.shown(e)}" for e in sizes if e["side"] == side]
        log.say(f"  at {side} px: {', '.join(ways)}")
    if best is not None:
        log.say(f"  {best['note']}: {primary.shown(best)} at epoch {best['epoch']:g}")
    if judged := receipts.judge(folder, float(result[primary.name])):
        log.say(f"  {judged}")

    log.say(f"  {units.human_time(seconds)} in total; all files are in {folder}")

    log.say()
    log.say(f"  look      open {folder / 'report.html'}")
    if not objective.answers:
        log.say(f"  measure   saccade probe {folder} --data LABELLED")
        log.say(f"  use       saccade train --init {folder} --data LABELLED")
        return
    log.say(f"  use       saccade predict {folder} IMAGE")
    if any(is_handed(str(given.get(key, ""))) for key in ("train", "val")):
        # only a program in Python has these images
        log.say(f"  score     in Python: saccade.evaluate({str(folder)!r}, data=...)")
        return
    log.say(f"  score     saccade eval {folder}")
    if best is not None and best.get("step") != result.get("step"):
        log.say(f"  best      saccade eval {folder} --best")
