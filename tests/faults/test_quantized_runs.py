"""Runs in 8 bits: killed and resumed, on one rank or two, they end the same to the bit."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import toy
from test_ranks import TWO

pytestmark = pytest.mark.full

MORE = ("--epochs", "24step", "--lr", "1e-3", "--set", "checkpoint.every=5step")


def command(run: Path, out: Path, *more: str) -> list[str]:
    """Return the command line that quantises a toy run."""
    words = ["quantize", str(run), "--out", str(out), *MORE, *more]
    return [sys.executable, str(toy.VICTIM), "--", *words]


@pytest.mark.spec(40)
def test_killed_and_resumed_it_ends_as_if_nothing_had_been(reference: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert toy.run(command(reference, whole)).status == 0

    # in the first half ranges follow the batches, in the second they rest
    for step in (7, 17):
        killed = toy.signal_after_step(command(reference, broken), broken, step)
        assert killed.status == -signal.SIGKILL
    again = toy.run(command(reference, broken))
    assert again.status == 0, again.stderr
    assert toy.resumed_at(broken) and toy.digest(broken) == toy.digest(whole)


def test_two_ranks_end_as_one(reference: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert toy.run(command(reference, one)).status == 0
    ranks = toy.run(command(reference, two, *TWO))
    assert ranks.status == 0, ranks.stderr
    assert toy.digest(one) == toy.digest(two)
