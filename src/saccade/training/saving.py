"""Saving a run: regular checkpoints, and the last valid state when something ends it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from saccade import units
from saccade.device import environment
from saccade.errors import (
    DiskError,
    DivergedError,
    InterruptedRunError,
    PreemptedError,
    SaccadeError,
)
from saccade.log import Log
from saccade.system import held
from saccade.training import checkpoint
from saccade.training.events import CheckpointSaved
from saccade.training.meter import Meter
from saccade.training.pending_save import PendingSave
from saccade.training.run import Run
from saccade.training.stop import Stop
from saccade.units import Duration

FAILED_SAVES_ALLOWED = 3


class Cadence:
    """When a checkpoint is due: ``1ep or 5min``, whichever comes first."""

    def __init__(self, every: str, epoch_samples: int, global_batch: int, total_steps: int) -> None:
        self._lengths: list[float] = []
        self._period_s = math.inf
        for part in every.split(" or "):
            try:
                length = (
                    Duration.parse(part).samples(epoch_samples, global_batch, total_steps)
                    / global_batch
                )
                # never more often than every step
                self._lengths.append(max(float(length), 1.0))
            # no length in steps or samples, so it is one of time
            except ValueError:
                self._period_s = min(self._period_s, units.seconds(part))
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Tell whether to save after ``step`` steps; a True restarts the clock."""
        # counted from step 0 and not from the last save: a resumed run saves at the same steps
        crossed = any(int(step / length) > int((step - 1) / length) for length in self._lengths)
        if crossed or time.monotonic() - self._last > self._period_s:
            self._last = time.monotonic()
            return True
        return False

    def most(self, steps: int, duration_s: float, judged_every: float) -> int:
        """Return the largest number of checkpoints in ``steps`` steps of this duration.

        Those that coincide with an evaluation are not counted.
        """
        due = [int(steps / length) for length in self._lengths if length != judged_every]
        return sum(due) + int(duration_s / self._period_s)


def save(run: Run, meter: Meter, log: Log, *, last: bool = False) -> None:
    """Start writing a checkpoint beside the next steps; older ones are removed after it.

    The one before is waited for: two never overlap. If this is the ``last`` action of the run, this
    one is waited for, too. The first rank does it. Raises what ``settle`` raises.
    """
    plan, state = run.plan, run.state
    # the last step may have been a bad one: nothing is saved before that is known
    run.stepper.guard.settle()
    meter.catch_up()
    if state.step == 0 or not plan.world.leads:
        return

    begun = time.perf_counter()
    settle(run, log)
    # a deleted folder is no alarm: nothing would ever be read from a new one
    held.check(plan.folder)

    best = state.best
    run.history.pending_save = PendingSave(
        plan.folder / "checkpoints",
        checkpoint.packed(state, facts(run, meter)),
        step=state.step,
        keep=plan.config.checkpoint.keep,
        best_step=best.step if best else None,
    )
    if last:
        settle(run, log, last=True)
    meter.pause(time.perf_counter() - begun)


def settle_if_written(run: Run, log: Log) -> None:
    """Do what ``settle`` does if that needs no waiting."""
    pending = run.history.pending_save
    if pending is not None and pending.is_done():
        settle(run, log)


def settle(run: Run, log: Log, *, last: bool = False) -> None:
    """Wait for the checkpoint that is being written, if there is one, and report it.

    A failed save is a warning; the third in a row ends the run with its DiskError. The first one
    ends it if it is the ``last`` action of the run.
    """
    pending, failed = run.history.pending_save, run.history.failed_saves
    if pending is None:
        return
    run.history.pending_save = None

    try:
        path = pending.result()
    except DiskError as error:
        failed.append(error)
        log.warn(
            f"the checkpoint of step {pending.step} could not be saved: {error.what} "
            f"({error.where})"
        )
        if last or len(failed) >= FAILED_SAVES_ALLOWED:
            raise
        return
    failed.clear()
    log.event("checkpoint", step=pending.step, path=path.name)
    log.listeners.tell(CheckpointSaved(pending.step, path))


@contextmanager
def saved_at_the_end(run: Run, meter: Meter, stop: Stop, log: Log) -> Iterator[None]:
    """Save the valid state if an exception ends the steps inside early, and raise it again."""
    try:
        yield
    # asked for: the state is whole, because the wish is never looked at inside a step
    except (PreemptedError, InterruptedRunError) as wish:
        stop.save()
        _save_and_leave(run, meter, log, wish)
        raise
    except (DivergedError, DiskError):
        raise  # there is nothing better to save than what is saved, or no place for it
    # also what is no Exception: the steps since the last checkpoint are worth saving all the same
    except BaseException:
        stop.save()
        _rescue(run, meter, log)
        raise
    finally:
        # nothing is written any more once the lock on the folder is gone
        _let_finish(run, log)


def _save_and_leave(
    run: Run, meter: Meter, log: Log, wish: PreemptedError | InterruptedRunError
) -> None:
    """Save on request, and add the outcome to the message of ``wish``.

    Raises DiskError if it fails. All ranks leave together.
    """
    save(run, meter, log, last=True)

    if run.state.step:
        wish.what += "; the run is saved"
    else:
        wish.what += " before the first step; nothing to save"

    # whoever started the ranks ends all of them when one leaves, so none leaves before the save is
    # done
    run.plan.world.wait()


def _rescue(run: Run, meter: Meter, log: Log) -> None:
    """Save the valid state although an error ends the run.

    The original error is reported in any case.
    """
    # an error in the middle of an update leaves half of it
    if not run.state.whole:
        return

    try:
        with run.plan.world.saving():
            save(run, meter, log, last=True)
    except SaccadeError as error:
        log.warn(f"the steps since the last checkpoint are lost: {error.what}")


def _let_finish(run: Run, log: Log) -> None:
    """Wait for the checkpoint that is being written; its failure is a warning."""
    with contextlib.suppress(DiskError):
        settle(run, log)


def facts(run: Run, meter: Meter) -> dict[str, Any]:
    """Return the facts of a checkpoint besides its tensors."""
    plan, state, history = run.plan, run.state, run.history
    return {
        "position": plan.position(state.step),
        "lr": state.optimizers.lr,
        "config": plan.config.dump(),
        "resolved": plan.choices.to_json(),
        "recipe": asdict(plan.recipe),
        "dataset": plan.data.fingerprint,
        "contents": plan.data.contents,
        "environment": environment.environment(plan.world),
        "attempt": history.attempts[-1],
        "seconds": meter.seconds,
        "since": meter.since,
        "lineage": history.lineage,
        "init": history.init,
        "untrained": history.untrained,
        "sizes": history.sizes,
        "network": history.network,
    }
