"""The length of a run that is fitted into a time: ``--within 3m``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_sets import QUIET, asked, built, make_set

import console
import saccade
from saccade import files
from saccade.config import schema as configuration
from saccade.errors import ConfigError, StopTraining
from saccade.preflight import checks, length, speed
from saccade.preflight.speed import Speed
from saccade.setup.compose import Request, settings
from saccade.setup.steps import total_steps
from saccade.training.choices import Choice
from saccade.training.events import StepDone
from saccade.training.run import Plan

SPEED = Speed(load_s=0.01, first_cell_s=0.3, next_cell_s=0.1, side=24, judge_s=0.002, save_s=0.05)


def plan_within(tmp_path: Path, within: str, *sets: str) -> Plan:
    flags: dict[str, Any] = {"epochs": "auto", "within": within, "batch.global": 4, "batch.cell": 2}
    run = built(asked(make_set(tmp_path / "set"), *sets, **flags), tmp_path / "run")
    run.readers.close()
    return run.plan


def total_s(plan: Plan, steps: int) -> float:
    return speed.estimate(length.of_length(plan, steps), SPEED).total_s


def test_the_longest_run_that_ends_in_time_is_taken(tmp_path: Path) -> None:
    plan = plan_within(tmp_path, "60s", "augment.sizes=[0.5, 1.0]")
    fitted, doubts = length.fit(plan, SPEED, spent_s=20.0)
    steps = total_steps(plan.config, plan.epoch_size, fitted.value)
    # looked for one by one, beside the search by halves
    left_s = 60 * (1 - length.MARGIN) - 20 - length.END_S
    assert steps == max(n for n in range(1, 200) if total_s(plan, n) <= left_s)
    assert doubts == [] and "fits within 60s" in fitted.reason


def test_evaluations_saves_and_start_are_paid_out_of_the_same_time(tmp_path: Path) -> None:
    plan = plan_within(tmp_path, "60s", "augment.sizes=[1.0]")
    step_s = 0.4 + 4 * 0.01
    # 12 images in batches of 4: an evaluation after every 3 steps, each of a cell of 100 images
    # and with a checkpoint, and one of the saved weights that sees every image twice
    assert total_s(plan, 6) == pytest.approx(6 * step_s + (2 + 2) * 100 * 0.002 + 3 * 0.05)
    plain = dataclasses.replace(SPEED, judge_s=1e-9, save_s=0.0)

    def steps(speed: Speed, spent_s: float) -> int:
        choice, _ = length.fit(plan, speed, spent_s)
        return total_steps(plan.config, plan.epoch_size, choice.value)

    assert steps(plain, 0.0) == int((60 * 0.95 - length.END_S) / step_s)
    assert steps(plain, 10.1) == int((60 * 0.95 - length.END_S - 10.1) / step_s)
    assert steps(SPEED, 0.0) < steps(plain, 0.0)


def test_a_time_too_short_for_an_epoch_is_said_and_one_too_short_for_a_step_refused(
    tmp_path: Path,
) -> None:
    plan = plan_within(tmp_path, "10s")
    start_s = 10 * 0.95 - length.END_S
    with pytest.raises(ConfigError) as caught:
        length.fit(plan, SPEED, spent_s=start_s)
    assert caught.value.finding == "within-too-short" and "not a single step" in caught.value.what

    _, doubts = length.fit(plan, SPEED, spent_s=start_s - total_s(plan, 2) - 0.01)
    assert [(d.id, d.severity) for d in doubts] == [("within-too-short", "warning")]
    assert "only 0.67 epochs fit" in doubts[0].message

    # the advice works: with the time that it names an epoch fits after the same start
    advised = caught.value.fix.split()[1]
    longer = plan_within(tmp_path / "again", advised)
    assert length.fit(longer, SPEED, spent_s=start_s)[1] == []


def test_the_trial_fits_the_length_on_a_copy(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"), epochs="auto", within="600s")
    run = built(composed, tmp_path / "run")
    before = run.state.digest()
    try:
        findings, choices = checks.trial(run, QUIET, lambda: None)
    finally:
        run.readers.close()
    assert run.state.digest() == before and not (tmp_path / "run").exists()
    steps = total_steps(run.plan.config, run.plan.epoch_size, choices.length.value)
    assert steps > 100
    # `check` says the same number as the run would have
    assert f"{steps:,} steps" in next(f.message for f in findings if f.id == "time")


def test_a_fitted_run_is_the_run_of_that_length_and_a_resumed_one_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a clock says differs each time, so the clock alone is replaced
    said: Choice[str] = Choice("448sample", "as the test says")
    monkeypatch.setattr(length, "fit", lambda plan, speed, spent_s: (said, []))
    how: dict[str, Any] = {
        "data": "digits", "model": "lenet5", "batch_size": 64, "quiet": True,
        "ema__half_life": "20%", "schedule__name": "linear", "checkpoint__every": "2step",
        "augment__sizes": [0.5, 1.0], "finetune__freeze": "backbone", "finetune__unfreeze": "50%",
    }  # fmt: skip

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise StopTraining("enough")

    def digest(folder: Path) -> str:
        return str(files.read_json(folder / "run.json")["digest"])

    typed = saccade.train(**how, epochs="7step", out=tmp_path / "typed")
    with pytest.raises(StopTraining):
        saccade.train(**how, within="1h", out=tmp_path / "fitted", callbacks=[stop])
    monkeypatch.setattr(length, "fit", None)  # a resumed run measures nothing

    # another time is another length, and says what would go on
    with pytest.raises(ConfigError, match="another length") as caught:
        saccade.train(**how, within="2h", out=tmp_path / "fitted", resume_changed=True)
    assert caught.value.where == "--within 2h"

    # rates, sizes, average and waking follow the length, and not what stood for it before the trial
    resumed = saccade.train(**how, within="1h", out=tmp_path / "fitted")
    assert typed.result == resumed.result
    assert digest(tmp_path / "typed") == digest(tmp_path / "fitted")
    facts = files.read_json(tmp_path / "fitted" / "run.json")
    assert facts["resolved"]["length"]["value"] == "448sample" and facts["steps"] == 7

    # its rates are known now, those of one that has not begun are not
    drawn = console.run_here("lr", "fitted", "--json", cwd=tmp_path)
    assert drawn.status == 0 and '"total_steps": 7' in drawn.stdout
    (tmp_path / "mine.yaml").write_text("epochs: auto\nwithin: 3m\n")
    refused = console.run_here("lr", "mine.yaml", cwd=tmp_path)
    assert refused.status == 78 and "--epochs" in refused.stderr


def test_flags_for_the_length_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: auto\nwithin: 3m\n")

    def settled(*arguments: str) -> dict[str, Any]:
        done = console.run_here("train", *arguments, "--dry-run", cwd=tmp_path)
        assert done.status == 0, done.stderr
        return yaml.safe_load(done.stdout)  # type: ignore[no-any-return]

    def ends(tree: dict[str, Any]) -> tuple[str, str]:
        return tree["epochs"], tree["within"]

    assert ends(settled("digits", "--within", "90s")) == ("auto", "90s")
    assert ends(settled("digits", "--within", "90", "--epochs", "auto")) == ("auto", "90s")
    assert ends(settled("mine.yaml")) == ("auto", "3m")
    assert ends(settled("mine.yaml", "--epochs", "5")) == ("5ep", "")
    assert ends(settled("digits")) == ("30ep", "")

    for wrong, word in (
        (("--within", "3m", "--epochs", "5"), "leave one of"),
        (("--epochs", "auto"), "--within 3m"),
        (("--within", "0s"), "write 3m"),
        (("--within", "soon"), "not a time"),
    ):
        done = console.run_here("train", "digits", *wrong)
        assert done.status == 78 and word in done.stderr, done.stderr


def test_runs_without_it_are_the_runs_they_were() -> None:
    config = settings(Request(["digits"]))
    old = config.dump()
    del old["within"]
    assert configuration.diff(old, config.dump()) == []
    decisive = config.model_copy(update={"epochs": "auto", "within": "3m"})
    longer = decisive.model_copy(update={"within": "4m"})
    prints = {configuration.fingerprint(one) for one in (config, decisive, longer)}
    assert len(prints) == 3, "another time is another run"
