"""Recipes and receipts: `measured` comes from run folders only, and an edited recipe no longer has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from saccade import recipes
from saccade.config import Layers
from saccade.errors import ConfigError
from saccade.recipes import receipts

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


def run_folder(shelf: Path, seed: int, top1: float = 0.9, status: str = "done", **changed: Any) -> Path:
    layers = Layers()
    layers.add_file(shelf / "tiny.yaml")
    layers.add({"seed": seed} | changed, "test")
    folder = shelf / f"run{seed}"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(layers.resolve().dump()))
    (folder / "log.jsonl").write_text(json.dumps({"seed": seed}))
    facts = {
        "status": status, "ended": "2026-01-02T03:04:05+00:00", "seconds": 10.0 + seed, "command": "train tiny",
        "dataset": {"name": "toys", "train": 100, "val": 50},
        "environment": {"torch": "2.14.1", "processor": "AVX512", "threads": 2, "cores": 2, "commit": "ab" * 20},
        "result": {"top1": top1, "correct": round(50 * top1), "n": 50},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_a_receipt_is_made_of_runs_and_makes_the_recipe_measured(shelf: Path) -> None:
    assert receipts.status(recipes.find("tiny")) == "untested"
    receipts.record([run_folder(shelf, 1, 0.92), run_folder(shelf, 0, 0.88)])
    receipt = receipts.read("tiny")
    assert receipt is not None and receipts.status(recipes.find("tiny")) == "measured"
    assert [run.seed for run in receipt.runs] == [0, 1]
    assert receipt.summary == "90.00 % (88.00 to 92.00, n = 2)"
    assert receipt.band[0] < 0.88 and receipt.band[1] > 0.92
    assert receipt.runs[0].commit == "ab" * 20 and len(receipt.runs[0].log) == 64


def test_a_recipe_edited_after_its_receipt_says_so(shelf: Path) -> None:
    receipts.record([run_folder(shelf, 0)])
    recipe_folder(shelf, about="other words")
    assert receipts.status(recipes.find("tiny")) == "measured"
    recipe_folder(shelf, epochs="2ep")
    assert receipts.status(recipes.find("tiny")) == "changed since measured"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [({"epochs": "2ep"}, "epochs"), ({"status": "PreemptedError"}, "not finished"), ({"seed": 0}, "same seed")],
)
def test_other_settings_unfinished_runs_and_a_seed_twice_are_refused(
    shelf: Path, changed: dict[str, Any], complaint: str
) -> None:
    good = run_folder(shelf, 0)
    bad = run_folder(shelf, 1, **changed) if "seed" not in changed else good
    with pytest.raises(ConfigError, match=complaint):
        receipts.record([good, bad])
    assert receipts.read("tiny") is None


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
