"""FAULTS A1, A2, A3, A4, A6, A7, B7: a run that was killed anywhere ends bit for bit like one
that was not.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import toy

from saccade import files, rng
from saccade.log import read_events

QUICK_SEEDS = range(1)
FULL_SEEDS = range(1, 20)
SEEDS = [*QUICK_SEEDS, *(pytest.param(seed, marks=pytest.mark.full) for seed in FULL_SEEDS)]
STAGES = (
    "started",
    "wrote model.safetensors",
    "wrote optimizer.safetensors",
    "wrote ema.safetensors",
    "wrote state.json",
    "wrote manifest.json",
    "verified",
    "renamed",
    "published",
    "renamed for removal",
)
QUICK_STAGES = ("wrote optimizer.safetensors", "renamed")
CASES = [pytest.param(s, marks=() if s in QUICK_STAGES else pytest.mark.full) for s in STAGES]


@pytest.mark.spec(47)
def test_two_undisturbed_runs_are_identical(images: Path, reference: Path, tmp_path: Path) -> None:
    assert toy.run(toy.command(images, tmp_path / "run")).status == 0
    assert toy.digest(tmp_path / "run") == toy.digest(reference)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.spec(31, "A8")
@pytest.mark.fault("A1")
def test_killed_at_a_random_step_the_same_command_ends_identical(
    seed: int, images: Path, reference: Path, tmp_path: Path
) -> None:
    first = toy.EVERY + 1  # from here on there is a checkpoint: starting over would prove nothing
    step = first + int(rng.uniform(rng.key(seed, 2718), 1)[0] * (toy.STEPS - first - 5))
    out = tmp_path / "run"
    toy.signal_after_step(toy.command(images, out), out, step)
    attempt = toy.run(toy.command(images, out))
    assert attempt.status == 0, attempt.stderr
    assert toy.digest(out) == toy.digest(reference), f"seed {seed}, killed after step {step}"
    began = toy.resumed_at(out)
    assert began == [began[0]] and began[0] > 0 and began[0] % toy.EVERY == 0
    assert toy.facts(out)["result"]["correct"] == toy.facts(reference)["result"]["correct"]


def test_resume_begins_inside_an_epoch(images: Path, half_done: Path, tmp_path: Path) -> None:
    newest = toy.checkpoints(half_done)[0]
    step = int(newest.name.removeprefix("step_"))
    assert step % toy.STEPS_PER_EPOCH != 0, "the toy must not save only at the ends of epochs"


def verified(out: Path) -> list[Path]:
    """Return the checkpoint folders of a run that verify."""
    good = []
    for folder in toy.checkpoints(out):
        with contextlib.suppress(ValueError):
            files.verify_folder(folder)
            good.append(folder)
    return good


@pytest.mark.parametrize("stage", CASES)
@pytest.mark.spec(32)
@pytest.mark.fault("A2", "B7")
def test_killed_while_a_checkpoint_is_published(
    stage: str, images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    count = 1 if stage == "renamed for removal" else 4
    killed = toy.run(toy.command(images, out, faults=("--stage", stage, "--count", str(count))))
    assert killed.status == -signal.SIGKILL
    assert len(verified(out)) >= toy.KEEP, "retention deleted what was still needed"
    attempt = toy.run_here(toy.command(images, out))
    assert attempt.status == 0, attempt.stderr
    assert toy.resumed_at(out)[0] >= 21, "an earlier good checkpoint was lost"
    assert toy.digest(out) == toy.digest(reference)
    assert not list((out / "checkpoints").glob("*.part*")), "a leftover was not swept"


@pytest.mark.fault("A3")
def test_killed_in_the_middle_of_an_evaluation(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert toy.run(toy.command(images, out, faults=("--evaluation", "2"))).status == -signal.SIGKILL
    assert toy.run_here(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)
    assert toy.facts(out)["best"] == toy.facts(reference)["best"]


@pytest.mark.fault("A3")
def test_killed_in_the_final_evaluation(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert toy.run(toy.command(images, out, faults=("--evaluation", "5"))).status == -signal.SIGKILL
    assert toy.facts(out)["status"] != "done"
    assert toy.run_here(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.full
@pytest.mark.fault("A4")
def test_ten_kills_in_one_run(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for step in np.linspace(3, toy.STEPS - 4, 10).astype(int):
        toy.signal_after_step(toy.command(images, out), out, max(int(step), toy.last_step(out) + 1))
    assert toy.run(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)

    began = toy.resumed_at(out)
    assert len(began) == 10 and any(step % toy.STEPS_PER_EPOCH != 0 for step in began)
    done = [e for e in read_events(out / "log.jsonl") if e["event"] == "step"]
    assert len(done) <= toy.STEPS + 10 * toy.EVERY, (
        "a kill costs more than one interval of checkpoints"
    )


@pytest.mark.spec("A8")
def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    attempt = toy.signal_after_step(toy.command(images, out), out, 17, signal.SIGTERM)
    assert attempt.status == 75, attempt.stderr
    saved = int(toy.checkpoints(out)[0].name.removeprefix("step_"))
    assert 17 <= saved <= toy.last_step(out), "the step at which the signal came was not saved"
    assert toy.run_here(toy.command(images, out)).status == 0
    assert toy.resumed_at(out) == [saved]
    assert toy.digest(out) == toy.digest(reference)


def test_control_c_saves_and_exits_130(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert toy.signal_after_step(toy.command(images, out), out, 5, signal.SIGINT).status == 130
    assert toy.run_here(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)


def test_time_limit_saves_and_exits_75(images: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert toy.run_here(toy.command(images, out, "--max-time", "0.1s")).status == 75
    assert toy.run_here(toy.command(images, out)).status == 0
    assert toy.digest(out) == toy.digest(reference)


@pytest.mark.parametrize(
    "broken",
    ["position", *(pytest.param(part, marks=pytest.mark.full) for part in ("optimizer", "layout"))],
)
@pytest.mark.fault("A1")
def test_control_a_broken_resume_is_noticed(
    broken: str, images: Path, reference: Path, half_done: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(half_done, tmp_path / "run"))
    assert toy.run(toy.command(images, out, faults=("--sabotage", broken))).status == 0
    assert toy.digest(out) != toy.digest(reference), (
        f"the toy is too small to notice a lost {broken}"
    )


def test_a_finished_run_is_not_trained_again(images: Path, reference: Path) -> None:
    before = toy.facts(reference)
    attempt = toy.run_here(toy.command(images, reference))
    assert attempt.status == 0 and "finished" in attempt.stderr
    assert toy.facts(reference) == before


def test_two_processes_cannot_share_a_run_folder(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = toy.start_and_reach(toy.command(images, out), out, 1)
    first.send_signal(signal.SIGSTOP)
    second = toy.run_here(toy.command(images, out))
    first.kill()
    toy.finish(first)
    assert second.status == 78 and "another process" in second.stderr
