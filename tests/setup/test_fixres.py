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


@pytest.mark.spec(45)
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


@pytest.mark.spec(45)
def test_nothing_but_the_head_and_the_last_norm_is_changed(source: Path, fixed: Path) -> None:
    before, after = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (source, fixed)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    places = {name.rpartition(".")[0] for name in changed}
    assert places == {"fc", "layer3.0.bn2"}, places
    assert {"layer3.0.bn2.running_mean", "fc.weight"} <= changed


NETWORKS = {
    # what is trained of each; tables are resized
    "vit_ti_16": ("norm", "fc", {"image_size": 16, "model__patch_size": 4}),
    "swin_t": ("norm", "fc", {"image_size": 64, "batch_size": 16}),
    "timm:resnet10t": ("layer4.0.bn2", "fc", {"image_size": 32}),
    "timm:vit_tiny_patch16_224": ("norm", "head", {"image_size": 32}),
}
TABLES = ("position", "pos_embed", "relative_position_bias_table")


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_are_judged_as_they_came_and_trained_at_their_end(
    tmp_path: Path, name: str
) -> None:
    norm, head, shape = NETWORKS[name]
    own: dict[str, Any] = {"augment__sizes": [1.0], "data__eval_views": 1, "quiet": True}
    first, fixed = tmp_path / "first", tmp_path / "fixed"
    saccade.train("photos-few", data="digits", model=name, epochs="1step", out=first, **own | shape)
    side = int(1.5 * shape["image_size"])
    saccade.train(
        "finetune-fixres", data="digits", init=first, image_size=side,
        epochs="2step", quiet=True, out=fixed,
    )  # fmt: skip
    told = files.read_json(fixed / "run.json")["sizes"]
    result = files.read_json(first / "run.json")["result"]
    at_own = next(e for e in told if (e["when"], e["side"]) == ("before", shape["image_size"]))
    # tables resized to the new size and back would be others, and so would the loss
    assert {key: at_own[key] for key in ("loss", "top1", "n")} == {
        key: result[key] for key in ("loss", "top1", "n")
    }
    before, after = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (first, fixed)
    )
    changed = {n for n in before if n in after and not torch.equal(before[n], after[n])}
    places = {n.rpartition(".")[0] for n in changed if n.rpartition(".")[2] not in TABLES}
    assert places == {norm, head}, places


@pytest.mark.full
def test_two_ranks_do_as_one(source: Path, tmp_path: Path) -> None:
    digests = set()
    for devices in ("cpu", "cpu:2"):
        out = tmp_path / devices.replace(":", "")
        done = console.run_process(
            "train", "finetune-fixres", "--data", "digits", "--init", str(source),
            "--image-size", "24", "--epochs", "6step", "--set", "batch.cell=32",
            "--devices", devices, "--out", str(out), cwd=tmp_path,
        )  # fmt: skip
        assert done.status == 0, done.stderr
        facts = files.read_json(out / "run.json")
        digests.add((facts["digest"], str(facts["sizes"])))
    assert len(digests) == 1


def test_without_weights_it_is_refused() -> None:
    done = console.run_here("check", "finetune-fixres", "--data", "digits")
    assert done.status == 78 and "--init" in done.stderr
