"""Proof of exact resume on the user's own set-up: kill a short run, resume it, compare every
bit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saccade import files, rng
from saccade.errors import CheckpointError, SaccadeError, StopTraining
from saccade.log import Log, read_events
from saccade.rng import Purpose

ATTEMPT_LIMIT_S = 3600.0
LAST_LINES = 6
"""Lines of a run that failed which are shown: its error, at most."""


def prove_resume(arguments: list[str], *, kills: int, steps: int, log: Log) -> dict[str, Any]:
    """Train twice, once without interruption and once killed ``kills`` times, and compare every
    bit.

    ``arguments`` are those of ``saccade train``. Each kill is a SIGKILL at a step drawn from the
    pid. Returns the common digest and the steps at which runs were resumed; raises CheckpointError
    when the digests differ.
    """
    # short runs, many checkpoints: most kills then come after one
    every = max(steps // 12, 1)
    common = [*arguments, "--epochs", f"{steps}step", "--set", f"checkpoint.every={every}step"]
    # two runs that were fitted to the same time may differ in their lengths
    common += ["--set", "within="]
    with files.scratch_folder() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        log.say(f"training {steps} steps without interruption")
        _attempt([*common, "--out", str(whole)], None, whole, log)

        # The steps differ from proof to proof: a resume must be exact at any of them.
        draws = sorted(rng.uniform(rng.key(os.getpid(), Purpose.SAMPLE), kills).tolist())
        for number, draw in enumerate(draws, 1):
            # never after the last step: there would be nothing left to resume
            step = 1 + int(draw * (steps - 2))
            log.say(f"kill {number} of {kills}: kill -9 after step {step}")
            _attempt([*common, "--out", str(broken)], step, broken, log)

        log.say("resuming to the end")
        _attempt([*common, "--out", str(broken)], None, broken, log)

        return _compared(
            whole,
            broken,
            kills=kills,
            steps=steps,
            fix="please report this with your settings: it is a bug, or the device is not "
            "deterministic",
        )


def _compared(whole: Path, broken: Path, *, kills: int, steps: int, fix: str) -> dict[str, Any]:
    """Return the proof from two finished runs.

    Raises CheckpointError, with what to do in ``fix``, when their digests differ.
    """
    undisturbed, resumed = (
        str(files.read_json(folder / "run.json")["digest"]) for folder in (whole, broken)
    )
    if undisturbed != resumed:
        raise CheckpointError(
            "the resumed run differs from the uninterrupted one",
            where=f"digests {undisturbed[:16]} and {resumed[:16]}",
            fix=fix,
        )
    return {
        "kills": kills,
        "steps": steps,
        "resumed_at": _resumed_at(broken),
        "digest": undisturbed,
        "identical": True,
    }


Training = Callable[[Path, int | None], object]
"""Trains into a folder to the end, or for the given number of steps."""


def prove_here(train: Training, *, kills: int, steps: int, log: Log) -> dict[str, Any]:
    """Prove the same within this process, for a set-up that exists only in Python.

    ``train`` raises StopTraining to end early. Then the checkpoints of the last steps are removed,
    as a kill would lose them. Returns what :func:`prove_resume` returns; raises CheckpointError
    when the digests differ.
    """
    with files.scratch_folder() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        log.say(f"training {steps} steps without interruption")
        train(whole, None)

        draws = sorted(rng.uniform(rng.key(os.getpid(), Purpose.SAMPLE), kills).tolist())
        for number, draw in enumerate(draws, 1):
            step = 2 + int(draw * (steps - 3))
            log.say(f"stop {number} of {kills}: after step {step}, without its checkpoint")
            with contextlib.suppress(StopTraining):
                train(broken, step)
            files.remove_tree(broken / "checkpoints" / f"step_{step:08d}")
        log.say("resuming to the end")
        train(broken, None)

        return _compared(
            whole,
            broken,
            kills=kills,
            steps=steps,
            fix="check your loss, augmentation, optimizer and data set: random numbers must "
            "come from the generator argument (not from np.random or random), and "
            "nothing may be kept between calls",
        )


def _resumed_at(folder: Path) -> list[int]:
    """Return the steps at which a run was resumed."""
    starts = [int(e["step"]) for e in read_events(folder / "log.jsonl") if e["event"] == "start"]
    return starts[1:]


def _attempt(arguments: list[str], kill_after_step: int | None, folder: Path, log: Log) -> None:
    """Run ``saccade train`` to its end, or kill it when its log shows a finished step."""
    command = [sys.executable, "-m", "saccade", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + ATTEMPT_LIMIT_S
    while kill_after_step is not None and process.poll() is None and time.monotonic() < deadline:
        if _last_step(folder) >= kill_after_step:
            process.kill()
            break
        time.sleep(0.01)
    _, said = process.communicate()
    if kill_after_step is None and process.returncode != 0:
        # a run that ends early says why in its last lines
        for line in said.decode(errors="replace").splitlines()[-LAST_LINES:]:
            log.say(line)
        error = SaccadeError(
            f"the training run ended with status {process.returncode}; its last lines are above",
            fix="do what they say, and run the same command again",
        )
        error.status = process.returncode
        raise error


def _last_step(folder: Path) -> int:
    events = read_events(folder / "log.jsonl")
    return max((int(e["step"]) for e in events if e["event"] == "step"), default=0)
