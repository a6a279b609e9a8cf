"""The toy run that the fault tests kill, corrupt and resume: small, but with every kind of state
that hides.

BatchNorm, bf16, channels_last, EMA, momentum, mixup, dropout and drop path; 448 training images, so
that neither the checkpoints (every 7 steps) nor the kills fall on the end of an epoch (14 steps).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import console
from console import Done
from saccade import rng
from saccade.log import read_events

VICTIM = Path(__file__).parent / "victim.py"
STEPS = 60
STEPS_PER_EPOCH = 14
EVERY, KEEP = 7, 3  # steps between two checkpoints; how many stay
LIMIT_S = 180
SETTINGS = (
    "--model",
    "resnet8",
    "--image-size",
    "32",
    "--batch-size",
    "32",
    "--epochs",
    f"{STEPS}step",
    "--precision",
    "bf16",
    "--set",
    "batch.cell=16",
    "--set",
    "optimizer.name=sgd",
    "--set",
    "optimizer.lr=0.05",
    "--set",
    f"checkpoint.every={EVERY}step",
    "--set",
    f"checkpoint.keep={KEEP}",
    "--set",
    "ema.half_life=5step",
    "--set",
    "augment.mixup=0.4",
    "--set",
    "model.dropout=0.1",
    "--set",
    "model.drop_path=0.1",
    "--set",
    "augment.sizes=[0.75,1.0]",
)


def make_images(folder: Path, num_train: int = 448, num_val: int = 64, side: int = 48) -> Path:
    """Write JPEGs of two classes (horizontal and vertical waves under noise) as train/ and val/
    class folders.
    """
    for split, count in (("train", num_train), ("val", num_val)):
        for label, name in enumerate(("across", "down")):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count // 2):
                draws = rng.uniform(rng.key(split == "train", label, i), side * side + 2)
                wave = np.sin(np.arange(side) * (0.3 + draws[0]) + 6 * draws[1])
                grid = np.broadcast_to(wave[:, None] if label else wave, (side, side))
                pixels = 127 + 60 * grid + 60 * (draws[2:].reshape(side, side) - 0.5)
                Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(
                    place / f"{i:04d}.jpg", quality=90
                )
    return folder


def command(images: Path, out: Path, *more: str, faults: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a toy run, with planted faults."""
    return [
        sys.executable,
        str(VICTIM),
        *faults,
        "--",
        "train",
        "--data",
        str(images),
        "--out",
        str(out),
        *SETTINGS,
        *more,
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a process with one compute thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a process to end by itself; its status is negative when a signal ended it."""
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    return Done(process.returncode, stdout, stderr)


def run(arguments: list[str]) -> Done:
    """Run a process to its end."""
    return finish(start(arguments))


def run_here(arguments: list[str]) -> Done:
    """Run a command without planted faults in this process: after a kill, when the process that
    resumes is any other.

    It saves the import of torch. The bits are the same, as a toy cell is computed by one thread
    wherever it runs.
    """
    split = arguments.index("--")
    assert arguments[1:split] == [str(VICTIM)], "faults are planted in processes of their own"
    return console.run_here(*arguments[split + 1 :])


def start_and_reach(arguments: list[str], out: Path, step: int) -> subprocess.Popen[str]:
    """Start a process and wait until its log says that ``step`` is done.

    Fails if it ends before.
    """
    process = start(arguments)
    deadline = time.monotonic() + LIMIT_S
    while last_step(out) < step:
        assert process.poll() is None, f"it ended too soon: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def signal_after_step(
    arguments: list[str], out: Path, step: int, number: int = signal.SIGKILL
) -> Done:
    """Send a signal as soon as the log says that ``step`` is done.

    A kill also waits for the checkpoint that was due before ``step``: it is written beside the
    steps. Fails if the process ended before.
    """
    process = start_and_reach(arguments, out, step)
    while number == signal.SIGKILL and not _is_saved_before(out, step) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    attempt = finish(process)
    if number == signal.SIGKILL:
        assert attempt.status == -signal.SIGKILL, "the kill must hit a running process"
    return attempt


def _is_saved_before(out: Path, step: int) -> bool:
    due = EVERY * ((step - 1) // EVERY)
    return due == 0 or any(int(one.name.removeprefix("step_")) >= due for one in checkpoints(out))


def last_step(out: Path) -> int:
    """Return the highest step in the log of a run, 0 without one."""
    return max(
        (int(e["step"]) for e in read_events(out / "log.jsonl") if e["event"] == "step"), default=0
    )


def facts(out: Path) -> dict[str, Any]:
    """Return run.json."""
    return json.loads((out / "run.json").read_text())


def digest(out: Path) -> str:
    """Return the digest of all final tensors: weights, buffers, average and optimiser."""
    assert facts(out)["status"] == "done"
    return str(facts(out)["digest"])


def resumed_at(out: Path) -> list[int]:
    """Return the steps at which the later attempts of a run began."""
    return [int(e["step"]) for e in read_events(out / "log.jsonl") if e["event"] == "start"][1:]


def checkpoints(out: Path) -> list[Path]:
    """Return the checkpoint folders of a run, newest first."""
    named = (p for p in (out / "checkpoints").glob("step_*") if "." not in p.name)
    return sorted(named, reverse=True)
