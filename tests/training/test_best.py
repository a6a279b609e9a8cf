"""The best is chosen among comparable evaluations alone, kept as soon as it is found, and told
truthfully.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import console
import saccade
from saccade.errors import CheckpointError, PreemptedError
from saccade.log import read_events
from saccade.report.record import Record
from saccade.training import checkpoint

RUINED = (
    "train",
    "--epochs",
    "3",
    "--minival",
    "10%",
    "--lr",
    "8",
    "--set",
    "schedule.warmup=100%",
    "--set",
    "data.eval_views=2",
    "--set",
    "checkpoint.every=1000step",
    "--set",
    "checkpoint.keep=1",
)
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
    assert judged(ruined) == [
        (21, "minival", 1),
        (41, "minival", 1),
        (61, "minival", 1),
        (61, "test", 2),
    ]
    told = facts(ruined)
    assert (told["best"]["split"], told["best"]["views"]) == ("minival", 1)
    assert (told["result"]["split"], told["result"]["views"], told["result"]["n"]) == (
        "test",
        2,
        360,
    )
    assert told["best"]["note"].startswith("best of 3 evaluations on 'minival', held out")
    assert f"{told['best']['note']}: {told['best']['top1']:.2%}" in (ruined / "said").read_text()
    saved, _ = checkpoint.newest(ruined / "checkpoints")
    assert saved is not None
    entries = saved.meta["evaluations"]
    assert [(e["step"], e["split"], e["views"]) for e in entries] == judged(ruined)[:3]
    assert told["best"]["top1"] == max(e["top1"] for e in entries)
    is_last = told["best"]["step"] == told["result"]["step"]
    assert (f"saccade eval {ruined} --best" in (ruined / "said").read_text()) != is_last


@pytest.mark.spec(32, "A11")
def test_the_best_is_kept_when_it_is_found_however_rare_checkpoints_are(ruined: Path) -> None:
    best = facts(ruined)["best"]["step"]
    assert checkpoint.steps_on_disk(ruined / "checkpoints") == sorted({best, 61}, reverse=True)
    saved = checkpoint.read(ruined / "checkpoints" / f"step_{best:08d}")
    assert saved.meta["evaluations"][-1]["step"] == best


def test_where_the_final_figure_is_like_the_others_it_is_one_of_them(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings: dict[str, Any] = {
        "epochs": 2,
        "quiet": True,
        "out": tmp_path / "run",
        "checkpoint__every": "1000step",
    }
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
    assert best["note"] == (
        "best of 1 evaluation on this same set, one view of each image (optimistic)"
    )


def test_curves_and_tables_never_mix_splits_or_numbers_of_views(ruined: Path) -> None:
    record = Record.read(ruined)
    assert record.series("eval", "top1", "step")[0] == [21, 41, 61]
    assert record.watched == "minival" and record.figures["n"] == 360


FIGURES = ("top1", "top5", "loss", "correct", "correct5", "n")


def scored(*arguments: str) -> dict[str, Any]:
    done = console.run_here("eval", *arguments, "--json")
    assert done.status == 0, done.stderr
    return dict(json.loads(done.stdout))


def exactly(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in FIGURES}


@pytest.mark.parametrize("threads", [1, 2])
def test_eval_gives_the_figure_of_the_run_to_the_last_bit(ruined: Path, threads: int) -> None:
    """In bf16 where the processor has it, of an average, two views, one compute thread."""
    torch.set_num_threads(threads)  # of this process: those of the run count
    again = scored(str(ruined))
    assert exactly(again) == exactly(facts(ruined)["result"])
    assert again["precision"] == facts(ruined)["resolved"]["precision"]["value"]
    assert exactly(scored(str(ruined / "model.safetensors"))) == exactly(facts(ruined)["result"])


def test_eval_of_a_float32_run_computes_in_float32_and_says_so_when_asked_for_another(
    tmp_path: Path,
) -> None:
    run = saccade.train(
        epochs=1, quiet=True, out=tmp_path / "run", precision="fp32", ema__half_life=""
    ).folder
    assert exactly(scored(str(run))) == exactly(facts(run)["result"])
    assert exactly(saccade.evaluate(run).to_json()) == exactly(facts(run)["result"])
    other = console.run_here("eval", str(run), "--precision", "bf16", "--json")
    assert "the run used fp32, this uses bf16, as requested" in other.stderr
    told = json.loads(other.stdout)
    assert told["precision"] == "bf16" and told["loss"] != facts(run)["result"]["loss"]
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((run / "model.safetensors").read_bytes())
    assert exactly(scored(str(moved), "--data", "digits")) == exactly(facts(run)["result"])
    impossible = console.run_here("eval", str(run), "--precision", "fp16")
    assert impossible.status == 78 and "fp16 needs a GPU" in impossible.stderr


def test_the_best_is_evaluated_reported_and_predicts(ruined: Path, tmp_path: Path) -> None:
    best = facts(ruined)["best"]
    place = ruined / "checkpoints" / f"step_{best['step']:08d}"
    chosen, named = scored(str(ruined), "--best"), scored(str(place))
    assert exactly(chosen) == exactly(named) and chosen["weights"] == str(place)
    assert exactly(chosen) == exactly(saccade.evaluate(ruined, best=True).to_json())
    assert chosen["split"] == "test" and chosen["views"] == 2
    assert scored(str(ruined), "--best", "--split", "minival")["n"] == best["n"]

    average = safetensors.torch.load_file(place / "ema.safetensors")
    loaded = saccade.load(ruined, best=True).network.state_dict()
    assert all(torch.equal(loaded[name], average[name]) for name in loaded)

    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "gray.png")
    (last,) = saccade.predict(ruined, tmp_path / "gray.png")
    for answers in (
        saccade.predict(ruined, tmp_path / "gray.png", best=True),
        saccade.predict(place, tmp_path / "gray.png"),
    ):
        (answer,) = answers
        assert answer.top != last.top
    spoken = console.run_here("predict", str(ruined), str(tmp_path / "gray.png"), "--best")
    assert f"{answer.label} {answer.top[0][1]:.1%}" in spoken.stdout

    before = (ruined / "report.html").read_bytes()
    page = console.run_here("report", str(ruined), "--best").stdout.strip()
    assert page == str(ruined / f"report-{place.name}.html")
    text = Path(page).read_text()
    assert f"weights of {place.name}" in text and f"{100 * chosen['top1']:.2f}" in text
    assert (ruined / "report.html").read_bytes() == before


def test_a_run_that_was_killed_has_a_best_checkpoint_too(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(30)
    with pytest.raises(PreemptedError):
        saccade.train(epochs=2, quiet=True, out=tmp_path / "run")
    assert "add --best" in console.run_here("eval", str(tmp_path / "run")).stderr
    event = next(e for e in read_events(tmp_path / "run" / "log.jsonl") if e["event"] == "eval")
    assert exactly(scored(str(tmp_path / "run"), "--best")) == exactly(event)


def test_what_has_no_best_checkpoint_is_told(ruined: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at this path"):
        saccade.load(tmp_path, best=True)
    place = ruined / "checkpoints" / f"step_{facts(ruined)['best']['step']:08d}"
    with pytest.raises(CheckpointError, match="only a run has a best checkpoint"):
        saccade.load(place, best=True)
    hidden = place.rename(tmp_path / "hidden")
    try:
        with pytest.raises(CheckpointError, match=r"the best checkpoint \(step .*no longer here"):
            saccade.load(ruined, best=True)
        assert saccade.load(hidden).recipe == saccade.load(ruined).recipe
    finally:
        hidden.rename(place)
    (place / "state.json").write_text((place / "state.json").read_text() + " ")
    refused = console.run_here("eval", str(place))
    assert refused.status == 66 and "state.json" in refused.stderr


def test_top5_is_not_shown_where_it_is_always_one(tmp_path: Path) -> None:
    for split, count in (("train", 24), ("val", 8)):
        for name in ("dark", "light"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                gray = np.full(
                    (16, 16), 3 * i + 150 * (name == "light") + (split == "val"), np.uint8
                )
                Image.fromarray(gray).save(folder / f"{i}.png")
    out = str(tmp_path / "run")
    done = console.run_here(
        "train",
        "resnet8",
        "--data",
        str(tmp_path / "set"),
        "--epochs",
        "1",
        "--image-size",
        "16",
        "--out",
        out,
    )
    assert done.status == 0, done.stderr
    said = (
        done.stderr + console.run_here("eval", out).stdout + (Path(out) / "report.html").read_text()
    )
    assert "top-1" in said and "top-5" not in said
    assert scored(out)["top5"] == 1.0
