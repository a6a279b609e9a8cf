"""FAULTS B4 and H4: a disk that fills and is emptied, and a clock, rights, a time zone and paths
that are odd.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from console import Done, run_here
from saccade import files
from saccade.log import read_events
from saccade.training import checkpoint, saving

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="limits and rights are those of POSIX"
)


def train(out: str, *more: str, cwd: Path) -> Done:
    return run_here(
        "train",
        "lenet",
        "--epochs",
        "12step",
        "--batch-size",
        "32",
        "--out",
        out,
        "--set",
        "checkpoint.every=2step",
        *more,
        cwd=cwd,
    )


def digest(run: Path) -> str:
    return str(files.read_json(run / "run.json")["digest"])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("usual")
    assert train("run", cwd=root).status == 0
    return root / "run"


@pytest.mark.parametrize("full_saves", [1, 2])
@pytest.mark.fault("B4")
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_not_the_run(
    full_saves: int, usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    real, seen = saving.save, []

    def save(run: Any, *rest: Any) -> None:
        seen.append(checkpoint.steps_on_disk(run.plan.folder / "checkpoints"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if 2 <= len(seen) < 2 + full_saves:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            real(run, *rest)
            # it is written beside the steps, and the disk is to be full until it has failed
            while (pending := run.history.pending_save) and not pending.is_done():
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(saving, "save", save)
    done = train("run", cwd=tmp_path)
    assert done.status == 0 and done.stderr.count("could not be saved") == full_saves
    assert digest(tmp_path / "run") == digest(usual), "what could not be saved changes nothing else"
    assert seen[1] == seen[1 + full_saves] == [2], "the good one stays while others fail"
    assert not list((tmp_path / "run").rglob("*part*"))
    events = read_events(tmp_path / "run" / "log.jsonl")
    assert sum("could not be saved" in str(e.get("text")) for e in events) == full_saves
    for step in checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints"):
        checkpoint.read(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")


@pytest.mark.fault("H4")
def test_clock_rights_zone_and_path_change_nothing(
    usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back an hour at every look.

    The path holds spaces, quotes, a dollar and three alphabets.
    """
    place = tmp_path / "d ü 日本 q\"' $x"
    place.mkdir()
    real, looks = time.time, []

    def backwards() -> float:
        looks.append(1)
        return real() - 3600.0 * len(looks)

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    time.tzset()
    mask = os.umask(0o027)
    try:
        done = train("läuft ر 1", cwd=place)
    finally:
        os.umask(mask)
        monkeypatch.undo()
        time.tzset()
    run = place / "läuft ر 1"
    assert done.status == 0 and looks, done.stderr
    assert digest(run) == digest(usual)
    kinds = {(p.is_dir(), p.stat().st_mode & 0o777) for p in run.rglob("*")}
    assert kinds == {(True, 0o750), (False, 0o640)}, (
        "0777 and 0666 without what the mask takes away"
    )
    assert run_here("eval", str(run)).status == run_here("report", str(run)).status == 0
