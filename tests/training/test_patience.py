"""Early stopping: when it ends a run, what is left then, and that a resumed run counts on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.files import read_json
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import Primary
from saccade.training.patience import is_exhausted


def evaluations(*scores: float, higher: bool = True) -> list[Evaluation]:
    primary = Primary("score", "score", "score", higher_is_better=higher)
    return [
        Evaluation(10 * n, float(n), "val", 1, figures={"score": score}, primary=primary)
        for n, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.5), 1, True),  # an equal one is no better one
        ((0.5, 0.6, 0.5), 2, False),
        ((0.5, 0.6, 0.5, 0.6), 2, True),
        ((0.5, 0.6, 0.5, 0.7), 2, False),
        ((0.5, 0.4, 0.3, 0.2), 0, False),  # 0: never
    ],
)
def test_patience_counts_evaluations_since_the_best(
    scores: tuple[float, ...], patience: int, ends: bool
) -> None:
    assert is_exhausted(evaluations(*scores), patience) is ends
    lower = evaluations(*(-score for score in scores), higher=False)
    assert is_exhausted(lower, patience) is ends


class Constant(nn.Module):
    """Learns nothing that shows: its answer is the same for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 10) + 0 * x.mean()


SETTINGS: dict[str, Any] = {
    "epochs": 9,
    "batch_size": 32,
    "data__epoch_size": 64,
    "patience": 2,
    "lr": 1e-6,
    "precision": "fp32",
}


def test_a_run_without_progress_ends_as_done_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = Constant()
    whole = saccade.train("digits", model=module, out=tmp_path / "whole", **SETTINGS)
    assert whole.result["step"] == 6  # the best after 2, and two more evaluations
    said = capfd.readouterr().err
    assert "the run ends after 2 evaluations on 'test' without a better top-1" in said
    assert "optimistic; --minival 2%" in said and "the schedule does not change" in said
    assert "patience ended the run at step 6 of 18" in said

    facts = read_json(tmp_path / "whole" / "run.json")
    assert facts["status"] == "done" and facts["best"]["step"] == 2
    # the module that was handed over holds what was judged
    saved = saccade.load(tmp_path / "whole", Constant()).network.state_dict()["bias"]
    assert torch.equal(module.bias.detach(), saved)
    assert not torch.equal(module.bias.detach(), Constant().bias.detach())


@pytest.mark.full
def test_a_resumed_run_counts_on_and_ends_at_the_same_step(tmp_path: Path) -> None:
    def stop(event: object) -> None:
        if isinstance(event, saccade.Evaluated) and event.step == 4:
            raise saccade.StopTraining("in the middle of the count")

    saccade.train("digits", model=Constant(), out=tmp_path / "whole", quiet=True, **SETTINGS)
    facts = read_json(tmp_path / "whole" / "run.json")
    with pytest.raises(saccade.StopTraining):
        saccade.train(
            "digits",
            model=Constant(),
            out=tmp_path / "cut",
            callbacks=[stop],
            quiet=True,
            **SETTINGS,
        )
    again = saccade.train("digits", model=Constant(), out=tmp_path / "cut", quiet=True, **SETTINGS)
    assert again.result["step"] == 6
    assert read_json(tmp_path / "cut" / "run.json")["digest"] == facts["digest"]
    assert not saccade.train(
        "digits", model=Constant(), out=tmp_path / "cut", quiet=True, **SETTINGS
    ).fresh
