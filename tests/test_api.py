"""The Python face: the verbs as functions, any module, notebooks."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
import yaml
from torch import Tensor, nn

import console
import saccade
from saccade.cli import main
from saccade.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    SaccadeError,
    UsageError,
)
from saccade.runs import scoring
from saccade.setup.flags import FLAGS


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


VALUES: dict[str, Any] = {
    "data": "digits",
    "val": "digits",
    "labels": "labels.csv",
    "split_names": "train=Alpha,val=Beta",
    "model": "resnet20",
    "init": "torchvision:resnet18",
    "epochs": 3,
    "within": "90s",
    "batch_size": 32,
    "lr": 0.25,
    "image_size": 24,
    "mean": "0.5,0.4,0.3",
    "std": 0.4,
    "bgr": True,
    "seed": 7,
    "devices": 2,
    "precision": "fp32",
    "max_time": "20m",
    "patience": 5,
    "holdout": "10%",
    "minival": 0.02,
    "freeze": "backbone",
}


def flags_of(verb: str) -> set[str]:
    command = typer.main.get_command(main.app).commands[verb]  # type: ignore[attr-defined]
    return {
        p.opts[0].removeprefix("--").replace("-", "_")
        for p in command.params
        if p.opts[0].startswith("--")
    }


@pytest.mark.parametrize(
    ("verb", "function"),
    [("train", saccade.train), ("eval", saccade.evaluate), ("predict", saccade.predict)],
)
def test_every_flag_is_a_keyword_of_the_same_name(verb: str, function: Any) -> None:
    # how an answer is printed or written: Python has it at hand
    flags = flags_of(verb) - {"json", "csv"}
    assert len(flags) >= 1
    assert flags - set(inspect.signature(function).parameters) == set()


def test_every_flag_means_the_same_as_its_keyword(tmp_path: Path) -> None:
    assert set(VALUES) == set(FLAGS)
    for name, value in VALUES.items():
        words = [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
        typed = console.run_here("train", "digits", "--dry-run", *words)
        assert typed.status == 0, typed.stderr
        outcome = saccade.train("digits", dry_run=True, **{name: value})
        assert outcome.settings == yaml.safe_load(typed.stdout)
        assert outcome.settings != saccade.train("digits", dry_run=True).settings or name in (
            "data",
            "model",
        )
    assert list(tmp_path.iterdir()) == []


def test_words_and_assignments_are_as_on_the_command_line() -> None:
    typed = console.run_here(
        "train", "cifar10", "resnet18", "--dry-run", "--set", "augment.mixup=0.2"
    )
    same = {"augment__mixup": 0.2}, {"set": "augment.mixup=0.2"}, {"set": ["augment.mixup=0.2"]}
    for given in same:
        outcome = saccade.train(["cifar10", "resnet18"], dry_run=True, **given)  # type: ignore[arg-type]
        assert outcome.settings == yaml.safe_load(typed.stdout)


def test_numbers_of_numpy_and_shares_as_text_or_number_are_taken() -> None:
    def settled(**flags: Any) -> dict[str, Any]:
        return saccade.train("digits", dry_run=True, **flags).settings

    assert settled(epochs=np.int64(2), seed=np.int32(3), lr=np.float64(0.5)) == settled(
        epochs="2ep", seed=3, lr=0.5
    )
    assert settled(holdout=0.1, minival="2%") == settled(holdout="10%", minival=0.02)
    assert settled(data__holdout="10%") == settled(holdout=0.1)
    assert settled(max_time=90) == settled(max_time="90s")


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ({"lr": -1}, ConfigError, "-1 is not a learning rate"),
        ({"lr": math.nan}, ConfigError, "nan is not a learning rate"),
        ({"lr": math.inf}, ConfigError, "inf is not a learning rate"),
        ({"lr": "fast"}, ConfigError, "'fast' is not a learning rate"),
        ({"lr": True}, ConfigError, "True is not a learning rate"),
        ({"resume": True}, UsageError, "'auto' (continue where the run stopped)"),
        ({"resume": None}, UsageError, "'never', or the path of a checkpoint"),
        ({"mean": "0.5,0.5"}, ConfigError, "not three numbers (red, green, blue)"),
        ({"mean": 124}, ConfigError, "write --mean 0.4863,0.4863,0.4863, and also divide --std"),
        ({"std": [0.5, "x", 1]}, ConfigError, "write --std 0.5,0.5,0.5"),
        ({"holdout": 10}, UsageError, "'10' is not a fraction"),
        ({"minival": "x"}, UsageError, "where: --minival"),
        ({"epochs": -1}, ConfigError, "'-1' is not a duration"),
        ({"epochs": True}, ConfigError, "epochs: "),
        ({"epochs": [2]}, ConfigError, "epochs: "),
        ({"data": 5}, UsageError, "saccade.open_source"),
        ({"val": ["a"]}, UsageError, "type list"),
        ({"model": 3}, ConfigError, "model.name"),
        ({"model": nn.Linear}, UsageError, "pass an instance: model=Linear(...)"),
        ({"epoch": 3}, ConfigError, "did you mean 'epochs'?"),
        ({"batchsize": 3}, ConfigError, "did you mean 'batch_size'?"),
        ({"augment__mixpu": 3}, ConfigError, "did you mean 'augment.mixup'?"),
        ({"recipe": "resnet81"}, ConfigError, "did you mean"),
    ],
)
def test_every_odd_value_is_answered_with_a_sentence(
    flags: dict[str, Any], error: type, words: str
) -> None:
    with pytest.raises(SaccadeError) as caught:
        saccade.train(**flags, dry_run=True)
    assert isinstance(caught.value, error) and words in str(caught.value)


def test_a_split_that_is_no_text_is_answered_with_the_splits_there_are() -> None:
    with pytest.raises(SaccadeError, match="no split '3'"):
        scoring.judged_split(None, saccade.open_source("digits"), 3)  # type: ignore[arg-type]


def test_sources_and_splits_that_are_open_already_are_trained_on(tmp_path: Path) -> None:
    digits = saccade.open_source("digits")
    whole = saccade.train(data=digits, epochs="2step", quiet=True, out=tmp_path / "whole")
    assert whole.result["n"] == 360
    assert (
        saccade.evaluate(whole.folder).n == 360
        and saccade.evaluate(whole.folder, split="train").n == 1437
    )
    parts = saccade.train(
        data=digits.splits["train"],
        val=digits.splits["test"],
        epochs="2step",
        quiet=True,
        out=tmp_path / "parts",
    )
    assert parts.result["correct"] == whole.result["correct"]
    held = saccade.train(
        data=digits.splits["test"], holdout=0.5, epochs="2step", quiet=True, out=tmp_path / "held"
    )
    assert 180 <= held.result["n"] <= 185  # half of each class, rounded
    with pytest.raises(DataError, match="no validation split"):
        saccade.train(data=digits.splits["train"], quiet=True)
    for data in ("digits", digits, digits.splits["test"], None):
        assert saccade.evaluate(whole.folder, data).correct == whole.result["correct"]
    with pytest.raises(DataError, match="no split 'foo'; found: test, train"):
        saccade.evaluate(whole.folder, split="foo")


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
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 1437,
        "test": 360,
    }
    assert saccade.create_model("resnet8", num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = saccade.tarin
