"""Evaluations follow the figure that decides, whichever objective it belongs to."""

from __future__ import annotations

from saccade.objectives.evaluation import Evaluation, best_of
from saccade.objectives.objective import TOP1, Primary

ERROR = Primary("error", "error", "share of wrong images", higher_is_better=False, show=".3f")


def one(step: int, primary: Primary, value: float, loss: float = 1.0) -> Evaluation:
    return Evaluation.parse({"step": step, primary.name: value, "loss": loss}, primary)


def test_the_best_is_the_highest_or_the_lowest_as_the_objective_says_and_the_first_of_equals() -> (
    None
):
    rising = [one(1, TOP1, 0.2), one(2, TOP1, 0.7), one(3, TOP1, 0.7), one(4, TOP1, 0.1)]
    falling = [one(1, ERROR, 0.9), one(2, ERROR, 0.3), one(3, ERROR, 0.3), one(4, ERROR, 0.5)]
    assert best_of(rising) is rising[1]
    assert best_of(falling) is falling[1]
    assert best_of([]) is None


def test_a_watched_loss_counts_whatever_decides() -> None:
    low, high = one(1, TOP1, 0.1, loss=0.5), one(2, TOP1, 0.9, loss=0.8)
    assert high.score() > low.score() and low.score("loss") > high.score("loss")
    assert high.shown == "90.00%" and one(1, ERROR, 0.25).shown == "0.250"


def test_what_is_written_down_is_read_back() -> None:
    entry = {"step": 7, "epoch": 1.5, "split": "val", "views": 2, "top1": 0.5, "loss": 1.25, "n": 8}
    assert Evaluation.parse(entry, TOP1).to_json() == entry
    assert list(Evaluation.parse(entry, TOP1).to_json()) == list(entry)
