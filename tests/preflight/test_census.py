"""The start says what it takes a set for: its classes, and the images of each, split by split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import console
from saccade.preflight import census


def folders(root: Path, counts: dict[str, int]) -> None:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def lines(said: str) -> dict[str, str]:
    rows = [line.strip().partition(" ") for line in said.splitlines() if line.startswith("  ")]
    return {name: text.strip() for name, _, text in rows}


@pytest.mark.parametrize("verb", ["check", "train"])
def test_classes_and_images_of_each_split_are_said_first(verb: str, tmp_path: Path) -> None:
    train, val = (
        {"train/ant": 5, "train/bee": 9, "train/cow": 7},
        {f"val/{name}": 2 for name in ("ant", "bee", "cow")},
    )
    folders(tmp_path / "set", train | val | {"test/ant": 3})
    done = console.run_here(
        verb, "small-images", "resnet8", "--data", "set", "--epochs", "2step", cwd=tmp_path
    )
    said = lines(done.stderr)
    assert done.status == 0 and list(said)[:3] == ["classes", "train", "val"]
    assert said["classes"] == "3: ant, bee, cow"
    assert said["train"] == "21 images: fewest 5 of 'ant', most 9 of 'bee'"
    assert said["val"] == "6 images: 2 of each class" and said["unused"] == "'test' (3 images)"


def test_shares_of_the_training_images_are_splits_of_their_own(tmp_path: Path) -> None:
    folders(tmp_path / "set", {"ant": 20, "bee": 40})
    flags = ("--data", "set", "--holdout", "10%", "--minival", "10%", "--epochs", "2step")
    said = lines(console.run_here("check", "small-images", "resnet8", *flags, cwd=tmp_path).stderr)
    assert said["holdout"] == "6 images: fewest 2 of 'ant', most 4 of 'bee'"
    assert said["minival"] == "6 images: fewest 2 of 'ant', most 4 of 'bee'"
    assert said["all"] == "48 images: fewest 16 of 'ant', most 32 of 'bee'"


def test_a_set_without_validation_is_refused_with_the_classes_it_was_read_as(
    tmp_path: Path,
) -> None:
    folders(tmp_path / "set", {"Lernen/ant": 3, "Lernen/bee": 3, "Probe/ant": 3})
    done = console.run_here("train", "--data", "set", cwd=tmp_path)
    assert done.status == 65 and "found 'all' with the classes Lernen, Probe" in done.stderr


def test_many_long_and_coded_names_stay_one_line() -> None:
    assert census.names(["a", "b"]) == "a, b"
    assert census.names(list("abcdef")) == "a, b, c, d, e, f"
    assert census.names(list("abcdefg")) == "a, b, c, d, e ... g"
    assert census.names(["n01440764", "x" * 200]) == f"tench, {'x' * 21}..."
