"""A run whose representation collapses ends, is saved, and says what to do; that works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from console import run_here

COMMAND = (
    "pretrain",
    "simclr",
    "--data=digits",
    "--model=resnet8",
    "--image-size=16",
    "--batch-size=64",
    "--epochs=60step",
    "--devices=cpu",
    "--set=batch.cell=64",
    "--set=data.eval_size=0",
    "--set=pretrain.evaluations=4",
    "--set=pretrain.bank=300",
    "--set=pretrain.projector=[32, 16]",
)
# a rate that throws the network away: all images get the same features from then on
TOO_HIGH = ("--set=optimizer.lr=3", "--set=optimizer.rest_lr=0.3")

pytestmark = pytest.mark.full


def test_a_run_that_collapses_ends_with_76_and_is_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_here(*COMMAND, *TOO_HIGH, f"--out={out}")
    assert done.status == 76 and "[collapse] the representation has collapsed" in done.stderr
    facts = json.loads((out / "run.json").read_text())
    assert (facts["status"], facts["exit_status"]) == ("diverged", 76)
    # two looks in a row, the first of them when norms have settled
    assert max(p.name for p in (out / "checkpoints").iterdir()) == "step_00000045"

    # what the message names goes on from there, and to the end
    more = run_here(*COMMAND, *TOO_HIGH, f"--out={out}", "--set=pretrain.collapse=warn")
    assert more.status == 0, more.stderr
    assert "warning [collapse] the representation has collapsed" in more.stderr


def test_a_lower_rate_does_not_collapse(tmp_path: Path) -> None:
    done = run_here(*COMMAND, f"--out={tmp_path / 'run'}")
    assert done.status == 0, done.stderr
    assert "collapsed" not in done.stderr
