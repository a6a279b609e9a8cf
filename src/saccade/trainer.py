"""The phases of a run, in order: :func:`train`. The loop itself is `training/loop.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import nn

from saccade import files
from saccade.config.schema import Config
from saccade.device import determinism
from saccade.distributed.world import ALONE, World
from saccade.errors import Explained
from saccade.evaluation.classifier import Classifier
from saccade.findings import Finding, refuse, tell
from saccade.log import Log
from saccade.models.parts.duplicate import duplicate
from saccade.models.weights.content import MODEL_FILE
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import Objective, Result
from saccade.preflight import checks, length, out_of_memory, own_network
from saccade.report import write_report
from saccade.runs import resuming, run_folder
from saccade.setup import agreement, build, sizes, weighing
from saccade.setup.compose import Composed
from saccade.setup.head_start import eased
from saccade.setup.initial_weights import initialise
from saccade.training import datasets, saving, watching
from saccade.training.behaviour import AS_SET, Behaviour
from saccade.training.checkpoint import Saved
from saccade.training.datasets import Data
from saccade.training.events import RunEnded
from saccade.training.judging import look, score
from saccade.training.loop import train_to_the_end
from saccade.training.meter import Meter
from saccade.training.run import Run
from saccade.training.stop import Stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run: its folder and the results of the saved weights on the validation set.

    ``seconds`` is the time of all attempts; ``fresh`` is False if the run was already finished;
    ``settings`` is the resolved configuration, as in ``config.yaml``; ``objective`` is what was
    learned, None if nothing ran.
    """

    folder: Path
    result: dict[str, Any]
    seconds: float
    fresh: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    objective: Objective | None = None


def train(
    composed: Composed,
    *,
    module: nn.Module | None = None,
    behaviour: Behaviour = AS_SET,
    out: str = "",
    resume: str = "auto",
    resume_changed: bool = False,
    log: Log | None = None,
    world: World = ALONE,
    begun: float | None = None,
) -> Outcome:
    """Train to the end of the run, from the start or from where an earlier attempt stopped.

    ``resume`` is ``auto``, ``never`` or the path of a run or of a checkpoint, which continues in
    its own folder without ``out``. With several ranks all of them call this, and only the first
    reads and writes in the run folder. ``module`` is the user's own network; it stays unchanged
    until the run is done and then gets the final weights. ``behaviour`` is everything else that was
    passed from Python. ``begun``, in seconds of the monotonic clock, is the start time for the
    user, if not now. Raises a SaccadeError with the exit status; whatever is worth saving is saved
    before.
    """
    begun = time.monotonic() if begun is None else begun
    log = log or Log(rank=world.rank)
    out = out or str(resuming.run_of(resume) or "")

    with determinism.owned(), Stop(world, log.listeners) as stop:
        # open data and settings, and find the folder: the same on all ranks
        opened = _open(composed, module, behaviour, world, log=log)
        folder = _folder(opened, out, world, fresh=resume == "never")
        with world.only_first(files.locked(folder)):
            stop.limit(opened.config.max_time)
            if (done := _finished_before(opened, folder, world)) is not None:
                return done

            # restore the newest checkpoint, or start
            saved = resuming.earlier(folder, resume, log, world)
            run = _build(opened, folder, saved, world)
            with _ended_in_words(run, log):
                if saved is not None:
                    is_named = resume not in resuming.WORDS
                    resuming.resume(run, saved, resume_changed, log, named=is_named)
                run_folder.announce(run, log)
                found = initialise(run, log, stop.check_here) if saved is None else []
                agreement.copy_state(run.state, world)

                # check what can only be seen by trying; a resumed run was checked when it began
                since = None if saved else begun
                run, findings = _try_out(run, opened.findings + found, stop, log, begun=since)
                run_folder.begin(run, findings, log, attempt=_attempt(saved))

                # take all steps; whatever ends them early, what is well is saved
                meter = _meter(run, saved, begun, log)
                stop.begin()
                with saving.saved_at_the_end(run, meter, stop, log):
                    with out_of_memory.explained(run.plan, run.state):
                        train_to_the_end(run, meter, stop, log)
                    outcome = _finish(run, meter, stop, log)
                _conclude(outcome, run, module, log)
            return outcome


