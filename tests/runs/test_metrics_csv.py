"""What a run leaves for people: metrics.csv, one row for each evaluation, and log.txt, all that
was said.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import console
import saccade
from saccade.config.schema import Config
from saccade.errors import PreemptedError
from saccade.log import Log, read_events
from saccade.objectives.classification import of_settings
from saccade.runs.metrics_csv import BEFORE, BEHIND, Table
from saccade.training.events import Evaluated, RunStarted

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "data__minival": 0.1,
    "data__eval_views": 2,
    "checkpoint__every": "13step",
    "checkpoint__keep": 9,
    "quiet": True,
}


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saccade.train(out=tmp_path_factory.mktemp("table") / "run", **SETTINGS).folder


@pytest.mark.spec(35, "A6", "A17")
def test_there_is_one_row_for_each_evaluation_and_it_agrees_with_log_and_result(
    whole: Path,
) -> None:
    table = rows(whole)
    assert list(table[0]) == [*BEFORE, "top1", "top5", *BEHIND]
    assert [(row["step"], row["split"], row["views"]) for row in table] == [
        ("21", "minival", "1"),
        ("41", "minival", "1"),
        ("61", "minival", "1"),
        ("61", "test", "2"),
    ]
    told = json.loads((whole / "run.json").read_text())
    final = table[-1]
    for column, field in (
        ("top1", "top1"),
        ("top5", "top5"),
        ("val_loss", "loss"),
        ("epoch", "epoch"),
    ):
        assert float(final[column]) == told["result"][field]
    assert max(float(row["top1"]) for row in table[:-1]) == told["best"]["top1"]
    steps = {e["step"]: e for e in read_events(whole / "log.jsonl") if e["event"] == "step"}
    for row, first, last in zip(table, (1, 22, 42), (21, 41, 61), strict=False):
        mean = math.fsum(steps[step]["loss"] for step in range(first, last + 1)) / (
            last - first + 1
        )
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-5)
        assert float(row["lr"]) == steps[last]["lr"] and float(row["images_per_s"]) > 0
    assert table[-1]["train_loss"] == table[-2]["train_loss"]


@pytest.mark.spec(35, "A8")
def test_kills_and_resumes_leave_no_row_twice_and_none_out(
    whole: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    """Killed behind an evaluation, with the newest checkpoint before it: the step is judged
    twice.
    """
    out = tmp_path / "run"
    stop_after(30)
    with pytest.raises(PreemptedError):
        saccade.train(out=out, **SETTINGS)
    for place in sorted((out / "checkpoints").iterdir())[1:]:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()  # as if the power had failed at the first one
    assert [row["step"] for row in rows(out)] == ["21"]
    saccade.train(out=out, **SETTINGS)
    starts = [e["step"] for e in read_events(out / "log.jsonl") if e["event"] == "start"]
    assert starts[1] < 21
    for row, other in zip(rows(out), rows(whole), strict=True):
        assert {k: v for k, v in row.items() if k != "images_per_s"} == {
            k: v for k, v in other.items() if k != "images_per_s"
        }


def evaluated(step: int, **figures: float) -> Evaluated:
    return Evaluated(step=step, epoch=1.0, split="val", views=1, figures=figures, train={})


def test_an_attempt_from_an_older_step_voids_the_rows_behind_it(tmp_path: Path) -> None:
    table = Table(tmp_path / "metrics.csv", [], of_settings(Config(), 10))
    for step in (10, 20, 30):
        table(evaluated(step, top1=step / 100))
    table(RunStarted(tmp_path, "lenet", (), step=15, total_steps=30, attempt=2))
    assert [row["step"] for row in rows(tmp_path)] == ["10"]
    table(evaluated(17, top1=0.5, top5=0.9))
    assert [row["step"] for row in rows(tmp_path)] == ["10", "17"]

    log = Log(quiet=True)
    log.open(tmp_path / "log.jsonl")
    for step in (10, 20):
        log.event("step", step=step, loss=1.0)
    log.event("start", step=15)
    log.event("step", step=16, loss=2.0)
    log.close()
    kept = [e["step"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "step"]
    assert kept == [10, 16]


def test_top5_is_empty_where_it_is_always_one(tmp_path: Path) -> None:
    table = Table(tmp_path / "metrics.csv", [], of_settings(Config(), 5))
    table(evaluated(1, top1=0.5, top5=1.0))
    assert rows(tmp_path)[0]["top5"] == "" and rows(tmp_path)[0]["top1"] == "0.5"


def test_a_table_that_cannot_be_written_ends_nothing_and_is_whole_the_next_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.csv").mkdir()  # nothing can be renamed to it
    table = Table(tmp_path / "metrics.csv", [], of_settings(Config(), 10))
    table(evaluated(1, top1=0.5))
    (tmp_path / "metrics.csv").rmdir()
    table(evaluated(2, top1=0.6))
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


@pytest.mark.spec(35)
def test_log_txt_holds_all_that_was_said_over_all_attempts(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    out = tmp_path / "run"
    stop_after(5)
    first = console.run_here("train", "--epochs", "1", "--out", str(out))
    assert first.status == 75
    second = console.run_here("train", "--epochs", "1", "--out", str(out))
    assert second.status == 0
    kept = (out / "log.txt").read_text()
    written = kept.splitlines()
    assert [line[:10] for line in written if line.startswith("attempt ")] == [
        "attempt 1,",
        "attempt 2,",
    ]
    for attempt in (first, second):
        for line in attempt.stderr.splitlines():
            assert line in written, line
    assert kept.index("enough") < kept.index("attempt 2,") < kept.index("top-1")
    before = (out / "log.txt").read_bytes()
    assert (
        "this run is finished"
        in console.run_here("train", "--epochs", "1", "--out", str(out)).stderr
    )
    assert (out / "log.txt").read_bytes() == before


def test_log_txt_shows_control_characters_and_never_obeys_them(tmp_path: Path) -> None:
    log = Log(quiet=True)
    log.say("before \x1b[2J the file is open")
    log.open(tmp_path / "log.jsonl")
    log.warn("a name \x1b]0;x\x07 of a stranger")
    log.close()
    text = (tmp_path / "log.txt").read_text()
    assert "before \\x1b[2J the file is open\n" in text
    assert "warning a name \\x1b]0;x\\x07 of a stranger\n" in text
