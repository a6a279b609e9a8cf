"""The last check before training: real cells through a copy of the model, the first loss, and
how long it takes.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from saccade import files, units
from saccade.data.augment.mix import normalise
from saccade.data.loader import Batch, batches
from saccade.data.order import EVERYTHING
from saccade.device import compile, determinism
from saccade.device.loss_scale import LossScale
from saccade.device.precision import autocast
from saccade.device.step_timer import Clock
from saccade.distributed.world import ALONE
from saccade.errors import DivergedError
from saccade.findings import Finding, refuse, tell
from saccade.log import Log
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.objective import heads
from saccade.optim import optimizers as optim
from saccade.optim.ema import Ema
from saccade.preflight import own_network
from saccade.preflight.out_of_memory import is_out_of_memory, smaller_cells, too_large
from saccade.training.guard import Finite
from saccade.training.run import Run
from saccade.training.state import State
from saccade.training.step import StepRunner

BUDGET_SHARE = 0.02
BUDGET_LEAST_S, BUDGET_MOST_S = 1.0, 20.0
LOADER_S = 1.0
LOADED_CELLS = 3
TIMED_STEPS = 5

RESERVE = 1.5
LEAST_READERS = 2

USUAL_LOSS = (0.5, 2.0)
ABSURD_LOSS = 10.0
DISK_MARGIN = 1.2
SHORT_RUN_S = 120.0
FORWARD_SHARE = 1 / 3
"""Forward over forward and backward. *Source:* Kaplan et al.

