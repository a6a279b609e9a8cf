"""``saccade train`` alone proves an installation: it reaches the accuracy of its receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import console
from saccade.recipes import receipts

MOST_BELOW = 4 / 360
"""Four images of 360 below the lowest of the receipt's runs: another processor rounds otherwise."""


@pytest.mark.full
@pytest.mark.spec(51, 39)
def test_the_default_run_reaches_the_accuracy_of_its_receipt(tmp_path: Path) -> None:
    done = console.run_process("train", "--json", cwd=tmp_path)
    assert done.status == 0, done.stderr
    lowest = min(run.top1 for receipt in receipts.read("digits") for run in receipt.runs)
    assert json.loads(done.stdout)["top1"] >= lowest - MOST_BELOW
