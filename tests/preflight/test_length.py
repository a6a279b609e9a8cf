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
from saccade.preflight import checks, length, pace
from saccade.preflight.pace import Pace
from saccade.setup.compose import Request, settings
from saccade.setup.steps import total_steps
from saccade.training import judging
from saccade.training.choices import Choice
from saccade.training.events import StepDone
from saccade.training.run import Plan
from saccade.training.step import StepRunner


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MOST_S", 0.1)


PACE = Pace({16: 0.2, 32: 0.44}, once_s=0.5, judge_s=0.2, save_s=0.05, end_s=0.7)


def plan_within(tmp_path: Path, within: str, *sets: str) -> Plan:
    flags: dict[str, Any] = {"epochs": "auto", "within": within, "batch.global": 4, "batch.cell": 2}
    flags["data.image_size"] = 32
    run = built(asked(make_set(tmp_path / "set"), *sets, **flags), tmp_path / "run")
    run.readers.close()
    return run.plan


def total_s(plan: Plan, steps: int) -> float:
    return length.total_s(length.of_length(plan, steps), PACE)


def test_the_longest_run_that_ends_in_time_is_taken(tmp_path: Path) -> None:
    plan = plan_within(tmp_path, "60s", "augment.sizes=[0.5, 1.0]")
    fitted, doubts = length.fit(plan, PACE, spent_s=20.0)
    steps = total_steps(plan.config, plan.epoch_size, fitted.value)
    # looked for one by one, beside the search by halves
    left_s = 60 * (1 - length.MARGIN) - 20 - length.END_S
    assert steps == max(n for n in range(1, 200) if total_s(plan, n) <= left_s)
    assert doubts == [] and "fits within 60s" in fitted.reason