def _conclude(outcome: Outcome, run: Run, module: nn.Module | None, log: Log) -> None:
    """Print the results and the next commands; copy the weights into the user's own network."""
    result, folder, seconds = outcome.result, outcome.folder, outcome.seconds
    run_folder.conclude(result, folder, seconds, log, objective=run.plan.objective)
    # a run in several attempts may have waited for days in between
    late = length.overran(run.plan.config.within, seconds) if run.history.attempts == [1] else ""
    if late:
        log.warn(late)
    if module is not None:
        own_network.give_back(module, run.classifier().network)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The start of a run: its settings and data, what was passed from Python with its identity
    (``network``), and the findings of the first rank.
    """

    config: Config
    data: Data
    module: nn.Module | None
    behaviour: Behaviour
    network: dict[str, str]
    findings: list[Finding]

    @property
    def model_name(self) -> str:
        return build.model_name(self.config, self.module)


def _open(
    composed: Composed,
    module: nn.Module | None,
    behaviour: Behaviour,
    world: World,
    *,
    log: Log,
) -> _Opened:
    """Open the data, resolve the settings that depend on it, and do the checks that need no step.

    Raises on all ranks if one of them has other settings, images or versions.
    """
    data = datasets.open_data(composed.config, composed.source, composed.val_source)
    explicit = composed.explicit_batch
    config, shrunk = build.shrink_batch(composed.config, len(data.train), explicit, module)

    # a class name does not identify a network: a digest of its contents does
    theirs = module if module is not None else build.of_others(config, data, behaviour)
    mine = own_network.identify(theirs) if theirs is not None else {}
    mine |= behaviour.identity()
    agreement.check_same(config, data, world, mine)
    agreement.check_number(config, world)
    network = world.broadcast(lambda: mine)

    # the first rank looks, once: the others were just found to have the same data and settings
    objective = behaviour.learned(config, data.train)
    findings: list[Finding] = []
    if world.leads:
        findings += behaviour.unused(composed.chosen)
        findings += checks.examine(config, data, module, log, shrunk=shrunk, objective=objective)
    tell(findings, log)
    refuse(findings)
    return _Opened(config, data, module, behaviour, network=network, findings=findings)


def _folder(opened: _Opened, out: str, world: World, *, fresh: bool) -> Path:
    """Return the folder of the run, as the first rank sees it."""

    def name() -> str:
        config, data, network = opened.config, opened.data, opened.network
        return str(
            build.folder_for(config, data, opened.model_name, out, fresh=fresh, network=network)
        )

    return Path(world.broadcast(name))


def _finished_before(opened: _Opened, folder: Path, world: World) -> Outcome | None:
    """Return the outcome of this run if it is already finished, else None.

    The user's own network gets the weights. Raises ConfigError where the folder holds another run.
    """
    config, data, module = opened.config, opened.data, opened.module
    done = world.broadcast(lambda: resuming.finished(folder, config, data, opened.network))
    if done is None:
        return None

    # the caller's network ends with the same weights whether this call trained it or an earlier one
    if module is not None and (folder / MODEL_FILE).is_file():
        Classifier.load(folder, module)
    seconds = float(done["seconds"])
    learned = opened.behaviour.learned(config, data.train)
    return Outcome(
        folder,
        done["result"],
        seconds,
        fresh=False,
        settings=config.dump(),
        objective=learned,
    )


def _build(opened: _Opened, folder: Path, saved: Saved | None, world: World) -> Run:
    """Build the run as it is before its first step, with the choices of earlier attempts."""
    config = opened.config
    # an earlier attempt's choices win: another precision or kernel in mid-run would be another run
    choices = opened.behaviour.noted_in(agreement.decide(config, saved, world))
    offset = resuming.offset(saved, config)
    with out_of_memory.building(config):
        return build.build(
            config,
            opened.data,
            folder,
            choices,
            module=opened.module,
            behaviour=opened.behaviour,
            network=opened.network,
            world=world,
            offset=offset,
        )


@contextmanager
def _ended_in_words(run: Run, log: Log) -> Iterator[None]:
    """Record the error that ends a run, and release its resources."""
    try:
        yield
    except Explained as error:
        run_folder.end(run, error, log)
        raise
    except BaseException as error:
        run_folder.broken_off(run, error, log)
        raise
    finally:
        run.readers.close()
        log.close()


def _try_out(
    run: Run, findings: list[Finding], stop: Stop, log: Log, *, begun: float | None
) -> tuple[Run, list[Finding]]:
    """Run a few trial steps of a new run, started at ``begun``, on a copy on the first rank, and
    share its choices with all ranks.

    A resumed run has no ``begun``: it keeps the choices of its first trial.
    """
    run, choices = eased(run), run.plan.choices
    # before the trial: what is left of a time that was set is fitted at its end
    look_s = 0.0
    if begun is not None:
        look_s = watching.look_before(run, stop, log)
        sizes.judge_before(run, stop.check, log)
        if run.plan.world.leads:
            found, choices = checks.trial(run, log, stop.check_here)
            findings = findings + found
    run = agreement.share_trial(run, choices)
    if begun is not None and run.plan.config.within:
        run, found = length.settle(run, log, stop.check, begun=begun, look_s=look_s)
        findings = findings + found

    # from here on all ranks compute together, each with the network as it will train
    build.join(run.state.model, run.plan)
    return run, findings


def _attempt(saved: Saved | None) -> int:
    """Return the number of this attempt, from 1."""
    return 1 + (saved.meta["attempt"] if saved else 0)


def _meter(run: Run, saved: Saved | None, begun: float, log: Log) -> Meter:
    """Return a meter that continues the figures of earlier attempts in the checkpoint."""
    before = saved.meta if saved else {}
    return Meter(run, log, begun, float(before.get("seconds", 0)), since=before.get("since"))


def _finish(run: Run, meter: Meter, stop: Stop, log: Log) -> Outcome:
    """Write the final weights, read them back from disk, and evaluate what was read."""
    plan, state = run.plan, run.state
    if plan.world.leads:
        files.write_bytes(plan.folder / MODEL_FILE, run.classifier().to_bytes())
    # what is judged is what a user will load, so a fault in writing shows in the figure
    reread = _read_back(run)

    begun = time.perf_counter()
    with log.progress("final evaluation", len(plan.data.val)) as bar:

        def poll(done: int) -> None:
            bar.update(done, "the saved weights, read back from disk")
            stop.check()

        if plan.objective.answers:
            result = score(run, reread, plan.data.val, poll)
        else:
            result = look(run, _around(run, reread), poll)
        sizes.judge_after(run, reread, result, poll)
    taken_s = time.perf_counter() - begun

    name, views = plan.data.val.name, plan.recipe.eval_views
    entry = meter.evaluation(result, name, views, taken_s, final=True)
    if plan.final_is_candidate:
        # a resumed finish may meet its own earlier entry of this step: it is replaced, not doubled
        state.evaluations[:] = [e for e in state.evaluations if e.step != state.step] + [entry]

    # the last checkpoint comes after the judgement, and so it knows the final figure
    saving.save(run, meter, log)
    saving.settle(run, log)
    watching.after_look(run, meter, log)
    if plan.world.leads:
        _hand_over(run, meter, result, entry, log=log)
    return Outcome(
        plan.folder,
        entry.to_json(),
        meter.seconds,
        settings=plan.config.dump(),
        objective=plan.objective,
    )


def _read_back(run: Run) -> Classifier:
    """Return the classifier that the first rank reads from the disk, on all ranks.

    It is read into a copy whose saved tensors are zero, so that nothing of the network in memory
    can stand in for what the file lacks.
    """
    skeleton = duplicate(run.classifier().network)
    tensors = [*skeleton.parameters(), *skeleton.buffers()]
    with torch.no_grad():
        # buffers that are not saved, such as indices, stay
        for tensor in skeleton.state_dict().values():
            tensor.zero_()

    if run.plan.world.leads:
        reread = Classifier.load(run.plan.folder, skeleton)
    else:
        reread = Classifier(skeleton, run.plan.recipe)
    run.plan.world.copy_from_first_(tensors)
    return reread


def _around(run: Run, reread: Classifier) -> nn.Module:
    """Return a copy of the learner around the encoder that was read back."""
    learner = duplicate(run.state.final_model)
    kept = run.plan.objective.encoder(learner)
    kept.load_state_dict(reread.network.state_dict())
    return learner


def _hand_over(run: Run, meter: Meter, result: Result, entry: Evaluation, *, log: Log) -> None:
    """Write predictions, run.json and the report."""
    folder = run.plan.folder
    if run.plan.objective.answers:
        answers = {"logits": result.logits, "labels": result.labels}
        files.write_bytes(folder / "predictions.safetensors", safetensors.torch.save(answers))

    # weights that were worth more before they were trained on are no secret
    found = weighing.compare(result.figures.get("top1", 1.0), run)
    tell(found, log)
    run.history.findings.extend(f.to_json() for f in found)

    log.event("end", status="done", step=run.state.step, **result.to_json())
    # run.json says "done" only now, when all that it stands for is on the disk
    run_folder.complete(run, entry, meter)
    write_report(folder, run.plan.data.val)
    figures = MappingProxyType(result.to_json())
    log.listeners.tell(RunEnded(folder, "done", run.state.step, figures=figures))
