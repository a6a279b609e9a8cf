"""Resuming from a checkpoint: which one, whether the run is the same, and the effect of a
change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saccade import files
from saccade.config import schema as configuration
from saccade.config.schema import Config
from saccade.device import environment
from saccade.distributed.world import World
from saccade.errors import CheckpointError, ConfigError
from saccade.log import Log
from saccade.models.weights.content import MODEL_FILE
from saccade.objectives.evaluation import Evaluation
from saccade.setup.compose import Request
from saccade.training import checkpoint, identity, recorded
from saccade.training.checkpoint import Saved
from saccade.training.datasets import Data
from saccade.training.run import NAMED, History, Run
from saccade.training.state import State

NEEDED = ("position", "config", "resolved", "dataset", "environment", "attempt", "seconds")
"""Fields that `training.saving.facts` adds to a checkpoint and that a resumed run needs."""

CHANGED = "--resume-changed (in Python resume_changed=True)"
BESIDE = "`--resume never` starts a new run in another folder"
WORDS = ("auto", "never")
JUMP = 1.25
"""The rates of two neighbouring steps rarely differ by more than this factor in one schedule."""


def run_of(resume: str) -> Path | None:
    """Return the run folder that ``--resume`` names, directly or by one of its checkpoints, or
    None.

    Raises CheckpointError if a run cannot be resumed from it.
    """
    if resume in WORDS:
        return None

    path = Path(resume)
    if path.is_file():
        run = path.resolve().parent
        # weights lie in a run folder, or in checkpoints/step_XXXXXXXX of one
        run = run.parent.parent if checkpoint.is_one(run) else run
        goes_on = f"`--resume {run}` continues its run; " if _is_run(run) else ""
        raise CheckpointError(
            "a run cannot be resumed from a weights file: it has no optimiser state and no "
            "position",
            where=f"--resume {resume}",
            fix=f"{goes_on}`--init {resume}` starts a new run from the weights",
        )

    if checkpoint.is_one(path):
        around = path.resolve().parent.parent
        return _short(around) if _is_run(around) else None

    if path.name == "checkpoints" and _is_run(path.parent):
        return path.parent

    if not _is_run(path):
        raise CheckpointError(
            "there is no checkpoint in this folder"
            if path.is_dir()
            else "this run or checkpoint does not exist",
            where=f"--resume {resume}",
            fix="name a run folder, or one of its checkpoints/step_XXXXXXXX",
        )
    return path


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def _short(path: Path) -> Path:
    """Write a path relative to the working folder if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def based(request: Request, resume: str) -> Request:
    """Use the settings of the run that ``--resume`` names if no recipe, file or model is named."""
    run = None if request.words else run_of(resume)
    if run:
        recorded.settings(run)  # whether they can be read at all, said better than of any file
    return replace(request, words=[str(run / "config.yaml")]) if run else request


def finished(
    folder: Path, config: Config, data: Data, network: Mapping[str, str] = NAMED
) -> dict[str, Any] | None:
    """Return ``run.json`` of a finished run in this folder, or None if the run can continue.

    ``network`` is the identity of the user's own network. Raises ConfigError if it is another run,
    CheckpointError if its files were changed.
    """
    facts, settings = recorded.facts(folder), recorded.settings(folder)
    if (
        facts is None
        or settings is None
        or facts["status"] != "done"
        or not (folder / MODEL_FILE).is_file()
    ):
        return None
    dataset = facts["dataset"]
    changes = Changes.between(
        settings.dump(), config, (dataset["fingerprint"], dataset.get("contents")), data
    )
    # the same command on a finished run: nothing is trained, its result is told again
    if not changes:
        identity.require_same(
            facts["model"].get("identity", {}), network, f"{folder} holds a finished run"
        )
        return facts
    if checkpoint.steps_on_disk(folder / "checkpoints"):
        return None  # ``resume`` says whether, and how, it can go on
    raise ConfigError(
        (
            f"{folder} holds a finished run with other settings: {changes}; its checkpoints were "
            "deleted"
        ),
        fix=BESIDE,
        finding="run-changed",
    )


