"""A run that was fitted into a time: killed on two ranks, it keeps its length on one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import toy
from test_ranks import TWO, ended, ranks_of, running

from saccade import files

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc"),
]


def test_killed_on_two_ranks_it_ends_on_one_as_the_run_of_that_length(
    images: Path, tmp_path: Path
) -> None:
    fitted, typed = tmp_path / "fitted", tmp_path / "typed"
    within = ("--epochs", "auto", "--within", "60s")
    with running(toy.command(images, fitted, *within, *TWO), fitted, 17) as process:
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        assert ended(process)[0].status == 70
    again = toy.run(toy.command(images, fitted, *within))
    assert again.status == 0, again.stderr

    # all ranks had agreed on one length, and it is that of the schedule, the sizes and the average
    steps = files.read_json(fitted / "run.json")["steps"]
    assert toy.run(toy.command(images, typed, "--epochs", f"{steps}step")).status == 0
    assert toy.last_step(fitted) == steps > 17
    assert toy.digest(fitted) == toy.digest(typed)
