"""Recipes and receipts: `measured` comes from run folders only, and an edited recipe no longer
has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import saccade
from saccade import recipes
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.loader import TrainingView
from saccade.data.order import Order
from saccade.data.sources import open_source, train_split
from saccade.errors import ConfigError
from saccade.models import Options, find
from saccade.models.parts import registry
from saccade.recipes import receipts
from saccade.setup.compose import Request, settings

ROOT = Path(__file__).parents[1]


def recipe_folder(place: Path, **settings: Any) -> None:
    tree = {"about": "a test", "epochs": "1ep", "batch": {"global": 16}} | settings
    (place / "tiny.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recipes, "_FOLDER", tmp_path)
    monkeypatch.setattr(receipts, "FOLDER", tmp_path / "receipts")
    recipe_folder(tmp_path)
    return tmp_path


def run_folder(
    shelf: Path,
    seed: int,
    top1: float = 0.9,
    status: str = "done",
    images: str = "toys",
    **changed: Any,
) -> Path:
    layers = Layers()
    layers.add_file(shelf / "tiny.yaml")
    layers.add({"seed": seed} | changed, "test")
    folder = shelf / f"run{seed}-{images}"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(layers.resolve().dump()))
    (folder / "log.jsonl").write_text(json.dumps({"seed": seed}))
    facts = {
        "status": status,
        "ended": "2026-01-02T03:04:05+00:00",
        "seconds": 10.0 + seed,
        "command": "train tiny --data ../toys.tar --out here",
        "dataset": {"name": images, "train": 100, "val": 50},
        "environment": {
            "torch": "2.14.1",
            "processor": "AVX512",
            "threads": 2,
            "cores": 2,
            "commit": "ab" * 20,
        },
        "result": {"top1": top1, "correct": round(50 * top1), "n": 50},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_what_was_only_published_elsewhere_lies_apart_and_no_name_is_taken_twice() -> None:
    assert len(set(recipes.names())) == len(recipes.names())
    for path in recipes.paths():
        recipe = recipes.find(path.stem)
        is_ported = path.parent.name == recipes.PORTED
        assert is_ported == (receipts.status(recipe) == "ported"), path


def test_a_receipt_of_fine_tuning_says_from_which_weights(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"model": {"name": "resnet8", "init": "w.pth"}, "data": {"mean": [0.5, 0.5, 0.5]}}
    folder = run_folder(shelf, 0, **theirs)
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"init": {"digest": "ab" * 32}}))
    with pytest.raises(ConfigError, match=r"data\.mean"):
        receipts.record([folder])

    monkeypatch.setattr(receipts, "TUNING", ("tiny",))
    (receipt,) = receipts.record([folder])
    assert receipt.runs[0].data == "toys (100 + 50), from weights abababababab"
    assert "within" in receipts.judge(folder, 0.9)
    # other weights promise nothing
    (folder / "run.json").write_text(json.dumps(facts | {"init": {"digest": "cd" * 32}}))
    assert receipts.judge(folder, 0.9) == ""


def test_a_receipt_is_made_of_runs_and_makes_the_recipe_measured(shelf: Path) -> None:
    assert receipts.status(recipes.find("tiny")) == "untested"
    receipts.record([run_folder(shelf, 1, 0.92), run_folder(shelf, 0, 0.88)])
    (receipt,) = receipts.read("tiny")
    assert receipts.status(recipes.find("tiny")) == "measured"
    assert [run.seed for run in receipt.runs] == [0, 1]
    assert receipt.summary == "90.00 % (88.00 to 92.00, n = 2)"
    assert receipt.band[0] < 0.88 and receipt.band[1] > 0.92
    assert receipt.runs[0].command == "train tiny --data toys.tar"
    assert receipt.runs[0].commit == "ab" * 20 and len(receipt.runs[0].log) == 64


def test_a_recipe_has_a_receipt_for_each_set_of_images(shelf: Path) -> None:
    toys = [run_folder(shelf, seed, 0.9) for seed in (0, 1)]
    cats = [run_folder(shelf, seed, 0.5, images="cats") for seed in (0, 1)]
    receipts.record([*toys, cats[0]])
    assert [one.data for one in receipts.record(cats)] == ["cats (100 + 50)"]

    stored = receipts.read("tiny")
    assert [(one.data, one.mean, len(one.runs)) for one in stored] == [
        ("cats (100 + 50)", 0.5, 2),
        ("toys (100 + 50)", 0.9, 2),
    ]
    # a run is judged by those on its own images
    assert receipts.judge(cats[0], 0.5).startswith("within")
    assert receipts.judge(toys[0], 0.5).startswith("below")
    # others do not stay when the recipe has changed
    recipe_folder(shelf, epochs="2ep")
    receipts.record([run_folder(shelf, 0)])
    assert [one.data for one in receipts.read("tiny")] == ["toys (100 + 50)"]


def test_a_recipe_edited_after_its_receipt_says_so(shelf: Path) -> None:
    receipts.record([run_folder(shelf, 0)])
    recipe_folder(shelf, about="other words")
    assert receipts.status(recipes.find("tiny")) == "measured"
    recipe_folder(shelf, epochs="2ep")
    assert receipts.status(recipes.find("tiny")) == "changed since measured"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"epochs": "2ep"}, "epochs"),
        ({"status": "PreemptedError"}, "not finished"),
        ({"seed": 0}, "same seed"),
    ],
)
def test_other_settings_unfinished_runs_and_a_seed_twice_are_refused(
    shelf: Path, changed: dict[str, Any], complaint: str
) -> None:
    good = run_folder(shelf, 0)
    bad = run_folder(shelf, 1, **changed) if "seed" not in changed else good
    with pytest.raises(ConfigError, match=complaint):
        receipts.record([good, bad])
    assert receipts.read("tiny") == ()


def test_a_run_with_functions_of_its_own_is_no_measurement_of_a_recipe(shelf: Path) -> None:
    place = run_folder(shelf, 0) / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"handed_over": {"loss": "focal"}}))
    with pytest.raises(ConfigError, match="your own loss"):
        receipts.record([place.parent])
    assert receipts.read("tiny") == () and receipts.judge(place.parent, 0.9) == ""


def test_a_run_is_told_where_it_lies_beside_the_receipt(shelf: Path) -> None:
    assert receipts.judge(run_folder(shelf, 0), 0.9) == ""
    receipts.record([run_folder(shelf, 0)])
    assert receipts.judge(run_folder(shelf, 5), 0.9).startswith("within")
    assert receipts.judge(run_folder(shelf, 5), 0.5).startswith("below")
    assert receipts.judge(run_folder(shelf, 5), 1.0).startswith("above")


def test_the_page_of_records_is_what_the_stored_receipts_give() -> None:
    assert (ROOT / "docs" / "RECORDS.md").read_text(encoding="utf-8") == receipts.table()


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_a_valid_configuration_with_words(name: str) -> None:
    recipe = recipes.find(name)
    layers = Layers()
    layers.add_file(recipe.path)
    assert layers.resolve().recipe == name and len(recipe.about) > 20
    assert bool(recipe.claims) <= bool(recipe.source), "a claim needs its source"


def shown(name: str) -> Config:
    """What `saccade train NAME --dry-run` prints."""
    return settings(Request(words=[name]))


def sides(config: Config) -> set[int]:
    """The smallest and largest side, in pixels, of the images that a network sees."""
    section = config.data
    digits = train_split(open_source("digits"))
    view = TrainingView(digits, Order(1, 0), config.augment, section.image_size, 1, section.exif)
    seen = [section.eval_size or section.image_size, *view.sides]
    return {min(seen), max(seen)}


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_composes_and_its_network_takes_every_size_of_it(name: str) -> None:
    config = shown(name)
    model = config.model
    options = Options(
        10,
        config.data.image_size,
        dropout=model.dropout,
        drop_path=model.drop_path,
        strides=model.strides,
        patch_size=model.patch_size,
    )
    with torch.device("meta"), torch.no_grad():
        network = find(model.name).build(options).eval()
        for side in sides(config):
            assert network(torch.empty(1, 3, side, side)).shape == (1, 10)


def test_the_page_of_recipes_lists_what_the_files_say() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [name for name in recipes.names() if row(name) not in page]
    assert not missing, "docs/recipes.md lacks:\n" + "\n".join(map(row, missing))


def row(name: str) -> str:
    recipe, config = recipes.find(name), shown(name)
    what = (
        f"{config.model.name}, {config.epochs}, {config.data.image_size} px, batch "
        f"{config.batch.global_:,}"
    )
    return f"| `{name}` | {what} | {recipe.claims or '-'} | {recipe.source or 'ours'} |"


@pytest.mark.parametrize(
    ("images", "side", "name"),
    [
        (2_999, 224, "photos-few"),
        (3_000, 224, "photos-small"),
        (200_000, 224, "photos"),
        (2_999, 32, "small-images"),
        (20_000, 64, "cifar10"),
        (20_000, 65, "photos-small"),
    ],
)
def test_the_recipe_follows_number_and_size_of_the_images(
    images: int, side: int, name: str
) -> None:
    assert recipes.default_for("set", images, side) == name
    assert recipes.default_for("digits", images, side) == "digits"


def test_no_recipe_hides_a_model() -> None:
    assert not [name for name in recipes.names() if registry.is_known(name)]


PORTED = [name for name in recipes.names() if recipes.find(name).source]


def folder_of_noise(place: Path) -> Path:
    draw = np.random.Generator(np.random.Philox(5))
    for split, count in (("train", 8), ("val", 2)):
        for label in ("left", "right"):
            folder = place / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
                coarse.resize((280, 240)).save(folder / f"{i}.jpg")
    return place


@pytest.mark.models
@pytest.mark.parametrize("name", PORTED)
@pytest.mark.spec(11)
def test_every_ported_recipe_takes_three_steps_at_its_own_size(name: str, tmp_path: Path) -> None:
    config = shown(name)
    views, has_labels = config.augment.repeats, config.pretrain.method == "none"
    outcome = (saccade.train if has_labels else saccade.pretrain)(
        name,
        data=folder_of_noise(tmp_path / "data"),
        epochs="3step",
        out=tmp_path / "run",
        quiet=True,
        batch__global=4 if views == 1 else 2 * views,
        batch__cell=0,
    )
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "done"
    # a loss is of whole cells: the four images come round again
    assert outcome.result["n"] == 4 if has_labels else outcome.result["loss"] > 0


def test_another_batch_takes_another_cell_where_that_of_the_recipe_does_not_fit() -> None:
    cells = {}
    for batch in (32, 100, 500):
        request = Request(words=["small-images"], flags={"batch.global": batch})
        cells[batch] = settings(request).cell
    assert cells == {32: 32, 100: 100, 500: 250}, "of small-images it is 250 of 250"
    with pytest.raises(ConfigError, match="does not divide"):
        settings(Request(words=["small-images"], flags={"batch.global": 32, "batch.cell": 20}))
