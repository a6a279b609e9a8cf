"""The Python face: the verbs as functions, any module, notebooks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade.errors import CheckpointError, ConfigError, DivergedError


class Tiny(nn.Module):
    """A user's own network: no head attribute, no registration, a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.out(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def test_train_evaluate_predict_and_load_with_a_module_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = saccade.train(model=Tiny(), epochs=2, quiet=True, out="mine")
    assert outcome.fresh and outcome.result["n"] == 360 and outcome.result["top1"] > 0.2
    with pytest.raises(CheckpointError, match="your own network"):
        saccade.load("mine")
    classifier = saccade.load("mine", module=Tiny())
    again = saccade.evaluate(classifier, "digits")
    assert again.correct == outcome.result["correct"] and again.logits.shape == (360, 10)
    assert not saccade.train(model=Tiny(), epochs=2, quiet=True, out="mine").fresh
    # the functions must still be functions after their packages were imported
    assert callable(saccade.train) and callable(saccade.evaluate) and callable(saccade.predict)


def test_a_module_with_the_wrong_head_is_refused(tmp_path: Path) -> None:
    module = Tiny()
    module.out = nn.Linear(16 * 16, 7)
    with pytest.raises(ConfigError) as caught:
        saccade.train(model=module, epochs=1, quiet=True, out=tmp_path / "run")
    assert caught.value.finding == "head-width"


def test_settings_go_by_their_dotted_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment\.mixup"):
        saccade.train(epochs=1, quiet=True, out=tmp_path / "run", augment__mixup=-1)


def test_equal_logits_do_not_score_and_nan_raises() -> None:
    labels = torch.arange(10)
    assert saccade.top_k_accuracy(torch.zeros(10, 10), labels, 1) == 0.1
    assert saccade.top_k_accuracy(torch.zeros(10, 10), labels, (1, 5)) == (0.1, 0.5)
    with pytest.raises(DivergedError):
        saccade.top_k_accuracy(torch.full((10, 10), math.nan), labels, 1)


def test_open_source_and_create_model_are_at_hand() -> None:
    source = saccade.open_source("digits")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 1437, "test": 360}
    assert saccade.create_model("resnet8", num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = saccade.tarin
