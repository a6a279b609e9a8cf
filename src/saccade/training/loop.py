"""The training loop: load, step, evaluate at the end of an epoch, save when due."""

from __future__ import annotations

import time
from contextlib import nullcontext

from saccade.data.loader import batches
from saccade.log import Log
from saccade.system import held
from saccade.training import judging, saving, watching
from saccade.training.holding import hold
from saccade.training.meter import Meter
from saccade.training.patience import is_exhausted
from saccade.training.reader_processes import feed
from saccade.training.run import Run
from saccade.training.stop import Stop


def train_to_the_end(run: Run, meter: Meter, stop: Stop, log: Log) -> None:
    """Take all remaining steps, or those until patience runs out.

    Raises what ends the run early: DivergedError, a DiskError of the third failed save in a row,
    and on all ranks at the same step PreemptedError or InterruptedRunError.
    """
    begun = time.perf_counter()
    run = hold(run, stop, log)
    meter.pause(time.perf_counter() - begun)

    plan, state, stepper, total = run.plan, run.state, run.stepper, run.plan.total_steps
    rhythm = plan.config.checkpoint.every
    cadence = saving.Cadence(rhythm, plan.epoch_size, plan.global_batch, total)

    source = nullcontext(run.features) if run.features else feed(plan, run.readers, state.step)
    with log.progress("training", total) as bar, source as view:
        bar.start_at(state.step)

        # the attempt before this one may have been cut off in an evaluation
        if judging.evaluate_if_due(run, meter, stop, bar):
            saving.save(run, meter, log)
            watching.after_look(run, meter, log)

        for batch in batches(
            view, run.readers, plan.global_batch, first_step=state.step, last_step=total
        ):
            if is_exhausted(state.evaluations, plan.config.patience):
                break

            loss = stepper.step(state, batch)
            meter.step(loss, batch, bar)
            saving.settle_if_written(run, log)

            stop.check()
            if plan.world.leads:
                held.check_now_and_then(plan.folder)

            # the best state so far is saved at once: nothing else keeps it
            is_best = judging.evaluate_if_due(run, meter, stop, bar)
            if (cadence.is_due(state.step) or is_best) and state.step < total:
                saving.save(run, meter, log)
            watching.after_look(run, meter, log)

    # on one rank alone this would leave the others waiting for gradients that never come
    is_early = is_exhausted(state.evaluations, plan.config.patience)
    assert is_early or state.step == total, f"the loader ended at step {state.step} of {total}"
    stepper.guard.settle()
