"""The recipe that is taken where none is named: one for training from scratch, or for going on."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from saccade import recipes
from saccade.models import create_model
from saccade.setup.compose import Request, compose, dry_run
from saccade.setup.image_side import side_for


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


@pytest.mark.parametrize(("flip", "views"), [("", 1), ("0.5", 2)])
def test_images_that_are_not_mirrored_are_not_judged_by_their_mirror_images(
    flip: str, views: int, weights: str
) -> None:
    # digits are not mirrored unless the user wants it
    asked = {"model.name": "resnet8", "model.init": weights}
    asked |= {"augment.flip": flip} if flip else {}
    assert compose(Request(flags=asked)).config.data.eval_views == views
    assert compose(Request(flags=asked | {"data.eval_views": 6})).config.data.eval_views == 6


@pytest.mark.parametrize(
    ("model", "devices", "side"),
    [
        ("resnet18", "cpu", 160),
        ("resnet18", "cuda", 224),
        ("vit_ti_16", "cpu", 224),  # its table of positions would be another
        ("airbench94", "cpu", 32),
    ],
)
def test_the_images_are_as_large_as_the_network_is_made_for_and_smaller_on_a_cpu(
    model: str, devices: str, side: int
) -> None:
    assert side_for(model, devices) == side


def test_a_size_that_is_named_is_taken(weights: str) -> None:
    asked = {"model.name": "resnet18", "model.init": weights, "device": "cpu"}
    assert compose(Request(flags=asked)).config.data.image_size == 160
    assert compose(Request(flags=asked | {"data.image_size": 96})).config.data.image_size == 96
    assert compose(Request(("photos-few",), flags=asked)).config.data.image_size == 128
