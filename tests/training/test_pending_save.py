"""Checkpoints are written beside the steps: what that must not change, and what it must."""

from __future__ import annotations

import errno
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import saccade
from saccade import files
from saccade.errors import DiskError, DivergedError
from saccade.training import checkpoint

SHORT: dict[str, Any] = {
    "model": "lenet5",
    "epochs": "8step",
    "batch_size": 32,
    "quiet": True,
    "set": ["checkpoint.every=2step", "checkpoint.keep=9"],
}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is done when a checkpoint has begun to be written, and when it has its name."""
    hooks: dict[str, Any] = {}

    def stage(name: str) -> None:
        if name in hooks:
            hooks[name]()

    monkeypatch.setattr(files, "stage", stage)
    return hooks


@pytest.mark.fault("B8")
def test_steps_go_on_while_a_slow_disk_takes_a_checkpoint(
    stages: dict[str, Any], tmp_path: Path
) -> None:
    further, was_awaited = threading.Event(), []
    stages["started"] = lambda: was_awaited.append(further.wait(30))

    def watch(event: saccade.StepDone) -> None:
        if event.step == 4:  # the first checkpoint is that of step 2; that of step 4 waits for it
            further.set()

    saccade.train("digits", out=tmp_path / "run", callbacks=[watch], **SHORT)
    assert was_awaited and all(was_awaited)


@pytest.mark.fault("B8")
def test_two_checkpoints_are_never_written_at_once(stages: dict[str, Any], tmp_path: Path) -> None:
    writing, most = [], []

    def begin() -> None:
        writing.append(threading.get_ident())
        most.append(len(writing))
        time.sleep(0.05)

    stages["started"], stages["published"] = begin, lambda: writing.pop()
    saccade.train("digits", out=tmp_path / "run", **SHORT)
    assert len(most) == 4 and set(most) == {1}
    assert checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints") == [8, 6, 4, 2]


@pytest.mark.fault("B8")
def test_a_third_failure_in_a_row_ends_the_run_at_a_later_step(
    stages: dict[str, Any], tmp_path: Path
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stages["started"] = fail
    heard: list[saccade.StepDone] = []

    def hear(event: saccade.StepDone) -> None:
        heard.append(event)

    with pytest.raises(DiskError):
        saccade.train("digits", out=tmp_path / "run", callbacks=[hear], **SHORT)
    assert 6 <= heard[-1].step < 9
    said = (tmp_path / "run" / "log.jsonl").read_text()
    for step in (2, 4, 6):
        assert f"the checkpoint of step {step} could not be saved" in said
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part-*"))


def test_what_ends_a_run_waits_for_the_checkpoint_on_its_way(
    stages: dict[str, Any], tmp_path: Path
) -> None:
    stages["verified"] = lambda: time.sleep(0.5)

    def break_off(event: saccade.StepDone) -> None:
        if event.step == 3:
            raise saccade.StopTraining("enough")

    with pytest.raises(saccade.StopTraining):
        saccade.train("digits", out=tmp_path / "run", callbacks=[break_off], **SHORT)
    assert checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints") == [3, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]


broken = False


def breaking(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels) * (float("nan") if broken else 1.0)


def test_a_run_that_diverges_waits_for_the_checkpoint_on_its_way(
    stages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages["verified"] = lambda: time.sleep(2.0)

    def break_it(event: saccade.StepDone) -> None:
        if event.step == 2:
            monkeypatch.setattr(sys.modules[__name__], "broken", True)

    long = SHORT | {"epochs": "40step", "set": ["checkpoint.every=2step"]}
    with pytest.raises(DivergedError):
        saccade.train("digits", out=tmp_path / "run", loss=breaking, callbacks=[break_it], **long)
    assert checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints") == [2]
