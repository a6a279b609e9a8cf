"""Going on with a changed run: longer, in other batches, from an older checkpoint.

Every advice works.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import console
import saccade
from saccade.data.order import Order
from saccade.errors import CheckpointError, ConfigError, PreemptedError
from saccade.log import read_events
from saccade.trainer import Outcome
from saccade.training import checkpoint
from saccade.training.meter import Meter

MODEL = "model.safetensors"
STEPS = 45  # of two epochs of 1,437 digits in batches of 64


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests work on copies."""
    out = tmp_path_factory.mktemp("short") / "run"
    return saccade.train(epochs=2, quiet=True, out=out, checkpoint__keep=9).folder


@pytest.fixture
def run(short: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short, tmp_path / "run"))


def facts(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def train(*arguments: str, status: int = 0) -> str:
    done = console.run_here("train", *arguments)
    assert done.status == status, done.stderr
    return done.stderr


def longer(run: Path, **more: Any) -> Outcome:
    return saccade.train(epochs=3, quiet=True, resume=run, resume_changed=True, **more)


@pytest.mark.spec(31)
def test_a_finished_run_is_extended_in_place_and_the_jump_of_the_rate_is_told(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    refused = train("--resume", str(run), "--epochs", "3", status=78)
    assert "step_00000045 was saved with other settings: epochs: 2ep -> 3ep" in refused
    assert (run / "run.json").read_bytes() == before, "a refusal must not touch a finished run"

    said = train("--resume", str(run), "--epochs", "3", "--resume-changed")
    jump = next(line for line in said.splitlines() if "the learning rate jumps" in line)
    assert jump.removeprefix("warning ") in refused, "the refusal says it, too"
    rates = {e["step"]: e["lr"] for e in read_events(run / "log.jsonl") if e["event"] == "step"}
    assert f"from {rates[45]:.4g} at step 45 to {rates[46]:.4g}" in jump
    told = facts(run)
    assert (told["steps"], told["attempts"], told["status"]) == (68, 2, "done")
    assert told["lineage"] == [{"step": 45, "changed": "epochs: 2ep -> 3ep"}]
    assert "best of 3 evaluations" in told["best"]["note"]
    assert "finished" in train("--resume", str(run), "--epochs", "3")


def test_an_extension_that_is_killed_ends_bit_for_bit(
    run: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    whole = facts(longer(run).folder)["digest"]
    stop_after(10)
    with pytest.raises(PreemptedError):
        longer(other)
    assert facts(longer(other).folder)["digest"] == whole
    assert len(facts(other)["lineage"]) == 1, "gone on with twice, changed once"


def test_a_changed_batch_goes_on_where_the_other_stopped_and_sees_every_image_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    record = Meter.step

    def step(self: Meter, loss: Any, batch: Any, bar: Any) -> None:
        seen.append((batch.epochs, batch.samples))
        record(self, loss, batch, bar)

    monkeypatch.setattr(Meter, "step", step)
    outcome = longer(run, batch_size=90)
    start = STEPS * 64  # no multiple of 90
    steps = -(-(3 * 1437 - start) // 90)
    assert [len(samples) for _, samples in seen] == [90] * steps
    expected = Order(1437, 0).at(start, start + 90 * steps)
    for column in (0, 1):
        assert np.array_equal(np.concatenate([pair[column] for pair in seen]), expected[column])
    assert facts(run)["steps"] == STEPS + steps
    saved, _ = checkpoint.newest(run / "checkpoints")
    assert saved is not None and saved.meta["position"] == start + 90 * steps
    assert outcome.result["epoch"] == pytest.approx((start + 90 * steps) / 1437, abs=1e-4)


@pytest.mark.full
def test_a_changed_batch_is_gone_on_with_after_a_kill(
    run: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(5)
    with pytest.raises(PreemptedError):
        longer(run, batch_size=90)
    assert longer(run, batch_size=90).fresh
    starts = [e["step"] for e in read_events(run / "log.jsonl") if e["event"] == "start"]
    assert starts == [0, 45, 50]
    assert facts(run)["lineage"] == [
        {"step": 45, "changed": "batch.global: 64 -> 90; epochs: 2ep -> 3ep"}
    ]


@pytest.mark.parametrize(
    ("change", "words", "advised"),
    [
        (("--epochs", "1"), "the run ends at step 23: nothing is left to train", False),
        (("--lr", "0.01"), "the run ends at step 45: nothing is left to train", False),
        (("--epochs", "3", "--model", "resnet8"), "model.name: resnet8_x2 -> resnet8", False),
        (("--epochs", "3", "--seed", "4"), "seed: 0 -> 4", True),
    ],
)
def test_only_advice_that_works_is_given(
    run: Path, change: tuple[str, ...], words: str, advised: bool
) -> None:
    refused = train("--resume", str(run), *change, status=78)
    assert words in refused and "`--resume never` starts a new run" in refused
    assert ("--resume-changed (in Python resume_changed=True) continues" in refused) == advised
    if not advised:
        command = console.run_here("train", "--resume", str(run), *change, "--resume-changed")
        assert command.status in (66, 78) and facts(run)["status"] == "done"


@pytest.mark.spec(31)
def test_what_resume_may_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in (run, run / "checkpoints", run / "checkpoints" / "step_00000023"):
        outcome = saccade.train(resume=named, quiet=True)
        assert not outcome.fresh and outcome.folder.samefile(run)
    model = run / MODEL
    for file in (model, run / "checkpoints" / "step_00000023" / "ema.safetensors"):
        said = train("--resume", str(file), status=66)
        assert f"`--resume {run}` continues its run" in said and f"`--init {file}`" in said
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"there is no|does not exist"):
            saccade.train(resume=nothing, quiet=True, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_from_an_older_checkpoint_newer_ones_are_set_aside_not_taken_next_time(
    run: Path, stop_after: Callable[[int], None]
) -> None:
    place = run / "checkpoints"
    stop_after(6)
    with pytest.raises(PreemptedError):
        longer(place / "step_00000023")
    assert checkpoint.steps_on_disk(place) == [29, 23]
    assert [p.name[:18] for p in place.glob("left-*")] == ["left-step_00000045"]
    assert longer(run).fresh
    starts = [e["step"] for e in read_events(run / "log.jsonl") if e["event"] == "start"]
    assert starts == [0, 23, 29]


def test_a_branch_leaves_the_run_that_it_comes_from_alone(run: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    branch = saccade.train(
        resume=run, out=tmp_path / "branch", epochs=3, quiet=True, resume_changed=True
    ).folder
    assert facts(branch)["steps"] == 68 and branch == tmp_path / "branch"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_figures_on_other_images_do_not_compete(run: Path) -> None:
    longer(run, minival=0.1)
    best = facts(run)["best"]
    assert best["split"] == "minival" and best["note"].startswith("best of 1 evaluation on")
    with pytest.raises(ConfigError, match="the images"):
        saccade.train(resume=run, quiet=True, epochs=3, minival=0.0)
