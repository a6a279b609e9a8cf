"""The phases of a run, in order: :func:`train`. The loop itself is `training/loop.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from saccade import files, units
from saccade.device import determinism
from saccade.distributed.world import ALONE, World
from saccade.errors import (
    DiskError,
    DivergedError,
    Explained,
    InterruptedRunError,
    PreemptedError,
)
from saccade.evaluation.classifier import Classifier
from saccade.findings import Finding, refuse, tell
from saccade.log import Log
from saccade.models.parts.duplicate import duplicate
from saccade.models.weights.loading import MODEL_FILE
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import Result
from saccade.preflight import checks, out_of_memory, own_network
from saccade.report import write_report
from saccade.runs import resuming, run_folder
from saccade.setup import agreement, build
from saccade.setup.compose import Composed
from saccade.setup.initial_weights import start
from saccade.training import datasets, saving
from saccade.training.checkpoint import Saved
from saccade.training.judging import score
from saccade.training.loop import train_to_the_end
from saccade.training.meter import Meter
from saccade.training.run import Run
from saccade.training.stop import Stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a run: its folder and the figures of the saved weights on the validation
    set.

    ``seconds`` is the time of all attempts; ``fresh`` is False when the run had been finished
    before; ``settings`` is the resolved configuration, as in ``config.yaml``.
    """

    folder: Path
    result: dict[str, Any]
    seconds: float
    fresh: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def train(
    composed: Composed,
    *,
    module: nn.Module | None = None,
    out: str = "",
    resume: str = "auto",
    resume_changed: bool = False,
    log: Log | None = None,
    world: World = ALONE,
) -> Outcome:
    """Train to the end of the run, from scratch or from where an earlier attempt stopped.

    ``resume`` is ``auto``, ``never`` or the path of a run or of a checkpoint, which goes on in its
    own folder without ``out``. With several ranks all of them call this, and only the first reads
    and writes in the run folder. ``module`` is a network of the user's own; it is left as it is
    until the run is done, and then holds the final weights. Raises a SaccadeError with the exit
    status of what happened; whatever is worth saving is saved before.
    """
    begun, log = time.monotonic(), log or Log(rank=world.rank)
    out = out or str(resuming.run_of(resume) or "")
    with determinism.owned(), Stop(world) as stop:
        data = datasets.open_data(composed.config, composed.source, composed.val_source)
        config, shrunk = build.shrink_batch(
            composed.config, len(data.train), composed.explicit_batch, module
        )
        theirs = module if module is not None else build.of_others(config, data)
        mine = own_network.identify(theirs) if theirs is not None else {}
        agreement.check_same(config, data, world, mine)
        agreement.check_number(config, world)
        network = world.broadcast(lambda: mine)
        findings = checks.examine(config, data, module, log, shrunk) if world.leads else []
        tell(findings, log)
        refuse(findings)
        name, anew = build.model_name(config, module), resume == "never"
        folder = Path(
            world.broadcast(
                lambda: str(build.run_folder(config, data, name, out, fresh=anew, network=network))
            )
        )
        with world.only_first(files.locked(folder)):
            stop.limit(units.seconds(config.max_time) if config.max_time else None)
            done = world.broadcast(lambda: resuming.finished(folder, config, data, network))
            if done is not None:
                if module is not None and (folder / MODEL_FILE).is_file():
                    Classifier.load(folder, module)
                return Outcome(
                    folder,
                    done["result"],
                    float(done["seconds"]),
                    fresh=False,
                    settings=config.dump(),
                )
            saved = resuming.earlier(folder, resume, log, world)
            choices, offset = (
                agreement.resolve(config, saved, world),
                resuming.offset(saved, config),
            )
            with out_of_memory.building(config):
                run = build.build(config, data, folder, choices, module, world, offset)
            run = replace(run, network=network)
            try:
                if saved is not None:
                    resuming.resume(
                        run, saved, resume_changed, log, named=resume not in resuming.WORDS
                    )
                outcome = _attempt(run, saved, findings, begun, stop, log)
                run_folder.conclude(outcome.result, folder, outcome.seconds, log)
            except Explained as error:
                log.event(
                    "end", status=type(error).__name__, step=run.state.step, message=error.what
                )
                log.note(str(error))
                run_folder.failed(run, error)
                raise
            finally:
                run.readers.close()
                log.close()
            if module is not None:
                own_network.give_back(module, run.state.final_model)
            return outcome


def _attempt(
    run: Run, saved: Saved | None, findings: list[Finding], begun: float, stop: Stop, log: Log
) -> Outcome:
    """Train from the state at hand to the end.

    What ends it on the way is raised when the state is saved.
    """
    run_folder.announce(run, log)
    if saved is None:
        start(run, log)
    agreement.copy_state(run.state, run.world)
    if saved is None and run.world.leads:
        findings += checks.trial(run, log, stop.check_here)
    agreement.share_trial(run)
    run_folder.begin(run, findings, log, attempt=1 + (saved.meta["attempt"] if saved else 0))
    before = saved.meta if saved else {}
    meter = Meter(run, log, begun, float(before.get("seconds", 0)), before.get("since"))
    stop.begin()
    try:
        with out_of_memory.explained(run):
            train_to_the_end(run, meter, stop, log)
        return _finish(run, meter, stop, log)
    except (PreemptedError, InterruptedRunError) as wish:
        stop.save()
        saving.save_and_leave(run, meter, log, wish)
        raise
    except (DivergedError, DiskError):
        raise  # there is nothing better to save than what is saved, or no place for it
    except BaseException:
        stop.save()
        saving.rescue(run, meter, log)
        raise


def _finish(run: Run, meter: Meter, stop: Stop, log: Log) -> Outcome:
    """Write the final weights, read them back from the disk, and let only these be judged."""
    model_file = run.folder / MODEL_FILE
    if run.world.leads:
        files.write_bytes(model_file, run.classifier().to_bytes())
    skeleton = duplicate(run.state.final_model)
    tensors = [*skeleton.parameters(), *skeleton.buffers()]
    with torch.no_grad():
        # buffers that are not saved, such as indices, stay
        for tensor in skeleton.state_dict().values():
            tensor.zero_()
    reread = (
        Classifier.load(run.folder, skeleton)
        if run.world.leads
        else Classifier(skeleton, run.recipe)
    )
    run.world.copy_from_first_(tensors)
    begun = time.perf_counter()
    with log.progress("final evaluation", len(run.data.val)) as bar:

        def poll(done: int) -> None:
            bar.update(done, "the saved weights, read back from disk")
            stop.check()

        result = score(run, reread, run.data.val, poll)
    taken_s, state = time.perf_counter() - begun, run.state
    entry = meter.evaluation(result, run.data.val.name, run.recipe.eval_views, taken_s, final=True)
    if run.final_is_candidate:
        state.evaluations[:] = [e for e in state.evaluations if e.step != state.step] + [entry]
    saving.save(run, meter, log)
    if run.world.leads:
        _hand_over(run, meter, result, entry, log)
    return Outcome(run.folder, entry.to_json(), meter.seconds, settings=run.config.dump())


def _hand_over(run: Run, meter: Meter, result: Result, entry: Evaluation, log: Log) -> None:
    """Write what is looked at afterwards: predictions, run.json, the report."""
    answers = {"logits": result.logits, "labels": result.labels}
    files.write_bytes(run.folder / "predictions.safetensors", safetensors.torch.save(answers))
    log.event("end", status="done", step=run.state.step, **result.to_json())
    run_folder.complete(run, entry, meter)
    write_report(run.folder, run.data.val)