2020, section 2.1: backward costs twice as much.
"""

Poll = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured: loading one image alone, the first cell of a step, and each further one,
    in seconds.

    ``side`` is the side in pixels of the images that were used, the largest of the run.
    """

    load_s: float
    first_cell_s: float
    next_cell_s: float
    side: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run will take, in seconds: all of it, one step, and what loading and computing
    have in a step.
    """

    total_s: float
    step_s: float
    load_s: float
    compute_s: float

    @property
    def limit(self) -> str:
        """Which of the two holds the other up."""
        return "loading" if self.load_s > self.compute_s else "compute"


def trial(run: Run, log: Log, poll: Poll) -> list[Finding]:
    """Take a few cells through a copy of the model and say how long the run will take.

    Stays within 2 % of that time (at least a second, at most twenty, and one cell whatever it
    takes). Raises DivergedError on an absurd first loss, ConfigError when a cell does not fit into
    memory, DiskError when the checkpoints would not fit onto the disk.
    """
    findings = _disk_space(run)
    refuse(findings)
    before = run.state.digest()
    loss, speed = measure(run, poll)
    assert run.state.digest() == before, "the trial changed the real model"
    findings += _judge(loss, run) + _exactness(run)
    refuse(findings)
    if own_network.is_foreign(run):
        findings += _rehearse(run, poll)
    speed = replace(speed, load_s=_fit_readers(run, speed, log, poll))
    spent = estimate(run, speed)
    _try_compiling(run, speed, spent.total_s)
    findings += _describe(run, spent, log)
    tell((f for f in findings if f.id != "time"), log)
    return findings


def _rehearse(run: Run, poll: Poll) -> list[Finding]:
    with _global_state_kept(run.device), own_network.explained(run):
        cells, _ = _load(run, _largest_step(run), poll)
        return own_network.rehearse(run, lambda: _copy(run), cells[0])


def _try_compiling(run: Run, speed: Speed, run_s: float) -> None:
    """Decide once whether the network is compiled, by a trial on a copy, and write the reason
    down.
    """
    pays, reason = compile.worth_trying(run.device.type, run_s, len(set(run.view.sides)))
    if pays:
        cell, side = run.config.cell, speed.side
        pixels = torch.zeros((cell, 3, side, side), dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last
        )
        places = np.zeros(cell, dtype=np.int64)
        blank = Batch(pixels, torch.zeros(cell, dtype=torch.int64), places, places)
        try:
            state, stepper = _copy(run)
            compile.compile_in_place(state.model)
            _timed(stepper, state, blank)
            compiled_s = statistics.median(
                _timed(stepper, state, blank) for _ in range(TIMED_STEPS)
            )
            pays, reason = compile.worth_keeping(speed.first_cell_s, compiled_s)
        # the compiler has many ways to fail, and none of them is the user's fault
        except Exception as error:
            pays, reason = False, f"it failed: {type(error).__name__}"
    run.resolved["compile"] = {"value": pays, "reason": reason}


def _fit_readers(run: Run, speed: Speed, log: Log, poll: Poll) -> float:
    """Take as many reading threads as this training needs, with half as many in reserve, and not
    one per core.

    Where all of them are too slow, a few are tried: of threads that read tiny images most wait for
    Python's lock, and the waiting itself takes time. Returns the seconds that the loader takes for
    an image.
    """
    if run.config.data.threads:
        return speed.load_s
    before, load_s = run.readers.threads, speed.load_s
    busy = load_s * before * run.config.cell / speed.next_cell_s
    wanted = min(
        max(math.ceil(RESERVE * busy), LEAST_READERS),
        max((os.cpu_count() or 1) // run.world.local_size, 1),
    )
    reason = f"{RESERVE} x the {busy:.2g} that training keeps busy"
    if wanted > LEAST_READERS and busy > before:
        run.readers.resize(LEAST_READERS)
        few_s = _load(run, _largest_step(run), poll)[1]
        if few_s < load_s:
            load_s, wanted, reason = few_s, LEAST_READERS, f"faster than {before}"
    if wanted != run.readers.threads:
        run.readers.resize(wanted)
    if wanted != before:
        log.fact("readers", f"{wanted} reading threads: {reason}")
    # the readers set theirs to one
    torch.set_num_threads(int(run.resolved["compute_threads"]["value"]))
    run.resolved["reader_threads"] = {"value": wanted, "reason": reason}
    return load_s


def measure(run: Run, poll: Poll) -> tuple[float, Speed]:
    """Return the first loss, in nats per image, and the speed of loading and computing, all on a
    copy of the model.

    Raises ConfigError when a cell does not fit into memory.
    """
    with _global_state_kept(run.device):
        cells, load_s = _load(run, _largest_step(run), poll)
        with own_network.explained(run):
            return _compute(run, cells, load_s, poll)


def estimate(run: Run, speed: Speed) -> Estimate:
    """Return how long the run will take: steps, evaluations, and loading, which shares the cores
    on a CPU.
    """
    batch = run.global_batch // run.world.size
    cells = batch // run.config.cell
    full = speed.first_cell_s + (cells - 1) * speed.next_cell_s
    shares = len(run.config.augment.sizes)
    relative = (
        sum((run.view.size_at(step) / speed.side) ** 2 for step in _part_starts(run)) / shares
    )
    compute, load = full * relative, speed.load_s * batch
    shared = run.device.type == "cpu"
    step = compute + load if shared else max(compute, load)
    steps = run.total_steps
    evaluations = min(int(run.epochs_done(steps - 1)), steps - 1)
    evaluations += not run.final_is_candidate
    judged = evaluations * len(run.data.chosen_on) + len(run.data.val)
    forward = (
        FORWARD_SHARE
        * speed.next_cell_s
        / run.config.cell
        * (run.recipe.eval_side / speed.side) ** 2
    )
    each = forward + speed.load_s if shared else max(forward, speed.load_s)
    return Estimate(steps * step + judged * each / run.world.size, step, load, compute)


def _part_starts(run: Run) -> list[int]:
    """Return the first step of each part of the run that has its own image size."""
    parts = len(run.config.augment.sizes)
    return [min(-(-run.total_steps * part // parts), run.total_steps - 1) for part in range(parts)]


def _largest_step(run: Run) -> int:
    return max(_part_starts(run), key=run.view.size_at)


@contextmanager
def _global_state_kept(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        yield


def _load(run: Run, first: int, poll: Poll) -> tuple[list[Batch], float]:
    """Load up to three cells, stopping after a second.

    Return them and the seconds that an image took.
    """
    cell = run.config.cell
    loaded: list[Batch] = []
    begun = time.perf_counter()
    view = replace(run.view, rank_slice=EVERYTHING)  # other ranks take no part in the trial
    for batch in batches(view, run.readers, cell, first_step=first, last_step=first + LOADED_CELLS):
        loaded.append(batch)
        poll()
        if time.perf_counter() - begun > LOADER_S:
            break
    return loaded, (time.perf_counter() - begun) / (cell * len(loaded))


def _compute(run: Run, cells: list[Batch], load_s: float, poll: Poll) -> tuple[float, Speed]:
    """Return the loss at the start and the speed, both from a copy.

    Raises ConfigError when memory is too small.
    """
    try:
        return _loss_and_speed(run, cells, load_s, poll)
    except Exception as error:
        operation = determinism.refused(error)
        if not operation and not is_out_of_memory(error):
            raise
    if operation:
        run.resolved["deterministic"] = {
            "value": False,
            "reason": f"{operation} has no kernel that repeats itself",
        }
        determinism.switch_on(strict=False)
        return _compute(run, cells, load_s, poll)
    # the error is gone here, and with it the frames that held the memory
    raise too_large(
        run, run.view.size_at(_largest_step(run)), _largest_that_fits(run, cells[0], poll)
    )


def _loss_and_speed(run: Run, cells: list[Batch], load_s: float, poll: Poll) -> tuple[float, Speed]:
    begun = time.perf_counter()
    state, stepper = _copy(run)
    loss = first_loss(state, run, cells[0])
    if not math.isfinite(loss):
        return loss, Speed(load_s, 0.0, 0.0, 1)
    warm_s = _timed(stepper, state, cells[0])
    poll()
    several = run.global_batch > run.config.cell and len(cells) > 1
    side = cells[0].images.shape[-1]
    rough = estimate(run, Speed(load_s, warm_s, warm_s, side)).total_s
    deadline = begun + min(max(BUDGET_SHARE * rough, BUDGET_LEAST_S), BUDGET_MOST_S)
    times = _repeat(
        stepper, state, cells[0], last_start=deadline - warm_s * (3 if several else 1), poll=poll
    )
    first_s = statistics.median(times or [warm_s])
    next_s = first_s
    if several and time.perf_counter() + 2 * first_s < deadline:
        next_s = max(_timed(stepper, state, _joined(cells[0], cells[1])) - first_s, 0.5 * first_s)
    return loss, Speed(load_s, first_s, next_s, side)


def _repeat(
    stepper: StepRunner, state: State, cell: Batch, last_start: float, poll: Poll
) -> list[float]:
    times: list[float] = []
    while len(times) < TIMED_STEPS and time.perf_counter() < last_start:
        times.append(_timed(stepper, state, cell))
        poll()
    return times


def _copy(run: Run) -> tuple[State, StepRunner]:
    """Return a state and a runner that share nothing that changes with the run."""
    model = duplicate(run.state.model).train()
    average = Ema(model, 1.0) if run.state.ema else None
    optimizers = optim.build(model, run.config, run.device, str(run.resolved["optimizer"]["value"]))
    state = State(
        model, optimizers, average, scale=LossScale(run.device) if run.state.scale else None
    )
    finite = Finite(f"lr {state.optimizers.formula}, in the trial before training")
    return state, replace(run.stepper, finite=finite, world=ALONE, gradients=None, clock=Clock())


def first_loss(state: State, run: Run, cell: Batch) -> float:
    """Return the plain loss, in nats per image, of a cell in train mode: no mixing, no label
    smoothing.
    """
    section = run.config.data
    with torch.no_grad(), autocast(run.precision, run.device):
        answer = state.model(normalise(cell.images.to(run.device), section.mean, section.std))
    own_network.require_logits(answer, len(cell.labels), run)
    return float(run.objective.plain_loss(heads(answer)[0], cell.labels.to(run.device)))


def _timed(stepper: StepRunner, state: State, batch: Batch) -> float:
    begun = time.perf_counter()
    float(stepper.step(state, batch))  # waits for the device
    stepper.finite.settle()
    return time.perf_counter() - begun


def _joined(one: Batch, other: Batch) -> Batch:
    images = torch.cat([one.images, other.images]).contiguous(memory_format=torch.channels_last)
    samples, epochs = (
        np.concatenate([one.samples, other.samples]),
        np.concatenate([one.epochs, other.epochs]),
    )
    return Batch(images, torch.cat([one.labels, other.labels]), samples, epochs)


def _largest_that_fits(run: Run, batch: Batch, poll: Poll) -> int:
    """Return the largest smaller cell, in images, with which a step does not run out of memory.

    0 if none was found.
    """
    deadline = time.perf_counter() + BUDGET_MOST_S
    for cell in smaller_cells(run):
        config = run.config.model_copy(
            update={"batch": run.config.batch.model_copy(update={"cell": cell})}
        )
        part = replace(
            batch,
            images=batch.images[:cell],
            labels=batch.labels[:cell],
            samples=batch.samples[:cell],
            epochs=batch.epochs[:cell],
        )
        try:
            state, stepper = _copy(run)
            _timed(replace(stepper, config=config), state, part)
            return cell
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        poll()
        if time.perf_counter() > deadline:
            break
    return 0


def _judge(loss: float, run: Run) -> list[Finding]:
    """Compare the first loss with that of a network that knows nothing and is sure of nothing."""
    expected, formula = run.objective.expected_first_loss
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} before the first step",
            where=run.recipe.model,
            fix="look at data.mean, data.std and, where weights were loaded, at these",
            finding="not-finite",
        )
    text = f"the loss at the start is {loss:.2f}; {formula} = {expected:.2f} is usual"
    if loss > ABSURD_LOSS * expected:
        fix = "check the initialisation of the network, data.mean and data.std"
        return [Finding("loss-at-start", "error", text, where=run.recipe.model, fix=fix, status=76)]
    pretrained = bool(run.config.model.init) or run.recipe.model.startswith("custom:")
    low = 0.0 if pretrained else USUAL_LOSS[0]
    if not low * expected <= loss <= USUAL_LOSS[1] * expected:
        return [
            Finding(
                "loss-at-start",
                "warning",
                text,
                where=run.recipe.model,
                fix="is the initialisation as it should be?",
            )
        ]
    return []


def _exactness(run: Run) -> list[Finding]:
    """Say so when two runs of the same command will not be alike to the last bit."""
    choice = run.resolved["deterministic"]
    if choice["value"]:
        return []
    text = (
        "two runs of this command will differ in their last bits, and so will a resumed one: "
        f"{choice['reason']}"
    )
    fix = "put another operation into the network, or train on a CPU, if that matters"
    return [Finding("not-deterministic", "warning", text, where=run.recipe.model, fix=fix)]


def _disk_space(run: Run) -> list[Finding]:
    tensors = [t for group in run.state.tensors().values() for t in group.values()]
    one = sum(t.numel() * t.element_size() for t in tensors)
    count = run.config.checkpoint.keep + 2
    needed, free = DISK_MARGIN * count * one, files.free_bytes(run.folder.absolute())
    if free >= needed:
        return []
    return [
        Finding(
            "disk-space",
            "error",
            f"{count} checkpoints of {units.human_size(one)} need {units.human_size(needed)}, but "
            f"only {units.human_size(free)} are free",
            where=str(run.folder.absolute()),
            fix="free some space, choose another disk with --out, or keep fewer with --set "
            "checkpoint.keep=1",
            status=74,
        )
    ]


def _describe(run: Run, spent: Estimate, log: Log) -> list[Finding]:
    """Print the estimate; it is a finding too, so that `check --json` has it."""
    load, compute = (run.global_batch / max(t, 1e-9) for t in (spent.load_s, spent.compute_s))
    most, aside = (
        ("at most", ", its processes not counted") if run.config.data.processes else ("about", "")
    )
    text = (
        f"{most} {units.human_time(spent.total_s)}: {run.total_steps:,} steps x "
        f"{_short(spent.step_s)} ({spent.limit} "
        f"limits; loader alone {load:,.0f} img/s{aside}, training {compute:,.0f} img/s) + "
        "evaluations"
    )
    log.fact("time", text)
    findings = [Finding("time", "note", text)]
    if spent.limit == "loading" and spent.total_s > SHORT_RUN_S and not aside:
        findings.append(
            Finding(
                "slow-loader",
                "note",
                f"reading and decoding ({load:,.0f} img/s) is slower than training ({compute:,.0f} "
                f"img/s) with {run.readers.threads} threads",
                where="data.threads",
                fix="store the images smaller, or give it more processor cores",
            )
        )
    return findings


def _short(duration_s: float) -> str:
    return f"{1000 * duration_s:.0f} ms" if duration_s < 1 else f"{duration_s:.2f} s"
