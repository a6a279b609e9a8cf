"""`saccade lr`: the numbers, the pictures, and those in the documentation."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import get_args

import matplotlib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from saccade.cli.main import app
from saccade.config.optim import ScheduleSection
from saccade.errors import ConfigError
from saccade.report import rates

DOCS = Path(__file__).parents[2] / "docs"
NAMES = get_args(ScheduleSection.model_fields["name"].annotation)
COMMAND = re.compile(r"^saccade lr photos (--set .*) --out (\w+)\.svg$", re.M)


@pytest.mark.spec(26)
def test_the_numbers_are_those_of_the_run_to_come() -> None:
    found = rates.follow("photos", {"epochs": "9ep"}, ["schedule.warmup=1ep"], num_images=10_240)
    assert (found.total_steps, found.global_batch, found.step) == (90, 1024, tuple(range(90)))
    assert found.epoch[45] == 4.5 and found.lr[9] == pytest.approx(0.4) == max(found.lr)
    assert found.lr[50] == pytest.approx(0.2) and "0.4 = 0.4 x 1024/1024 (linear)" in found.text


def test_long_runs_are_thinned_but_keep_their_ends() -> None:
    found = rates.follow("photos", {}, [])
    assert (
        len(found.step) == rates.MOST_POINTS and found.step[-1] == found.total_steps - 1 == 112_602
    )
    assert all(isinstance(v, int) for v in found.step)


def test_plateau_is_drawn_as_if_nothing_became_better() -> None:
    chosen = ["schedule={name: plateau, patience: 2, warmup: 0ep}"]
    found = rates.follow("photos", {"epochs": "12ep"}, chosen, num_images=10_240)
    drops = [s for s in range(1, 120) if found.lr[s] < found.lr[s - 1]]
    assert drops == [40, 70, 100], "the first evaluation, then three that are no better, and so on"
    assert "no evaluation" in found.notes[-1]


def test_a_run_folder_knows_its_images(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "epochs: 2ep\nbatch: {global: 10}\nresolved: {device: cpu}\n"
    )
    with pytest.raises(ConfigError, match="--images"):
        rates.follow(str(tmp_path), {}, [])
    (tmp_path / "run.json").write_text(json.dumps({"dataset": {"train": 95}}))
    assert rates.follow(str(tmp_path), {}, []).total_steps == 19


@pytest.mark.spec(26)
def test_the_verb_draws_what_the_suffix_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(
        app, ["lr", "photos", "digits", "--epochs", "3", "--out", "a.png", "--json"]
    )
    told = json.loads(answer.output)
    assert [r["name"] for r in told["rates"]] == ["photos", "digits"] and told["picture"] == "a.png"
    with Image.open("a.png") as picture:
        assert picture.size == (1850, 850)
    assert CliRunner().invoke(app, ["lr", "photos", "--out", "a.svg"]).output.endswith("a.svg\n")
    assert Path("a.svg").read_text().startswith("<?xml")
    assert CliRunner().invoke(app, ["lr", "photos", "--out", "a.jpg"]).exit_code == 2
    assert CliRunner().invoke(app, ["lr", "resnet18"]).exit_code == 78


def test_recipes_that_are_too_different_are_drawn_as_shares() -> None:
    same = [rates.follow("photos", {"epochs": "3ep"}, [f"optimizer.lr={lr}"]) for lr in (0.1, 0.5)]
    assert b"fraction of its peak" not in rates.draw(same, "svg")
    far = [*same, rates.follow("photos", {"epochs": "3ep"}, ["optimizer.lr=0.001"])]
    assert b"fraction of its peak" in rates.draw(far, "svg")
    assert rates.draw(far, "svg") == rates.draw(far, "svg"), "the same bytes every time"


@pytest.mark.spec(26)
def test_the_documentation_shows_every_schedule_as_it_is() -> None:
    shown = dict(reversed(found) for found in COMMAND.findall((DOCS / "schedules.md").read_text()))
    assert set(shown) == set(NAMES)
    for name, text in shown.items():
        picture = (DOCS / "images" / "schedules" / f"{name}.svg").read_text()
        sets = [word for word in shlex.split(text) if word != "--set"]
        fresh = rates.draw([rates.follow("photos", {}, sets)], "svg").decode()
        assert f"schedule.name={name}" in sets
        if f"Matplotlib v{matplotlib.__version__}," in picture:
            assert numbers(picture) == pytest.approx(numbers(fresh), abs=0.01), (
                f"draw {name}.svg anew"
            )


def numbers(picture: str) -> np.ndarray:
    paths = re.findall(r' d="([^"]+)"', picture)
    return np.array([float(v) for path in paths for v in re.findall(r"-?\d+\.?\d*", path)])
