"""The mean over several views of an image: what the views are, and that a figure says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import saccade
from saccade.cli.main import app
from saccade.evaluation.views import mean_logits, views


class Corner(nn.Module):
    """Answers with the upper left and the upper right pixel of the first colour."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1]], 1)


def image() -> Tensor:
    return torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_there_are_as_many_views_as_said_all_different_and_the_first_is_the_image(
    count: int,
) -> None:
    seen = list(views(image(), count))
    assert len(seen) == count
    assert torch.equal(seen[0], image())
    assert len({tuple(view.flatten().tolist()) for view in seen}) == count
    assert all(view.shape == image().shape for view in seen)


def test_shifted_views_move_by_a_pixel_to_both_sides() -> None:
    _, mirror, upper, upper_mirror, lower, _ = views(image(), 6)
    assert torch.equal(mirror, image().flip(3))
    assert torch.equal(upper[:, :, 1:, 1:], image()[:, :, :-1, :-1])
    assert torch.equal(lower[:, :, :-1, :-1], image()[:, :, 1:, 1:])
    assert torch.equal(upper_mirror, upper.flip(3))


def test_the_answer_is_the_mean_of_the_answers() -> None:
    alone, with_mirror = mean_logits(Corner(), image(), 1), mean_logits(Corner(), image(), 2)
    assert torch.equal(alone, Corner()(image()))
    assert torch.equal(with_mirror, (alone + alone.flip(1)) / 2)


def test_a_figure_of_several_views_says_so_and_all_verbs_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    outcome = saccade.train("digits", epochs="2step", out=run, data__eval_views=2)
    capsys.readouterr()
    assert outcome.result["views"] == 2
    shown = CliRunner().invoke(app, ["eval", str(run)]).output
    assert "mean of 2 views of each" in shown
    scored = json.loads(CliRunner().invoke(app, ["eval", str(run), "--json"]).output)
    assert (scored["views"], scored["correct"]) == (2, outcome.result["correct"])
    assert "mean of 2 views of each" in (run / "report.html").read_text(encoding="utf-8")
