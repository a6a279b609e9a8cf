"""A trained classifier leaves as files that other programs load, and that answer as it does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_classifiers import CLASSES, Array, classifier, export, images

from saccade import files
from saccade.errors import ExportError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits
from saccade.exporting import timm_folder
from saccade.models import create_model
from saccade.models.weights.loading import foreign_state

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

USUAL = (2, 2, 2, 2, 2)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path, dict[str, Any]]:
    """A classifier of two views, and what was exported of it."""
    one, out = classifier(eval_views=2), tmp_path_factory.mktemp("export")
    return one, out, export(one, out, formats="onnx,pt2,pt,pickle")


def own_logits(one: Classifier, x: Array) -> Array:
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits: Tensor = mean_logits(
            one.network, one.recipe.normalised(pixels), one.recipe.eval_views
        )
    return np.asarray(logits)


@pytest.mark.parametrize("count", [1, 3, 24])
@pytest.mark.spec(33)
def test_onnx_answers_pixels_in_batches_of_any_size_as_the_classifier_does(
    left: Any, count: int
) -> None:
    one, out, _ = left
    x = images()[:count]
    theirs = session(out / "model.onnx").run(None, {"images": x})[0]
    ours = own_logits(one, x)
    assert theirs.shape == (count, len(CLASSES))
    assert np.abs(theirs - ours).max() < 1e-4 * own_logits(one, images()).std()


@pytest.mark.spec(33)
def test_the_file_says_its_classes_and_needs_standard_operators_alone(left: Any) -> None:
    import onnx

    _, out, receipt = left
    model = onnx.load(out / "model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    about = json.loads({p.key: p.value for p in model.metadata_props}["saccade"])
    assert about["classes"] == list(CLASSES) and about["views"] == 2
    assert receipt["files"]["onnx"]["opset"] == model.opset_import[0].version


def test_norms_are_parts_of_the_weights_however_many_views_there_are(left: Any) -> None:
    import onnx

    one, out, _ = left
    kinds = [node.op_type for node in onnx.load(out / "model.onnx").graph.node]
    convolutions = sum(isinstance(part, nn.Conv2d) for part in one.network.modules())
    # two calls of the network would share their weights: no norm could fold into them
    assert kinds.count("Conv") == convolutions and "BatchNormalization" not in kinds


def test_the_receipt_has_both_figures_and_vouches_for_the_bytes(left: Any) -> None:
    _, out, receipt = left
    assert json.loads((out / "export.json").read_text())["files"] == receipt["files"]
    for fact in receipt["files"].values():
        assert fact["classifier"]["correct"] == fact["exported"]["correct"]
        assert fact["images"] == fact["of_images"] == 24
        (digest,) = fact["sha256"].values()
        assert files.digest(out / fact["file"]) == digest


@pytest.mark.spec(8)
def test_channels_are_in_the_order_of_the_network(tmp_path: Path) -> None:
    one = classifier("lenet5", channels="bgr")
    export(one, tmp_path)
    x = images()
    theirs = session(tmp_path / "model.onnx").run(None, {"images": x})[0]
    np.testing.assert_allclose(theirs, own_logits(one, x), atol=1e-4)


@pytest.mark.spec(33, "A15")
def test_pt2_needs_torch_alone(left: Any) -> None:
    one, out, _ = left
    code = (
        "import sys, torch; sys.modules['saccade'] = None\n"
        "more = {'saccade.json': ''}\n"
        f"module = torch.export.load({str(out / 'model.pt2')!r}, extra_files=more).module()\n"
        "print(more['saccade.json'][:12], module(torch.zeros(5, 32, 32, 3).byte()).tolist()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"classes": ')
    theirs = json.loads(done.stdout[done.stdout.index("[", 13) :])
    np.testing.assert_allclose(theirs, own_logits(one, np.zeros((1, 32, 32, 3), np.uint8))[0], 1e-4)


@pytest.mark.spec(33)
def test_weights_alone_have_the_names_of_torchvision(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    one = classifier("resnet18", 64, strides=USUAL)
    export(one, tmp_path, formats="pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    theirs = models.resnet18(num_classes=len(CLASSES)).eval()
    theirs.load_state_dict(state)
    x = one.recipe.normalised(torch.from_numpy(images(4, 64)).permute(0, 3, 1, 2))
    with torch.inference_mode():
        apart = theirs(x) - one.network(x)
        assert float(apart.abs().max()) < 1e-4 * float(one.network(x).std())


def test_timm_loads_the_folder_and_knows_the_classes(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    one = classifier("resnet18", 64, strides=USUAL)
    receipt = export(one, tmp_path, formats="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert receipt["files"]["timm"]["timm_name"] == "resnet18"
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    config = timm.data.resolve_data_config({}, model=theirs)
    assert tuple(config["mean"]) == one.recipe.mean and config["crop_pct"] == 0.875


def test_a_classifier_of_two_views_leaves_for_timm_as_that_of_one(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    one = classifier("resnet18", 64, strides=USUAL, eval_views=2)
    with pytest.raises(ExportError, match="mean of 2 views") as refused:
        export(one, tmp_path, formats="timm")
    assert "--views 1" in refused.value.fix
    receipt = export(one, tmp_path, formats="timm", views=1)
    assert receipt["views"] == 1

    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    x = one.recipe.normalised(torch.from_numpy(images(4, 64)).permute(0, 3, 1, 2))
    with torch.inference_mode():
        assert torch.allclose(theirs(x), one.network(x), atol=1e-4)
    with pytest.raises(UsageError, match="3 views are not possible"):
        export(one, tmp_path, views=3)


@pytest.mark.parametrize("side", [64, 75, 97, 224])
@pytest.mark.parametrize("crop", [0.875, 0.9, 0.95, 1.0])
def test_timm_resizes_to_the_short_side_that_was_evaluated(side: int, crop: float) -> None:
    data = pytest.importorskip("timm.data")
    recipe = replace(classifier("resnet18", 64).recipe, image_size=side, eval_crop=crop)
    config = data.resolve_data_config(timm_folder.says(recipe))
    resize = data.create_transform(**config).transforms[0]
    assert resize.size == recipe.framing.short_side(side)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"eval_views": 2}, "mean of 2 views"),
        ({"channels": "bgr"}, "blue first"),
        ({}, "no network that equals resnet8"),
    ],
)
def test_what_timm_cannot_say_is_refused(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=word):
        export(classifier(**change), tmp_path, formats="timm")
    assert not (tmp_path / "timm").exists()


def test_a_vit_of_another_size_keeps_its_own_table_of_positions() -> None:
    one = create_model("vit_ti_16", num_classes=4, image_size=64, patch_size=16)
    state = foreign_state(one, "timm", like={"pos_embed": torch.zeros(1, 197, 192)})
    assert state["pos_embed"].shape == (1, 17, 192)
