"""Runs of which a part rests: killed on two ranks, resumed on one, and the same to the bit."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import toy
from test_ranks import TWO, ended, ranks_of, running

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc"),
]

CASES = {
    "layers wake at steps 10, 20, 30": (17, ("finetune.unfreeze=30step",)),
    # steps of a head alone are so fast that a kill needs many to hit
    "held features": (
        300,
        ("finetune.views=2", "augment.mixup=0", "epochs=2000step", "checkpoint.every=200step"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_on_two_ranks_and_resumed_on_one_it_ends_as_if_nothing_had_been(
    case: str, images: Path, tmp_path: Path
) -> None:
    step, settings = CASES[case]
    sets = [word for setting in settings for word in ("--set", setting)]
    more = ("--freeze", "backbone", *sets)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert toy.run(toy.command(images, whole, *more)).status == 0

    with running(toy.command(images, broken, *more, *TWO), broken, step) as process:
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        assert ended(process)[0].status == 70
    assert 0 < toy.last_step(broken) < toy.last_step(whole)
    again = toy.run(toy.command(images, broken, *more))
    assert again.status == 0, again.stderr
    assert toy.digest(broken) == toy.digest(whole)
