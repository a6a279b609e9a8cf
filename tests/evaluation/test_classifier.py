"""Model files of strangers: every field has limits, and nothing is allocated before names and
shapes fit.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError
from saccade.evaluation import classifier
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model

RECIPE = Recipe("resnet8", ("cat", "dog"), 32, 0.9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "ignore")


def written(
    folder: Path, tensors: dict[str, Tensor] | None = None, text: str = "", **changes: Any
) -> Path:
    """Write a model file whose recipe or tensors are changed."""
    facts = text or json.dumps(asdict(RECIPE) | changes)
    state = tensors if tensors is not None else create_model("resnet8", num_classes=2).state_dict()
    file = folder / "model.safetensors"
    safetensors.torch.save_file(state, file, {"saccade": facts})
    return file


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Classifier.load(written(tmp_path)).recipe == RECIPE
    assert Recipe.parse(json.dumps(asdict(RECIPE)), "") == RECIPE


def test_a_file_of_an_earlier_version_sees_red_green_and_blue(tmp_path: Path) -> None:
    facts = asdict(RECIPE)
    del facts["channels"]
    assert Classifier.load(written(tmp_path, text=json.dumps(facts))).recipe.channels == "rgb"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_size": 10**6}, "image_size"),
        ({"image_size": "x"}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"mean": ["a"] * 3}, "mean"),
        ({"mean": [0.5] * 2}, "mean"),
        ({"std": [0, 0, 0]}, "std"),
        ({"std": [1.0, -1.0, 1.0]}, "std"),
        ({"exif": "sideways"}, "exif"),
        ({"eval_views": 7}, "eval_views"),
        ({"model": ["x"]}, "model"),
        ({"classes": {"a": 1, "b": 2}}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": ["a", "a"]}, "classes"),
        ({"classes": []}, "classes"),
        ({"strides": [10**6] * 5}, "strides"),
        ({"eval_crop": -1.0}, "eval_crop"),
        ({"patch_size": 10**9}, "patch_size"),
        ({"eval_size": -4}, "eval_size"),
        ({"channels": "gbr"}, "channels"),
        ({"text": "[" * 100_000}, "metadata"),
        ({"text": "[1]"}, ""),
        ({"text": json.dumps(asdict(RECIPE)).replace("0.9", "NaN")}, "eval_crop"),
    ],
)
def test_an_odd_recipe_is_refused_by_field_before_anything_is_built(
    changes: dict[str, Any], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "create_model", None)
    with pytest.raises(CheckpointError, match=f"not a valid saccade model: {field}") as caught:
        Classifier.load(written(tmp_path, **changes))
    assert caught.value.status == 66 and "model.safetensors" in caught.value.where


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "vit_ti_16", "image_size": 4096, "patch_size": 1},
        {"model": "resnet8_x4"},
        {"model": "resnet9999"},
        {"model": "resnet20", "strides": [2, 2, 2, 2, 2]},
        {"classes": ["a", "b", "c"]},
        {"model": "vgg16_x99999"},
        {"model": "resnet18_x" + "9" * 200},
        {"model": "mobilenet_v1_x" + "9" * 400},
    ],
)
def test_what_does_not_fit_the_named_network_takes_no_memory(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "create_model", None)
    with pytest.raises(CheckpointError) as caught:
        Classifier.load(written(tmp_path, **changes))
    assert caught.value.status == 66 and caught.value.fix


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused_by_name(value: float, tmp_path: Path) -> None:
    state = create_model("resnet8", num_classes=2).state_dict()
    state["fc.weight"][0, 3] = value
    with pytest.raises(CheckpointError, match=r"fc\.weight contains NaN or infinity"):
        Classifier.load(written(tmp_path, state))


class Masked(nn.Module):
    """A user's network whose mask is infinite, as those of attention are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def test_an_infinite_buffer_of_the_users_own_network_is_no_broken_weight(tmp_path: Path) -> None:
    loaded = Classifier.load(
        written(tmp_path, Masked().state_dict(), model="custom:Masked"), Masked()
    )
    assert loaded.network.mask.isinf().all()
    with pytest.raises(CheckpointError, match="your own network Masked"):
        Classifier.load(written(tmp_path, Masked().state_dict(), model="custom:Masked"))


def test_a_wrapped_module_gets_the_weights_of_the_network_inside(tmp_path: Path) -> None:
    state = Masked().state_dict()
    file = written(tmp_path, {f"_orig_mod.{n}": t for n, t in state.items()}, model="custom:Masked")
    for module in (Masked(), nn.DataParallel(Masked()), torch.compile(Masked())):
        loaded = Classifier.load(file, module)
        assert torch.equal(loaded.network.fc.weight, state["fc.weight"])
