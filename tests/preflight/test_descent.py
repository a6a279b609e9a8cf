"""What weights have seen without labels is compared with the images that validate, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade import files
from saccade.config.schema import Config
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model
from saccade.preflight import descent
from saccade.setup.ancestor import own_entry
from saccade.training import datasets


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Forty images in one folder, all different."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def pretrained(out: Path, images: Path, seed: int = 0) -> Path:
    """Write what the check reads of a run that learned from images without labels."""
    out.mkdir()
    network = create_model("resnet8", num_classes=2, image_size=16)
    recipe = Recipe("resnet8", ("no", "yes"), 16, 0.75, (0.5,) * 3, (0.5,) * 3, "ignore")
    (out / "model.safetensors").write_bytes(Classifier(network, recipe).to_bytes())
    config = Config.model_validate(
        {
            "seed": seed,
            "data": {"train": str(images), "labels": "none"},
            "pretrain": {"method": "simclr"},
        }
    )
    data = datasets.open_data(config, datasets.open_any_training(config))
    known = {"name": "flat", "train": 32, "val": 8, "classes": [], "fingerprint": ""}
    entry = own_entry(config, data.fingerprint)
    files.write_json(out / "run.json", {"status": "running", "dataset": known, "trained_on": entry})
    return out


def checked(photos: Path, init: Path, **pretrain: Any) -> list[Any]:
    config = Config.model_validate(
        {
            "data": {"train": str(photos), "holdout": 0.25},
            "model": {"init": str(init)},
            "pretrain": pretrain,
        }
    )
    return descent.findings(config, datasets.open_data(config, datasets.open_any_training(config)))


def labelled(flat: Path, folder: Path) -> Path:
    for i, image in enumerate(sorted(flat.iterdir())):
        place = folder / ("even", "odd")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"again {i}.png").write_bytes(image.read_bytes())
    return folder


def test_validation_images_that_were_pretrained_on_are_named(flat: Path, tmp_path: Path) -> None:
    photos, run = labelled(flat, tmp_path / "photos"), pretrained(tmp_path / "run", flat)
    (found,) = checked(photos, run)
    assert (found.id, found.severity, found.status) == ("pretrain-saw-validation", "warning", 0)
    # ten validate, and the pretraining held eight of the forty out
    count = int(found.message.split(" of 10 validation images")[0])
    assert 2 <= count <= 10
    assert "without labels" in found.message and "--val" in found.fix


def test_other_images_are_not_suspected(flat: Path, tmp_path: Path) -> None:
    photos = labelled(flat, tmp_path / "photos")
    for image in flat.iterdir():
        pixels = np.random.default_rng(int(image.stem) + 99).integers(0, 256, (12, 12, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(image)
    assert checked(photos, pretrained(tmp_path / "run", flat)) == []


def test_a_pretraining_that_goes_on_with_other_held_out_images_is_only_warned(
    flat: Path, tmp_path: Path
) -> None:
    run = pretrained(tmp_path / "run", flat, seed=3)
    (found,) = checked(flat, run, method="simclr")
    assert (found.severity, found.status) == ("warning", 0)
