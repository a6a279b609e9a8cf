"""The recipe that is taken where none is named: one for training from scratch, or for going on."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from saccade import recipes
from saccade.models import create_model
from saccade.setup.compose import Request, compose, dry_run


@pytest.fixture
def weights(tmp_path: Path) -> str:
    place = tmp_path / "weights.safetensors"
    place.write_bytes(safetensors.torch.save(create_model("resnet8", num_classes=7).state_dict()))
    return str(place)


@pytest.mark.parametrize(
    ("images", "name"),
    [
        (999, "finetune-few"),
        (1_000, "finetune-small"),
        (19_999, "finetune-small"),
        (20_000, "finetune"),
    ],
)
def test_the_recipe_for_going_on_follows_the_number_of_images(images: int, name: str) -> None:
    assert recipes.for_tuning(images) == name


def test_weights_choose_a_recipe_for_going_on_and_a_named_one_stays(weights: str) -> None:
    asked = {"model.name": "resnet8", "model.init": weights}
    assert compose(Request(flags=asked)).config.recipe == "finetune-small"
    assert compose(Request(flags={"model.name": "resnet8"})).config.recipe == "digits"
    assert compose(Request(("photos-few",), flags=asked)).config.recipe == "photos-few"


def test_a_dry_run_settles_on_the_same_recipe(weights: str) -> None:
    asked = {"data.train": "cifar10", "model.name": "resnet8", "model.init": weights}
    assert dry_run(Request(flags=asked)).recipe == "finetune"


def test_digits_are_not_mirrored_by_a_recipe_for_going_on(weights: str) -> None:
    asked = {"model.name": "resnet8", "model.init": weights}
    assert compose(Request(flags=asked)).config.augment.flip == 0
    asked["augment.flip"] = "0.5"
    assert compose(Request(flags=asked)).config.augment.flip == 0.5
