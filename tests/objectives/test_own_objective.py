"""An objective that is handed over from Python: the digit is estimated as a number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade
from saccade import objectives
from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import CheckpointError, ConfigError, UsageError
from saccade.files import read_json
from saccade.objectives.classification import Classification
from saccade.trainer import Outcome
from saccade.training.identity import identify_function

SHORT: dict[str, Any] = {
    "model": "lenet5",
    "batch_size": 64,
    "precision": "fp32",
    "quiet": True,
}


def values(split: Split) -> Tensor:
    return torch.tensor([float(name) for name in split.classes])


@dataclass(frozen=True)
class Estimate(saccade.Objective):
    """The number that a class is called by is estimated, and the mean absolute error decides."""

    known: Tensor | None = None
    scale: ClassVar[float] = 0.1
    name: ClassVar[str] = "estimate"
    noun: ClassVar[str] = "numbers"
    needs_labels: ClassVar[bool] = True
    primary: ClassVar[saccade.Primary] = saccade.Primary(
        "mae", "MAE", "mean absolute error", higher_is_better=False, show=".3f"
    )

    @classmethod
    def of(cls, config: Config, train: Split) -> Estimate:
        return cls(("number",), config, values(train))

    def prepare(self, cell: saccade.Cell) -> tuple[Tensor, Tensor]:
        inputs, lam = self.present(cell)
        assert self.known is not None
        targets = self.known[cell.labels]
        return inputs, lam * targets + (1 - lam) * targets.flip(0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scale * F.mse_loss(outputs[:, 0].float(), targets)

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        assert self.known is not None
        return self.loss(outputs, self.known[labels])

    def truth(self, split: Split) -> Tensor:
        return values(split)[torch.from_numpy(split.labels)]

    def judge(self, logits: Tensor, truth: Tensor) -> saccade.Result:
        error = logits[:, 0] - truth
        figures = {
            "n": len(truth),
            "mae": float(error.abs().mean()),
            "loss": float(self.scale * error.square().mean()),
        }
        return saccade.Result(figures, logits, truth)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits

    def answer(self, probabilities: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
        return [(("number", float(one)),) for one in probabilities[:, 0]]


class Scaled(Estimate):
    scale = 0.2


class Brief(saccade.Objective):
    """Lacks most of it."""

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        return outputs.sum()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("estimate") / "run"
    return saccade.train("digits", objective=Estimate, epochs=3, out=folder, **SHORT)


def test_an_own_objective_trains_judges_and_answers_by_its_own_figure(run: Outcome) -> None:
    facts = read_json(run.folder / "run.json")
    assert (facts["objective"], facts["primary"]) == ("estimate", "mae")
    assert facts["handed_over"] == {"objective": "Estimate"}
    assert facts["dataset"]["classes"] == ["number"]

    # judged here once more, by hand; a constant answer is 2.5 wrong
    split = saccade.open_source("digits").splits["test"]
    result = saccade.evaluate(run.folder)
    truth = torch.tensor([float(split.classes[i]) for i in split.labels])
    by_hand = float((result.logits[:, 0] - truth).abs().mean())
    assert run.result["mae"] == pytest.approx(by_hand, abs=1e-5)
    assert by_hand < 2
    assert facts["best"]["mae"] <= run.result["mae"], "lower is better"
    header = (run.folder / "metrics.csv").read_text().splitlines()[0]
    assert "mae" in header.split(",") and "top1" not in header
    assert "MAE" in (run.folder / "report.html").read_text()

    (answer,) = saccade.predict(run.folder, bytes(split.read(0)))
    assert answer.top[0][1] == pytest.approx(float(result.logits[0, 0]), abs=1e-3)


def test_a_stopped_run_of_an_own_objective_goes_on_to_the_same_bits() -> None:
    proof = saccade.verify_resume(
        "digits",
        objective=Estimate,
        kills=1,
        steps=8,
        augment__mixup=0.2,
        **SHORT,
    )
    assert proof["identical"]


def test_what_was_handed_over_in_another_process_is_known_again_by_load(
    run: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "_HANDED", {})
    with pytest.raises(CheckpointError, match=r"objective=ITS_CLASS"):
        saccade.evaluate(run.folder)
    with pytest.raises(CheckpointError, match="'estimate', which is not a known objective"):
        list(saccade.predict(run.folder, np.zeros((8, 8), np.uint8)))
    classifier = saccade.load(run.folder, objective=Estimate)
    assert classifier.recipe.objective == "estimate"
    assert saccade.evaluate(run.folder).mae == pytest.approx(run.result["mae"], abs=1e-5)


def test_an_objective_is_part_of_the_run_by_its_content(tmp_path: Path) -> None:
    digests = [identify_function(one) for one in (Estimate, Estimate, Scaled)]
    assert digests[0] == digests[1] != digests[2]
    saccade.train("digits", objective=Estimate, epochs="2step", out=tmp_path, **SHORT)
    with pytest.raises(ConfigError, match="another objective"):
        saccade.train("digits", objective=Scaled, epochs="2step", out=tmp_path, **SHORT)
    with pytest.raises(ConfigError, match="another objective"):
        saccade.train("digits", epochs="2step", out=tmp_path, **SHORT)


class Twice(Estimate):
    @classmethod
    def of(cls, config: Config, train: Split) -> Twice:
        return cls(("a", "a"), config)


class Namesake(Estimate):
    name = "classification"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            Brief,
            UsageError,
            "the objective Brief does not define answer, judge, plain_loss, prepare",
        ),
        (Brief, UsageError, r"name \(a text\), primary \(a saccade.Primary\)"),
        (Estimate(("a",)), UsageError, "pass the class: objective=Estimate"),
        (nn.Linear, UsageError, "objective=Linear is not a subclass of saccade.Objective"),
        ("mae", UsageError, "objective='mae' is not a subclass"),
        (Namesake, UsageError, "has the name 'classification', which one of Saccade's"),
        (Twice, ConfigError, r"it returned: \('a', 'a'\)"),
    ],
)
def test_what_is_no_whole_objective_is_refused(
    given: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        saccade.train("digits", objective=given, out=tmp_path / "run", **SHORT)


def test_a_loss_beside_an_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loss= has no effect beside objective="):
        saccade.train(
            "digits", objective=Estimate, loss=F.cross_entropy, out=tmp_path / "run", **SHORT
        )


def test_one_of_ours_may_be_handed_over_and_is_the_same_training(tmp_path: Path) -> None:
    weights = []
    for given in (None, Classification):
        folder = tmp_path / str(given)
        saccade.train("digits", objective=given, epochs="2step", out=folder, **SHORT)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
