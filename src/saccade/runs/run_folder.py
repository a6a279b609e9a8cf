"""What a run leaves behind and finds again: run.json, config.yaml, earlier attempts, the lines
at the start.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from saccade import files, objectives, recipes, units
from saccade._version import __version__
from saccade.config.schema import Config
from saccade.device import environment
from saccade.errors import Explained, PreemptedError, SaccadeError
from saccade.evaluation import views
from saccade.findings import Finding
from saccade.log import Log, read_events
from saccade.objectives.evaluation import Evaluation
from saccade.recipes import receipts
from saccade.runs import tensorboard
from saccade.runs.metrics_csv import Table
from saccade.setup.ancestor import own_entry
from saccade.training import recorded
from saccade.training.meter import Meter
from saccade.training.run import Run


def announce(run: Run, log: Log) -> None:
    """Print what will be done: data, model, batch, rate, precision, threads."""
    config, data, choices = run.config, run.data, {n: c["value"] for n, c in run.resolved.items()}
    params = sum(p.numel() for p in run.state.model.parameters())
    cells, size = run.global_batch // config.cell // run.world.size, run.world.size
    ranks = f"x {size} rank{'s' * (size > 1)}"
    ema = f"; EMA half-life {config.ema.half_life} is the model" if run.state.ema else ""
    log.say()
    epoch = run.view.order.epoch_size
    drawn = f" ({epoch:,} of them in an epoch)" if epoch < len(data.train) else ""
    images = f"{len(data.train):,} training images{drawn}, {len(data.val):,} in '{data.val.name}'"
    classes = f"{run.objective.head} {run.objective.noun}  (fingerprint {data.fingerprint[:12]})"
    log.fact("data", f"{data.source.name}: {images}, {classes}")
    side = f"{config.data.image_size} px" + (
        f", judged at {run.recipe.eval_side} px" * bool(config.data.eval_size)
    )
    side += views.phrase(config.data.eval_views)
    log.fact("model", f"{run.recipe.model}, {params / 1e6:.2f} M parameters, {side}{ema}")
    log.fact(
        "length",
        f"{config.epochs} = {run.total_steps:,} steps; recipe {config.recipe or 'none'}, "
        f"seed {config.seed}",
    )
    batch = (
        f"global {run.global_batch} = {cells} cell{'s' * (cells > 1)} x {config.cell} images "
        f"{ranks}"
    )
    log.fact("batch", batch + _left_cell(config))
    log.fact("rate", f"lr {run.state.optimizers.formula}; {config.schedule.phrase}")
    for note in run.stepper.schedule.notes():
        log.warn(note)
    place = (
        torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else choices["device"]
    )
    log.fact(
        "runs on",
        f"{place}, {choices['precision']} ({run.resolved['precision']['reason']}), "
        f"{choices['compute_threads']} compute threads, {choices['reader_threads']} reading "
        "threads",
    )
    log.fact("folder", str(run.folder))


def _left_cell(config: Config) -> str:
    """Say that the cell of the recipe was left for another, because it does not divide the batch
    that was asked for.
    """
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
    run.attempts.append(attempt)
    run.findings.extend(f.to_json() for f in findings)
    if not run.world.leads:
        return
    text = yaml.safe_dump(
        run.config.dump() | {"resolved": run.resolved}, sort_keys=False, allow_unicode=True
    )
    files.write_bytes(run.folder / "config.yaml", text.encode())
    log.attempt = attempt
    stream = run.folder / "log.jsonl"
    log.listeners.append(Table(run.folder / "metrics.csv", read_events(stream), run.objective))
    log.open(stream)
    if run.config.log.tensorboard:
        log.listeners.append(
            tensorboard.tensorboard(files.within(run.folder, "tensorboard"), run.objective)
        )
    log.event("start", step=run.state.step, total_steps=run.total_steps, saccade=__version__)
    _write(run, "running", {})


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
        },
    )


def _contest(run: Run) -> str:
    """Say among what the best was chosen."""
    count, name = len(run.state.evaluations), run.data.chosen_on.name
    among = f"best of {count} evaluation{'s' * (count > 1)} on"
    one_view = ", one view of each image" if run.recipe.eval_views > 1 else ""
    if run.config.data.minival:
        return f"{among} '{name}', held out of the training images{one_view}"
    return f"{among} this same set{one_view} (optimistic)"


def failed(run: Run, error: Explained) -> None:
    """Write into run.json why the run ended, where its folder can still be written.

    The facts of a finished run stay where going on from it was refused before it began.
    """
    if not run.world.leads:
        return
    try:
        before = recorded.facts(run.folder)
        if before is not None and before["status"] == "done" and not run.attempts:
            return
        _write(run, _status(error), {"exit_status": error.status, "message": str(error)})
    except SaccadeError:
        return


def _status(error: Explained) -> str:
    if error.status == PreemptedError.status:
        return "preempted"  # early or late
    return type(error).__name__.removesuffix("Error").removesuffix("Run").lower()


def _write(run: Run, status: str, more: dict[str, Any]) -> None:
    data = run.data
    facts = {
        "saccade": __version__,
        "status": status,
        "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": {
            "name": data.source.name,
            "train": len(data.train),
            "val": len(data.val),
            "val_split": data.val.name,
            "classes": list(run.objective.outputs),
            "fingerprint": data.fingerprint,
            "contents": data.contents,
            "where": {"train": data.train.where, "val": data.val.where},
        },
        "model": {
            "name": run.recipe.model,
            "params": sum(p.numel() for p in run.state.model.parameters()),
            "identity": run.network,
        },
        "batch": {"global": run.global_batch, "cell": run.config.cell, "ranks": run.world.size},
        "objective": run.objective.name,
        "primary": run.objective.primary.name,
        **run.objective.facts(),
        "learning_rate": run.state.optimizers.formula,
        "steps": run.total_steps,
        "resolved": run.resolved,
        "environment": environment.environment(run.world),
        "command": " ".join(sys.argv[1:]),
        "job": _job(os.environ),
        "attempts": run.attempts[-1] if run.attempts else 0,
        "lineage": run.lineage,
        "init": run.init or None,
        "trained_on": own_entry(run.config, data.fingerprint),
        "findings": run.findings,
    }
    files.write_json(run.folder / "run.json", facts | more)


def _job(env: Mapping[str, str]) -> str | None:
    """Return which start of which job of SLURM this is, as the batch script asks for it.

    None elsewhere.
    """
    number = env.get("SLURM_JOB_ID")
    return f"{number}.{env.get('SLURM_RESTART_COUNT', 0)}" if number else None


def conclude(result: dict[str, Any], folder: Path, seconds: float, log: Log) -> None:
    """Print the result and what to try next."""
    try:
        facts = files.read_json(folder / "run.json")
        best, objective = facts["best"], objectives.of_facts(facts)
    except (OSError, ValueError, KeyError):
        best, objective = None, objectives.of_facts({})
    primary = objective.primary
    counted = f"{objective.counted(result)} of '{result['split']}'"
    log.say()
    log.say(
        f"  {'   '.join(objective.shown(result))}   ({counted}"
        f"{views.phrase(result.get('views', 1))}, the saved weights re-read from disk)"
    )
    if best is not None:
        log.say(f"  {best['note']}: {primary.shown(best)} at epoch {best['epoch']:g}")
    if judged := receipts.judge(folder, float(result[primary.name])):
        log.say(f"  {judged}")
    log.say(f"  {units.human_time(seconds)} in all; everything is in {folder}")
    log.say()
    log.say(f"  look      open {folder / 'report.html'}")
    log.say(f"  use       saccade predict {folder} IMAGE")
    log.say(f"  score     saccade eval {folder}")
    if best is not None and best.get("step") != result.get("step"):
        log.say(f"  best      saccade eval {folder} --best")