def earlier(folder: Path, resume: str, log: Log, world: World) -> Saved | None:
    """Find the checkpoint to continue from: the newest one that verifies, or the named one.

    None = a new run.

    Only the first rank reads it; the others get it without tensors.
    """
    saved = _find(folder, resume, log) if world.leads else None
    # a checkpoint may come from anybody: it is refused here rather than fail half-way through
    if saved and (missing := [name for name in NEEDED if name not in saved.meta]):
        raise CheckpointError(
            f"this checkpoint is incomplete: state.json has no '{missing[0]}'",
            where=str(saved.path),
            fix="name another checkpoint, or start a new run with `--resume never`",
        )
    # tensors do not travel here: they are copied once every rank has built its state
    path, meta = world.broadcast(lambda: (str(saved.path), saved.meta) if saved else ("", {}))
    return saved if saved or not path else Saved(Path(path), {}, meta)


def _find(folder: Path, resume: str, log: Log) -> Saved | None:
    place = files.within(folder, "checkpoints")
    # what a kill left half written
    files.sweep_parts(folder)
    files.sweep_parts(place)
    named = Path(resume) if resume not in WORDS else None
    if named is not None and checkpoint.is_one(named):
        return checkpoint.read(named)
    run = run_of(resume)
    own = run is None or run.resolve() == folder.resolve()
    saved, damaged = checkpoint.newest(place if own else run / "checkpoints")  # type: ignore[operator]
    for error in damaged:
        log.warn(
            f"skipped a damaged checkpoint: {error.what} ({Path(error.where).name}); using the "
            "previous one"
        )
    # another run's folder is only read
    if own:
        checkpoint.set_aside(damaged)
    return saved


