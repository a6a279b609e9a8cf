"""FixRes: trained weights for another image size, judged before and after at both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import console
import saccade
from saccade import files
from saccade.errors import StopTraining
from saccade.evaluation.classifier import Classifier
from saccade.training.events import StepDone

SIZES: dict[str, Any] = {"data": "digits", "image_size": 24, "epochs": "6step", "quiet": True}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("source") / "run"
    saccade.train("digits", epochs="20step", quiet=True, out=folder)
    return folder


@pytest.fixture(scope="module")
def fixed(source: Path) -> Path:
    """Return a run that was stopped in its middle: what was judged before it is kept."""
    folder = source.parent / "fixed"

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            raise StopTraining("enough")

    with pytest.raises(StopTraining):
        saccade.train("finetune-fixres", init=source, **SIZES, out=folder, callbacks=[stop])
    saccade.train("finetune-fixres", init=source, **SIZES, out=folder)
    return folder


def correct_at(run: Path, side: int) -> int:
    """Score a run at another size by the public functions alone."""
    known = saccade.load(run)
    recipe = dataclasses.replace(known.recipe, image_size=side)
    return int(saccade.evaluate(Classifier(known.network, recipe), "digits").correct)


def test_both_sizes_are_judged_before_and_after(source: Path, fixed: Path) -> None:
    facts = files.read_json(fixed / "run.json")
    told = {(entry["when"], entry["side"]): entry["correct"] for entry in facts["sizes"]}
    assert told == {
        ("before", 16): correct_at(source, 16),
        ("before", 24): correct_at(source, 24),
        ("after", 16): correct_at(fixed, 16),
        ("after", 24): facts["result"]["correct"],
    }
    assert told["before", 24] != told["after", 24]

    page = (fixed / "report.html").read_text()
    shown = f"{100 * told['before', 24] / 360:.2f}%"
    assert "Before and after" in page and shown in page
    assert f"at 24 px: before {shown}" in (fixed / "log.txt").read_text()


def test_nothing_but_the_head_and_the_last_norm_is_changed(source: Path, fixed: Path) -> None:
    before, after = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (source, fixed)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    places = {name.rpartition(".")[0] for name in changed}
    assert places == {"fc", "layer3.0.bn2"}, places
    assert {"layer3.0.bn2.running_mean", "fc.weight"} <= changed


@pytest.mark.full
def test_tables_of_positions_are_judged_before_as_they_came(tmp_path: Path) -> None:
    small: dict[str, Any] = {"model": "vit_ti_16", "model__patch_size": 4, "quiet": True}
    saccade.train("digits", **small, epochs="1step", out=tmp_path / "vit")
    saccade.train(
        "finetune-fixres", data="digits", init=tmp_path / "vit", image_size=24,
        epochs="1step", quiet=True, out=tmp_path / "fixed",
    )  # fmt: skip
    told = files.read_json(tmp_path / "fixed" / "run.json")["sizes"]
    own = files.read_json(tmp_path / "vit" / "run.json")["result"]
    at_own = next(e for e in told if (e["when"], e["side"]) == ("before", 16))
    # resized to 24 px and back the table would be another one, and so would the loss
    assert {name: at_own[name] for name in ("loss", "top1", "n")} == {
        name: own[name] for name in ("loss", "top1", "n")
    }


def test_without_weights_it_is_refused() -> None:
    done = console.run_here("check", "finetune-fixres", "--data", "digits")
    assert done.status == 78 and "--init" in done.stderr