def test_steps_evaluations_saves_and_start_are_paid_out_of_the_same_time(tmp_path: Path) -> None:
    sizes = "augment.sizes=[0.5, 0.75, 1.0]"
    plan = plan_within(tmp_path, "60s", sizes, "checkpoint.every=2step")
    assert plan.view.sides == [16, 24, 32]
    # 12 images in batches of 4: 7 steps are two whole epochs with an evaluation each, every second
    # step and every evaluation is saved; a third each of the steps are small, in between and large
    between_s = 0.2 + 0.24 * (24**2 - 16**2) / (32**2 - 16**2)
    steps_s = 3 * 0.2 + 2 * between_s + 2 * 0.44
    of_seven = length.of_length(plan, 7)
    assert [of_seven.view.size_at(step) for step in range(7)] == [16] * 3 + [24] * 2 + [32] * 2
    assert not plan.final_is_candidate, "two views at the end: the last step is judged like others"
    assert total_s(plan, 7) == pytest.approx(
        0.5 + steps_s + 3 * 0.2 + (3 + 3) * 0.05 + 0.7, abs=1e-9
    )

    def steps(pace: Pace, spent_s: float) -> int:
        choice, _ = length.fit(plan, pace, spent_s)
        return total_steps(plan.config, plan.epoch_size, choice.value)

    plain = Pace({32: 0.44}, once_s=0, judge_s=0, save_s=0, end_s=0)
    assert steps(plain, 0.0) == int((60 * 0.95 - length.END_S) / 0.44)
    assert steps(plain, 10.1) == int((60 * 0.95 - length.END_S - 10.1) / 0.44)
    assert steps(PACE, 0.0) < steps(dataclasses.replace(PACE, judge_s=0), 0.0)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Note the images that steps and evaluations of a measurement see, and their sides."""
    seen: dict[str, list[int]] = {"steps": [], "judged": [], "looks": []}
    step, score, look = StepRunner.step, judging.score, judging.look

    def noted_step(self: StepRunner, state: Any, batch: Any) -> Any:
        seen["steps"].append(batch.images.shape[-1])
        return step(self, state, batch)

    def noted_score(run: Any, classifier: Any, split: Any, poll: Any) -> Any:
        seen["judged"].append(len(split))
        return score(run, classifier, split, poll)

    def noted_look(run: Any, model: Any, poll: Any) -> Any:
        seen["looks"].append(1)
        return look(run, model, poll)

    monkeypatch.setattr(StepRunner, "step", noted_step)
    monkeypatch.setattr(judging, "score", noted_score)
    monkeypatch.setattr(judging, "look", noted_look)
    return seen


def test_small_and_large_images_are_measured_on_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, Any] = {"epochs": "auto", "within": "20s", "data.image_size": 32}
    composed = asked(make_set(tmp_path / "set"), "augment.sizes=[0.5, 0.75, 1.0]", **flags)
    run = built(composed, tmp_path / "run")
    before, seen = run.state.digest(), counted(monkeypatch)
    try:
        found = pace.measure(run, lambda: None)
    finally:
        run.readers.close()
    assert run.state.digest() == before and run.decoded == {}
    assert set(found.steps_s) == set(seen["steps"]) == {16, 32}
    assert seen["steps"].count(16) >= 2 and seen["steps"].count(32) >= 2
    assert seen["judged"] and min(found.judge_s, found.save_s, found.end_s, *found.steps_s.values())


def test_what_held_features_and_looks_take_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, data = counted(monkeypatch), make_set(tmp_path / "set")
    flags = {"epochs": "auto", "within": "20s"}
    held = built(asked(data, "finetune.freeze=backbone", **flags), tmp_path / "held")
    try:
        found = pace.measure(held, lambda: None)
    finally:
        held.readers.close()
    # steps take features (k, d), of which the first of all images are computed once, before
    assert all(width == held.state.model.fc.in_features for width in seen["steps"])
    assert seen["judged"] and found.once_s > 0 and found.judge_s < found.end_s

    seen["judged"].clear()
    learner = built(
        asked(data, "pretrain.method=simclr", "augment.repeats=2", **flags), tmp_path / "learner"
    )
    try:
        # a look that was taken already is not taken again
        assert pace.measure(learner, lambda: None, look_s=7.0).judge_s == 7.0
        assert not seen["looks"] and not seen["judged"]
        assert pace.measure(learner, lambda: None).end_s > 0 and seen["looks"] == [1]
    finally:
        learner.readers.close()


def test_a_run_that_took_longer_than_it_was_given_says_so() -> None:
    assert length.overran("", 1e9) == "" and length.overran("90s", 89.9) == ""
    assert "6.4 s longer" in length.overran("90s", 96.4)


def test_a_time_too_short_for_an_epoch_is_said_and_one_too_short_for_a_step_refused(
    tmp_path: Path,
) -> None:
    plan = plan_within(tmp_path, "10s")
    start_s = 10 * 0.95 - length.END_S
    with pytest.raises(ConfigError) as caught:
        length.fit(plan, PACE, spent_s=start_s)
    assert caught.value.finding == "within-too-short" and "not even one step" in caught.value.what

    _, doubts = length.fit(plan, PACE, spent_s=start_s - total_s(plan, 2) - 0.01)
    assert [(d.id, d.severity) for d in doubts] == [("within-too-short", "warning")]
    assert "only 0.67 epochs fit" in doubts[0].message

    # the advice works: with the time that it names an epoch fits after the same start
    advised = caught.value.fix.split()[2]
    longer = plan_within(tmp_path / "again", advised)
    assert length.fit(longer, PACE, spent_s=start_s)[1] == []


def test_check_tells_the_length_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = checks.check(asked(make_set(tmp_path / "set"), epochs="auto", within="600s"), QUIET)
    said = next(f.message for f in findings if f.id == "time")
    assert "fits within 600s" in said and int(said.split()[0].replace(",", "")) > 100
    assert not (tmp_path / "runs").exists()


def test_a_fitted_run_is_the_run_of_that_length_and_a_resumed_one_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a clock says differs each time, so the clock alone is replaced
    said: Choice[str] = Choice("448sample", "as the test says")
    monkeypatch.setattr(length, "fit", lambda plan, pace, spent_s: (said, []))
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
    monkeypatch.setattr(length, "settle", None)  # a resumed run measures nothing

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
        (("--within", "3m", "--epochs", "5"), "remove one of"),
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
