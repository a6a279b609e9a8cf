"""Measurements of a running training: loss, speed, and time per phase."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from saccade.data.loader import Batch
from saccade.device.async_scalar import Late
from saccade.device.mfu import mfu
from saccade.device.step_timer import PHASES
from saccade.log import Bar, Log
from saccade.models import is_registered
from saccade.objectives.evaluation import Evaluation, best_of
from saccade.objectives.objective import Result
from saccade.training.events import Evaluated, StepDone
from saccade.training.run import Plan, Run, image_macs

# enough for a smooth curve, and log.jsonl stays small in a run of a million steps
EVENTS_PER_RUN = 2000


class Meter:
    """Counts the time of an attempt and writes step and evaluation events.

    Times are in seconds of wall clock. ``earlier_s`` is the time of earlier attempts, ``since`` the
    record of the steps since the last evaluation in a checkpoint.
    """

    def __init__(
        self,
        run: Run,
        log: Log,
        begun: float,
        earlier_s: float,
        since: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan, self._state, self._clock = run.plan, run.state, run.stepper.clock
        self._log = log
        self._begun, self._earlier_s = begun, earlier_s
        self._every = steps_between_events(run.plan)

        # since the last event, added up on the device: nothing waits for it
        self._loss = torch.zeros((), device=run.plan.device)
        self._finite_steps = torch.zeros((), device=run.plan.device)
        self._steps = 0

        # since the last evaluation; a resumed run goes on with what its checkpoint holds
        kept = [(since or {}).get(name) for name in ("loss", "steps")]
        self._epoch = torch.tensor(
            [v if isinstance(v, int | float) else 0.0 for v in kept], device=run.plan.device
        )
        self._epoch_steps, self._epoch_mark = 0, time.perf_counter()

        self._trained: dict[str, Any] = {}
        self._skipped = len(run.state.skipped)
        self._window_wait_s = 0.0
        self._mark = time.perf_counter()
        self.preflight_s = time.monotonic() - begun
        self.phases_s = dict.fromkeys(PHASES, 0.0)
        self.train_s = self.wait_s = self.evaluation_s = 0.0
        self._gpus, self._macs = _device(run.plan)

        # facts whose loss is still on its way from the device
        self._untold: tuple[dict[str, Any], Late] | None = None
        self._unheard: tuple[dict[str, Any], Late] | None = None
        self._step_mark = self._mark
        self._text = ""
        self._score = ""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all attempts together, from the start of each process's work."""
        return self._earlier_s + time.monotonic() - self._begun

    def step(self, loss: Tensor, batch: Batch, bar: Bar) -> None:
        """Record one finished step.

        ``loss``, a scalar, stays on the device until it is written.
        """
        plan, step = self._plan, self._state.step
        # one bad loss must not turn the mean of a whole window into NaN
        finite = torch.isfinite(loss)
        counted = torch.where(finite, loss, 0.0)
        self._loss += counted
        self._finite_steps += finite
        self._epoch += torch.stack([counted, finite.to(counted.dtype)])
        self._steps += 1
        self._epoch_steps += 1
        self._tell_skipped()
        self._window_wait_s += batch.waited_s
        # reading the loss for nobody would cost a wait for the device
        if self._log.listeners.want(StepDone):
            self._hear(loss, batch.waited_s)
        if step % self._every == 0 or step == plan.total_steps:
            self._write()
        bar.update(step, f"{self._text}{self._score}")

    def _hear(self, loss: Tensor, waited_s: float) -> None:
        """Prepare the event of a step for listeners: sent at once, or on a GPU one step late."""
        plan, state, now = self._plan, self._state, time.perf_counter()
        # clocks of some systems are coarse, and two steps may share a tick
        elapsed = max(now - self._step_mark, 1e-9)
        facts = {
            "step": state.step,
            "total_steps": plan.total_steps,
            "epoch": round(plan.epochs_done(state.step), 4),
            "lr": state.optimizers.lr,
            "images_per_s": round(plan.global_batch / elapsed, 1),
            "wait_share": round(min(waited_s / elapsed, 1.0), 4),
        }

        self.catch_up()
        self._unheard, self._step_mark = (facts, Late(loss)), now
        if plan.device.type != "cuda":
            self.catch_up()

    def catch_up(self) -> None:
        """Send the pending event of a step to the listeners."""
        if self._unheard is not None:
            (facts, late), self._unheard = self._unheard, None
            self._log.listeners.tell(StepDone(loss=late.read(), **facts))

    def _tell_skipped(self) -> None:
        """Say which steps were skipped since the last call."""
        skipped = self._state.skipped
        for step in skipped[self._skipped :]:
            left = self._plan.config.guard.allowed - len(skipped)
            why = (
                "loss spike or non-finite value"
                if self._plan.config.guard.spike
                else "non-finite loss or gradient"
            )
            self._log.warn(f"skipped step {step} ({why}); {left} more skips allowed")
            self._log.event("skipped", step=step)
        self._skipped = len(skipped)

    def _write(self) -> None:
        plan, step, now = self._plan, self._state.step, time.perf_counter()
        elapsed = now - self._mark
        phases = self._clock.read()

        facts: dict[str, Any] = {
            "step": step,
            "epoch": round(plan.epochs_done(step), 4),
            "lr": self._state.optimizers.lr,
            "images_per_s": round(self._steps * plan.global_batch / elapsed, 1),
            "wait_share": round(self._window_wait_s / elapsed, 4),
            **{f"{phase}_share": round(spent_s / elapsed, 4) for phase, spent_s in phases.items()},
        }
        if self._macs:
            # MACs were counted at the final size; convolutions cost in proportion to the area
            scale = (plan.view.size_at(step - 1) / plan.config.data.image_size) ** 2
            facts["mfu"] = mfu(self._macs * scale, facts["images_per_s"], self._gpus)

        # on a GPU the loss of this event is told with the next one, so that nothing waits for it
        self._tell()
        self._untold = facts, Late(self._loss / self._finite_steps)
        if plan.device.type != "cuda":
            self._tell()

        self.train_s += elapsed
        self.wait_s += self._window_wait_s
        for phase, spent_s in phases.items():
            self.phases_s[phase] += spent_s
        self._mark, self._steps, self._window_wait_s = now, 0, 0.0
        self._loss.zero_()
        self._finite_steps.zero_()

    def _tell(self) -> None:
        """Write the pending event: on a GPU when the next one is due, because then nothing has to
        wait.
        """
        if self._untold is None:
            return
        (facts, late), self._untold = self._untold, None
        facts["loss"] = late.read()  # NaN, written as null, where every step was left out
        self._log.event("step", **facts)
        self._text = (
            f"epoch {facts['epoch']:.2f}  loss {facts['loss']:.3f}  lr {facts['lr']:.2g}  "
            f"{facts['images_per_s']:.0f} img/s  data wait {facts['wait_share']:.0%}"
        )

    def evaluation(
        self, result: Result, split: str, views: int, taken_s: float, *, final: bool = False
    ) -> Evaluation:
        """Record an evaluation and return it. ``final`` marks the one of the saved weights."""
        self._tell()
        self.catch_up()
        # marks move on by what was spent here, so that the speed is that of training alone
        self.evaluation_s += taken_s
        self._mark += taken_s
        self._step_mark += taken_s
        self._close_epoch(taken_s)

        plan, step = self._plan, self._state.step
        entry = Evaluation(
            step,
            round(plan.epochs_done(step), 4),
            split,
            views,
            figures=result.figures,
            primary=plan.objective.primary,
            final=final,
        )

        self._log.event("eval", **entry.to_json(), **self._trained, final=final)
        # a final figure of more views or of other images is no rival of those on the way
        is_candidate = plan.final_is_candidate or not final
        numbers = {n: v for n, v in result.figures.items() if isinstance(v, int | float)}
        self._log.listeners.tell(
            Evaluated(
                step=step,
                epoch=entry.epoch,
                split=split,
                views=views,
                figures=MappingProxyType(numbers),
                train=MappingProxyType(self._trained),
                is_best=is_candidate and best_of([*self._state.evaluations, entry]) is entry,
                final=final,
            )
        )
        self._score = "  " + " ".join(plan.objective.shown(entry.figures))
        return entry

    @property
    def since(self) -> dict[str, float]:
        """Sum of the training loss since the last evaluation, and its steps: a resumed run adds
        to it.
        """
        loss, steps = self._epoch.tolist()
        # JSON has no NaN; a resumed run then begins a new mean
        return {"loss": loss, "steps": steps} if math.isfinite(loss) else {}

    def _close_epoch(self, taken_s: float) -> None:
        """Compute the training figures since the last evaluation.

        The one after the last step gets the same.
        """
        now, (loss, steps) = time.perf_counter(), self._epoch.tolist()
        spent_s = now - taken_s - self._epoch_mark
        # without a step since the last evaluation, the final one tells what that one told
        if self._epoch_steps:
            self._trained = {
                "train_loss": loss / steps if steps else math.nan,
                "lr": self._state.optimizers.lr,
                "images_per_s": round(
                    self._epoch_steps * self._plan.global_batch / max(spent_s, 1e-9), 1
                ),
            }
        self._epoch.zero_()
        self._epoch_steps, self._epoch_mark = 0, now

    def pause(self, taken_s: float) -> None:
        """Exclude time for other work, such as saving, from the speed."""
        self._tell()
        self._mark += taken_s
        self._step_mark += taken_s
        self._epoch_mark += taken_s

    def summary(self) -> dict[str, float]:
        """Return the time per phase of this attempt."""
        return {
            "preflight_s": round(self.preflight_s, 2),
            "train_s": round(self.train_s, 2),
            "evaluation_s": round(self.evaluation_s, 2),
            "data_wait_share": round(self.wait_s / self.train_s, 4) if self.train_s else 0.0,
            **{f"{phase}_s": round(spent_s, 2) for phase, spent_s in self.phases_s.items()},
        }


def steps_between_events(plan: Plan) -> int:
    """Return after how many steps the next event of a step is written."""
    return plan.config.log.every or math.ceil(plan.total_steps / EVENTS_PER_RUN)


def _device(plan: Plan) -> tuple[list[str], int]:
    """Return the names of the GPUs and the MACs of one image, 0 if the utilisation is unknown."""
    if (
        plan.device.type != "cuda"
        # a backward pass that ends early computes less than the formula says
        or plan.config.finetune.rests
        or plan.precision == "fp32"
        or plan.recipe.model.startswith("custom:")
        or is_registered(plan.recipe.model)
    ):
        return [], 0
    macs = image_macs(plan.config, len(plan.recipe.classes))
    return [torch.cuda.get_device_name(plan.device)] * plan.world.size, macs
