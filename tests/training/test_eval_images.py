"""During training a part of the validation images may be scored: always the same; the end of the
run scores all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

import console
import saccade
from saccade.config.schema import Config
from saccade.errors import PreemptedError
from saccade.log import read_events
from saccade.training.datasets import Data, open_data, open_training


def opened(eval_images: float, **settings: Any) -> Data:
    config = Config.model_validate({"data": {"eval_images": eval_images}, **settings})
    return open_data(config, open_training(config))


def evaluations(run: Path) -> list[tuple[int, str, int, int]]:
    events = [e for e in read_events(run / "log.jsonl") if e["event"] == "eval"]
    return [(e["step"], e["split"], e["n"], e["correct"]) for e in events]


@pytest.mark.parametrize(("amount", "count"), [(90, 90), (0.25, 90), (1, 1), (0.0001, 1)])
@pytest.mark.spec(42)
def test_a_count_or_a_fraction_is_exactly_so_many_images(amount: float, count: int) -> None:
    data = opened(amount)
    assert len(data.chosen_on) == count and len(data.val) == 360 and len(data.train) == 1437
    assert set(data.chosen_on.names) <= set(data.val.names)


@pytest.mark.parametrize("amount", [0, 360, 5000])
def test_all_images_are_the_validation_split_itself(amount: float) -> None:
    data = opened(amount)
    assert data.chosen_on is data.val


def test_the_part_follows_from_the_seed_and_holds_every_kind_of_image() -> None:
    first, again, other = (opened(90, seed=seed).chosen_on for seed in (0, 0, 1))
    assert first.names == again.names and first.names != other.names
    assert len(set(first.labels.tolist())) == 10, "images in the order of their classes"


@pytest.mark.spec(42)
def test_the_best_is_chosen_on_the_part_and_the_result_is_of_all(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "quiet": True, "data__eval_images": 90}
    whole = saccade.train(**settings, out=tmp_path / "whole").folder
    stop_after(30)
    with pytest.raises(PreemptedError):
        saccade.train(**settings, out=tmp_path / "killed")
    resumed = saccade.train(**settings, out=tmp_path / "killed").folder

    # the answers of the final weights on all images are the judge of the last evaluation on 90
    data = opened(90)
    places = [data.val.names.index(name) for name in data.chosen_on.names]
    said = safetensors.torch.load_file(whole / "predictions.safetensors")
    right = (said["logits"].argmax(1) == said["labels"])[places]
    *_, last, result = evaluations(whole)
    assert last == (45, "90 of test", 90, int(right.sum())) and result[1:3] == ("test", 360)
    assert evaluations(whole) == evaluations(resumed) and len(evaluations(whole)) == 3

    facts = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    assert facts["best"]["split"] == "90 of test" and facts["result"]["n"] == 360
    assert facts["best"]["note"] == "best of 2 evaluations on '90 of test' (optimistic)"
    scored = console.run_here("eval", str(whole), "--best", "--split", "90 of test", "--json")
    assert json.loads(scored.stdout)["top1"] == facts["best"]["top1"]


def test_a_minival_is_another_answer_to_the_same_question() -> None:
    done = console.run_here("train", "--minival", "10%", "--set", "data.eval_images=90")
    assert done.status == 78 and "data.eval_images and --minival" in done.stderr


def test_a_small_set_is_evaluated_only_after_as_many_images_as_are_judged(tmp_path: Path) -> None:
    """Else most of the time of a small set, judged on a large one, would be evaluations."""
    pixels = np.random.default_rng(3).integers(0, 256, (460, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(460) % 10
    data = {"train": (pixels[:100], labels[:100]), "val": (pixels[100:], labels[100:])}
    settings: dict[str, Any] = {"model": "lenet5", "image_size": 28, "epochs": 9, "quiet": True}
    settings |= {"batch": {"global": 50}, "data__eval_views": 1}
    run = saccade.train(data=data, **settings, out=tmp_path / "run").folder
    # four epochs, 8 steps, are the first that show 360 images
    assert [step for step, *_ in evaluations(run)] == [8, 16, 18]
    asked = saccade.train(
        data=data, **settings, data__epoch_size=100, out=tmp_path / "asked"
    ).folder
    assert [step for step, *_ in evaluations(asked)] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
