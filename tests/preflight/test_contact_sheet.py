"""The contact sheet shows the real views.

Sizes of evaluation and of epochs are followed through a run.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from saccade import api, files
from saccade.cli.main import app
from saccade.config.schema import Config
from saccade.data.sources import open_source
from saccade.evaluation.classifier import Classifier
from saccade.preflight.contact_sheet import GAP_PIXELS, LINE_PIXELS, contact_sheet


def config(**augment: object) -> Config:
    data = {"image_size": 16, "eval_crop": 1.0}
    return Config.model_validate(
        {"data": data, "augment": {"crop": "padded", "pad": 0.0, "flip": 0.0} | augment}
    )


def tiles(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Cut a sheet into its tiles, uint8 (rows, columns, 96, 96, 3)."""
    pitch = 96 + GAP_PIXELS
    head = len(pixels) - rows * pitch
    assert LINE_PIXELS <= head <= 2 * LINE_PIXELS + GAP_PIXELS + 1 and pixels.shape[1:] == (
        columns * pitch,
        3,
    )
    grid = pixels[head:].reshape(rows, pitch, columns, pitch, 3)
    return grid.transpose(0, 2, 1, 3, 4)[:, :, :96, :96]


def test_without_augmentation_all_views_are_the_evaluation_view() -> None:
    train = open_source("digits").splits["train"]
    sheet = contact_sheet(config(), train, 3, 2)
    drawn = tiles(sheet.pixels, 3, 3)
    lower = drawn[:, :, 30:]  # below the name of the class
    assert np.abs(lower[:, 1:].astype(int) - lower[:, :1]).max() <= 1
    assert sheet.columns == ("evaluation, 16 px", "epoch 0, 16 px", "epoch 1, 16 px")
    assert len(sheet.images) == 3 and np.ptp(drawn) > 200


def test_erasing_mixing_and_sizes_are_seen_and_written_above() -> None:
    train = open_source("digits").splits["train"]
    plain = tiles(contact_sheet(config(), train, 4, 2).pixels, 4, 3)
    erased = tiles(contact_sheet(config(erase=1.0), train, 4, 2).pixels, 4, 3)
    assert (erased[:, 1:] != plain[:, 1:]).any((2, 3, 4)).all() and np.array_equal(
        erased[:, 0], plain[:, 0]
    )
    sheet = contact_sheet(config(cutmix=1.0, sizes=(0.5, 1.0)), train, 4, 2)
    assert sheet.columns[1].startswith("epoch 0, 8 px") and sheet.columns[2].startswith(
        "epoch 1, 16 px, cutmix 0."
    )


def test_the_verb_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    words = [
        "show-augment",
        "digits",
        "--set",
        "augment.policy=3augment",
        "--images",
        "2",
        "--views",
        "3",
    ]
    answer = CliRunner().invoke(app, [*words, "--out", str(out), "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert told["sheet"] == str(out) and len(told["images"]) == 2 and len(told["columns"]) == 4
    assert told["order"] == ["rotate=10.0", "crop=random", "policy=3augment"]
    assert Image.open(io.BytesIO(out.read_bytes())).size[0] == 4 * (96 + GAP_PIXELS)


def test_a_run_with_everything_on_reaches_its_end(tmp_path: Path) -> None:
    outcome = api.train(
        "digits",
        epochs=2,
        batch_size=32,
        out=tmp_path / "run",
        quiet=True,
        data__eval_size=12,
        data__epoch_size=128,
        loss__name="bce",
        loss__class_weights="balanced",
        augment__policy="randaugment",
        augment__erase=0.5,
        augment__erase_fill="noise",
        augment__cutmix=1.0,
        augment__jitter=[0.2, 0.2, 0.2, 0.1],
    )
    facts = files.read_json(tmp_path / "run" / "run.json")
    assert facts["steps"] == 8 and outcome.result["epoch"] == 2, "an epoch has 128 images"
    assert len(facts["class_weights"]) == 10 and facts["class_weights"][0] == pytest.approx(
        1, abs=0.1
    )
    recipe = Classifier.load(tmp_path / "run").recipe
    assert (recipe.eval_size, recipe.eval_side, recipe.image_size) == (12, 12, 16)
    assert Classifier.load(tmp_path / "run").recipe == recipe
