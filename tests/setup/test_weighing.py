"""What weights are worth is said at the start, and again where training made less of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch

from console import run_here
from saccade.config.finetune import FinetuneSection
from saccade.config.schema import Config
from saccade.evaluation.worth import Score, Worth
from saccade.findings import Finding
from saccade.log import Log
from saccade.models import create_model
from saccade.objectives.classification import Classification
from saccade.setup import weighing

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def train(tmp_path: Path, weights: Path, out: str, *more: str) -> tuple[str, dict[str, Any]]:
    words = ["train", "resnet8", "--init", str(weights), "--image-size", "16", "--out", out]
    small = ["--minival", "80%", "--epochs", "2step", *more]
    done = run_here(*words, *small, cwd=tmp_path)
    assert done.status == 0, done.stderr
    return done.stderr, facts(tmp_path / out)


def test_the_start_says_what_weights_are_worth_and_a_second_one_has_it_cached(
    tmp_path: Path,
) -> None:
    # as they are drawn: of no more worth than the same network untrained
    weights = tmp_path / "drawn.safetensors"
    network = create_model("resnet8", num_classes=7, image_size=16, seed=3)
    weights.write_bytes(safetensors.torch.save(network.state_dict()))

    said, first = train(tmp_path, weights, "a")
    worth = first["init"]["worth"]
    assert worth["helps"] is False and worth["learned"] == 288 and worth["judged"] == 360
    assert "[weights-worth] frozen" in said and re.search(
        "these weights do not (clearly )?help", said
    )
    assert {f["id"]: f["severity"] for f in first["findings"]}["weights-worth"] == "warning"
    assert worth["frozen"]["probe"] > 0.4, "of digits even a drawn network tells a lot"
    # where the new head starts is said once
    assert "; the head is new" in said and said.count("starts as the linear probe") == 1
    assert "starts at zero" not in said

    kept = sorted((tmp_path / "cache").rglob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    _, second = train(tmp_path, weights, "b", "--set", "finetune.head_start=zero")
    assert kept and [path.stat().st_mtime_ns for path in kept] == stamps
    assert second["init"]["worth"] == worth


def test_few_validation_images_lead_to_no_conclusion() -> None:
    plan: Any = SimpleNamespace(
        config=Config(), data=SimpleNamespace(val=SimpleNamespace(name="val"))
    )
    nothing: Any = None

    def found(judged: int, untrained: float) -> list[Finding]:
        high, low = Score(1.0, 1.0), Score(untrained, untrained)
        return weighing.judge(Worth(high, low, 16, judged, nothing, nothing, {}), plan)

    (few,), (many,), (clear,) = found(4, 1.0), found(400, 1.0), found(4, 0.0)
    assert few.severity == "note" and "too few images to tell" in few.message
    assert many.severity == "warning" and "these weights do not help" in many.message
    assert clear.severity == "note" and "these weights help" in clear.message


def test_the_end_says_where_training_made_less_of_the_weights() -> None:
    init = {"worth": {"frozen": {"knn": 0.935, "probe": 0.902}, "judged": 153}}

    def ended(init: dict[str, Any], **finetune: Any) -> Any:
        config = Config(finetune=FinetuneSection(**finetune))
        plan, history = SimpleNamespace(config=config), SimpleNamespace(init=init)
        return SimpleNamespace(plan=plan, history=history)

    assert weighing.compare(0.94, ended(init)) == [] == weighing.compare(0.5, ended({}))
    (note,) = weighing.compare(0.902, ended(init))
    assert note.severity == "note" and "fine-tuned 90.2%, frozen 93.5%" in note.message
    (warning,) = weighing.compare(0.6, ended(init))
    assert warning.severity == "warning" and warning.id == "frozen-is-better"
    assert "--freeze backbone" in warning.fix
    # what was done already is no advice
    (warning,) = weighing.compare(0.6, ended(init, freeze="backbone"))
    assert "--freeze" not in warning.fix and "more --epochs" in warning.fix


def test_more_classes_than_are_learned_from_are_not_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # a probe of 10,000 classes would take hours before the first step
    names = tuple(map(str, range(weighing.MOST_CLASSES + 1)))
    plan = SimpleNamespace(
        objective=Classification(names),
        data=SimpleNamespace(train=SimpleNamespace(classes=names)),
    )
    run: Any = SimpleNamespace(plan=plan, history=SimpleNamespace(init={"head": "zero"}))
    assert weighing.weigh(run, Log(), lambda: None) is None
    assert "not measured: a probe of 1,001 classes takes too long" in capsys.readouterr().err
