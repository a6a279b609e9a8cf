"""The best is chosen among comparable evaluations alone, kept as soon as it is found, and told truthfully."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import console
import saccade
from saccade.errors import PreemptedError
from saccade.log import read_events
from saccade.report.record import Record
from saccade.training import checkpoint

RUINED = ("train", "--epochs", "3", "--minival", "10%", "--lr", "8", "--set", "schedule.warmup=100%",
          "--set", "data.eval_views=2", "--set", "checkpoint.every=1000step",
          "--set", "checkpoint.keep=1")  # fmt: skip
"""A rate that rises until it ruins what the first epochs learned, and hardly any checkpoints."""


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("best") / "run"
    done = console.run_here(*RUINED, "--out", str(out))
    assert done.status == 0, done.stderr
    (out / "said").write_text(done.stderr)
    return out


def facts(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def judged(run: Path) -> list[tuple[int, str, int]]:
    evals = [e for e in read_events(run / "log.jsonl") if e["event"] == "eval"]
    return [(e["step"], e["split"], e["views"]) for e in evals]


def test_candidates_are_of_one_split_and_one_view_and_the_last_model_is_among_them(
    ruined: Path,
) -> None:
    assert judged(ruined) == [(21, "minival", 1), (41, "minival", 1), (61, "minival", 1),
                              (61, "test", 2)]  # fmt: skip
    told = facts(ruined)
    assert (told["best"]["split"], told["best"]["views"]) == ("minival", 1)
    assert (told["result"]["split"], told["result"]["views"], told["result"]["n"]) == ("test", 2, 360)
    assert told["best"]["note"].startswith("best of 3 evaluations on 'minival', held out")
    assert f"{told['best']['note']}: {told['best']['top1']:.2%}" in (ruined / "said").read_text()
    saved, _ = checkpoint.newest(ruined / "checkpoints")
    assert saved is not None
    entries = saved.meta["evaluations"]
    assert [(e["step"], e["split"], e["views"]) for e in entries] == judged(ruined)[:3]
    assert told["best"]["top1"] == max(e["top1"] for e in entries)


def test_the_best_is_kept_when_it_is_found_however_rare_checkpoints_are(ruined: Path) -> None:
    best = facts(ruined)["best"]["step"]
    assert checkpoint.steps_on_disk(ruined / "checkpoints") == sorted({best, 61}, reverse=True)
    saved = checkpoint.read(ruined / "checkpoints" / f"step_{best:08d}")
    assert saved.meta["evaluations"][-1]["step"] == best


def test_where_the_final_figure_is_like_the_others_it_is_one_of_them(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "quiet": True, "out": tmp_path / "run",
                                "checkpoint__every": "1000step"}  # fmt: skip
    stop_after(30)
    with pytest.raises(PreemptedError):
        saccade.train(**settings)
    assert checkpoint.steps_on_disk(tmp_path / "run" / "checkpoints") == [30, 23]
    outcome = saccade.train(**settings)
    assert judged(outcome.folder) == [(23, "test", 1), (45, "test", 1)]
    best = facts(outcome.folder)["best"]
    assert best["note"] == "best of 2 evaluations on this same set (optimistic)"
    assert best["top1"] >= outcome.result["top1"]


def test_with_two_views_at_the_end_the_note_says_that_the_best_was_chosen_by_one(
    tmp_path: Path,
) -> None:
    run = saccade.train(epochs=1, quiet=True, out=tmp_path / "run", data__eval_views=2).folder
    assert judged(run) == [(23, "test", 1), (23, "test", 2)]
    best = facts(run)["best"]
    assert best["views"] == 1
    assert best["note"] == ("best of 1 evaluation on this same set, one view of each image (optimistic)")


def test_curves_and_tables_never_mix_splits_or_numbers_of_views(ruined: Path) -> None:
    record = Record.read(ruined)
    assert record.series("eval", "top1", "step")[0] == [21, 41, 61]
    assert record.watched == "minival" and record.figures["n"] == 360