def offset(saved: Saved | None, config: Config) -> int:
    """Return how many more samples were consumed than the steps of a checkpoint need with this
    batch.

    Raises ConfigError if the stream of samples cannot be continued.
    """
    if saved is None:
        return 0
    position, repeats = int(saved.meta["position"]), config.augment.repeats
    # an epoch's order hands out groups of repeats: it cannot go on in the middle of one
    if position % repeats:
        raise ConfigError(
            f"{saved.path.name} is at sample {position}, which is not a multiple of {repeats} "
            "views per image",
            where="augment.repeats",
            fix=f"keep augment.repeats of that run; {BESIDE}",
        )
    return position - saved.step * config.batch.global_


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences between a run and its earlier attempt: settings by name, each as a phrase,
    and the images.
    """

    settings: tuple[str, ...]
    phrases: tuple[str, ...]
    images: bool

    @classmethod
    def between(
        cls, before: dict[str, Any], config: Config, images: tuple[str, str | None], data: Data
    ) -> Changes:
        """Compare settings, and (fingerprint, digest of a sample of the contents) of the images."""
        differing = [
            (n, f"{n}: {a} -> {b}")
            for n, kind, a, b in configuration.diff(before, config.dump())
            if kind != "run"
        ]
        phrases = [phrase for _, phrase in differing]
        fingerprint, contents = images
        if fingerprint != data.fingerprint:
            phrases.append(f"the images: {fingerprint} -> {data.fingerprint}")
        # None: an earlier version did not write it down
        elif contents not in (None, data.contents):
            phrases.append(
                f"the contents of the images (names and sizes are the same): {contents} -> "
                f"{data.contents}"
            )
        return cls(tuple(n for n, _ in differing), tuple(phrases), len(phrases) > len(differing))

    def __bool__(self) -> bool:
        return bool(self.phrases)

    def __str__(self) -> str:
        return "; ".join(self.phrases)

    @property
    def judging(self) -> bool:
        """Whether the evaluation has changed, so that figures cannot be compared."""
        return self.images or any(
            n.startswith("data.") and n != "data.epoch_size" for n in self.settings
        )


def resume(run: Run, saved: Saved, changed_is_fine: bool, log: Log, *, named: bool = False) -> None:
    """Restore a checkpoint into a run.

    Raises ConfigError when the run is not the same, CheckpointError.

    If the user has ``named`` the checkpoint, the initial values of the user's own network do not
    matter.
    """
    plan, state, history, meta = run.plan, run.state, run.history, saved.meta
    history.lineage = list(meta.get("lineage", []))

    images = meta["dataset"], meta.get("contents")
    changes = Changes.between(meta["config"], plan.config, images, plan.data)
    if changes:
        _refuse(run, saved, changes, changed_is_fine)
        history.lineage.append({"step": saved.step, "changed": str(changes)})
        log.warn(f"continuing with changed settings: {changes}")
    _take_network(history, saved, changed_is_fine, log, named=named)
    history.init.update(meta.get("init") or {})
    history.untrained.update(meta.get("untrained") or {})
    history.sizes[:] = meta.get("sizes") or []

    if plan.world.leads:
        checkpoint.restore(saved, state)
    else:
        checkpoint.follow(saved, state)
    _keep_comparable(state, plan.data.chosen_on.name, changes, log)

    if changes and (jump := _rate_jump(run, saved, state.evaluations)):
        log.warn(jump)
    lost = environment.bit_exactness_lost(
        {"ranks": 1} | meta["environment"], environment.environment(plan.world)
    )
    if lost:
        log.warn(f"no longer bit-exact with the first attempt: {'; '.join(lost)}")
    epoch = plan.epochs_done(state.step)
    log.say(f"resuming at step {state.step} (epoch {epoch:.2f}) from {saved.path}")

    if plan.world.leads:
        _leave_behind(plan.folder, state.step, log)


def _take_network(
    history: History, saved: Saved, changed_is_fine: bool, log: Log, *, named: bool
) -> None:
    """Compare the user's own network with the one of the run.

    Raises ConfigError.
    """
    begun_with, now = saved.meta.get("network", {}), history.network
    # the user points at these weights, so what the module held before does not matter
    if named and "values" in begun_with:
        now = now | {"values": begun_with["values"]}

    try:
        identity.require_same(begun_with, now, f"{saved.path.name} was saved")
    except ConfigError as error:
        if not changed_is_fine:
            raise
        history.lineage.append({"step": saved.step, "changed": error.what})
        log.warn(f"continuing with changed settings: {error.what}")

    if "values" in history.network and "values" in begun_with:
        history.network["values"] = begun_with["values"]  # those that the run began with


def _refuse(run: Run, saved: Saved, changes: Changes, changed_is_fine: bool) -> None:
    """Raise ConfigError if a changed run cannot or must not continue.

    The advice names only what works.
    """
    what = f"{saved.path.name} was saved with other settings: {changes}"
    # looked at first: no flag makes such a run go on
    if saved.step >= run.plan.total_steps:
        raise ConfigError(
            f"{what}; it is at step {saved.step}, and with these settings the run ends at step "
            f"{run.plan.total_steps}: nothing is left to train",
            fix=f"to train longer, use larger --epochs with {CHANGED}; {BESIDE}",
            finding="run-changed",
        )
    if changed_is_fine:
        return
    # a way out is only offered where it works
    fits = not run.plan.world.leads or not checkpoint.compare(saved, run.state)
    told = [Evaluation.parse(entry, run.state.primary) for entry in saved.meta["evaluations"]]
    jump = _rate_jump(run, saved, told)
    goes_on = f"{CHANGED} continues with the new settings{f' ({jump})' if jump else ''}; "
    raise ConfigError(what, fix=f"{goes_on if fits else ''}{BESIDE}", finding="run-changed")


def _rate_jump(run: Run, saved: Saved, evaluations: Sequence[Evaluation]) -> str:
    """Describe a jump of the learning rate at the resume.

    Empty if there is none or it is unknown.
    """
    before = saved.meta.get("lr")
    # asked of the optimisers themselves: plateau schedules depend on the evaluations
    run.state.optimizers.follow(run.stepper.schedule, saved.step, evaluations)
    now = run.state.optimizers.lr
    if not isinstance(before, int | float) or max(before, now) <= JUMP * min(before, now):
        return ""
    return (
        f"the learning rate jumps from {before:.4g} at step {saved.step} to {now:.4g} at the next"
    )


def _keep_comparable(state: State, split: str, changes: Changes, log: Log) -> None:
    """Drop evaluations that cannot be compared with later ones on ``split``: the best is chosen
    among the rest.
    """
    kept = [e for e in state.evaluations if e.split == split and e.views == 1]
    kept = [] if changes.judging else kept
    if len(kept) < len(state.evaluations):
        log.warn(
            f"{len(state.evaluations) - len(kept)} earlier evaluations used other settings; they "
            "do not count for the best checkpoint"
        )
        state.evaluations[:] = kept


def _leave_behind(folder: Path, step: int, log: Log) -> None:
    """Rename checkpoints after ``step`` if the run continues from an older one, because a resume
    uses the newest one.
    """
    place = files.within(folder, "checkpoints")
    newer = sorted(one for one in checkpoint.steps_on_disk(place) if one > step)
    for one in newer:
        files.set_aside(place / f"step_{one:08d}", "left")
    if newer:
        named = ", ".join(f"step_{one:08d}" for one in newer)
        log.warn(f"renamed newer checkpoints to left-...: {named}")
