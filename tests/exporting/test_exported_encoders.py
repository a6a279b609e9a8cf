"""An encoder of pretraining leaves as files that return the features of ``saccade embed``."""

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
import yaml
from PIL import Image
from toy_classifiers import Array, classifier, export, images, with_one_weight_changed

import saccade
from console import run_here
from saccade.data.images import decode
from saccade.errors import CheckpointError, ExportError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import formats, whole
from saccade.models.parts.learner import headless

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

COUNT = 40
QUICK = {"image_size": 32, "epochs": "2step", "batch_size": 16, "quiet": True}
SETTINGS = [
    *("pretrain.evaluations=1", "pretrain.projector=[16,8]", "pretrain.decoder_depth=1"),
    "data.eval_size=32",
]
RUNS = {"simclr": ("resnet8", ""), "mae": ("vit_ti_16", "digits")}
"""The network and the images of a run of each method."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of images without labels."""
    folder = tmp_path_factory.mktemp("flat")
    for place, pixels in enumerate(images(COUNT, 48)):
        Image.fromarray(pixels[:, : 32 + place % 9]).save(folder / f"{place:02}.png")
    return folder


@pytest.fixture(scope="module", params=["simclr", pytest.param("mae", marks=pytest.mark.full)])
def run(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: Any) -> Path:
    """A run of a CNN on images without labels, and one of a ViT on labelled ones."""
    folder: Path = tmp_path_factory.mktemp(request.param) / "run"
    network, data = RUNS[request.param]
    recipe = [request.param, network]
    saccade.pretrain(recipe, data=data or str(photos), out=folder, set=SETTINGS, **QUICK)
    return folder


def features_of(run: Path, data: str, out: Path, **more: Any) -> Array:
    """Return what `saccade embed` writes, float32 (n, d)."""
    saccade.embed(run, data, out=out, precision="fp32", **more)
    found: Array = np.load(out / "features.npy")
    return found


def encoder(name: str = "lenet5", side: int = 32, **recipe: Any) -> Classifier:
    """Return an encoder whose every number is drawn."""
    one = classifier(name, side, **recipe)
    about = replace(one.recipe, classes=("features",), objective="simclr")
    return Classifier(headless(one.network)[0], about)


@pytest.mark.spec(33)
def test_the_file_returns_the_features_that_embed_writes(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    done = run_here("export", str(run), "--data", str(photos), "--json", "--out", str(tmp_path))
    assert done.status == 0, done.stderr
    receipt = json.loads(done.stdout)
    own = features_of(run, str(photos), tmp_path / "own")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [one.name for one in session.get_outputs()] == ["features"]

    recipe = saccade.load(run).recipe
    files, side = sorted(photos.iterdir()), recipe.eval_side
    squares = [recipe.framing.square(decode.decode(f.read_bytes()), side) for f in files]
    pixels = torch.stack(squares).permute(0, 2, 3, 1).numpy()
    for count in (1, 3, COUNT):
        (theirs,) = session.run(None, {"images": pixels[:count]})
        assert theirs.shape == (count, receipt["width"]) and theirs.dtype == np.float32
        assert np.abs(theirs - own[:count]).max() < 1e-4 * own.std()

    # a program that knows neither torch nor this package
    command = [sys.executable, "-I", str(tmp_path / "embed.py"), str(tmp_path / "some.npy")]
    said = subprocess.run([*command, *map(str, files[:3])], capture_output=True, text=True)
    assert said.stdout.strip() == f"(3, {receipt['width']})", said.stderr
    assert np.abs(np.load(tmp_path / "some.npy") - own[:3]).mean() < 0.02 * own.std()


def test_without_data_the_images_held_out_by_the_run_are_the_proof(run: Path) -> None:
    shown = run_here("export", str(run), "--format", "pt")
    assert shown.status == 0, shown.stderr
    receipt = json.loads((run / "export" / "export.json").read_text())
    fact, facts = receipt["files"]["pt"], json.loads((run / "run.json").read_text())
    assert fact["images"] == facts["dataset"]["val"] and fact["split"] in shown.stdout
    assert "features differ by at most" in shown.stdout
    card = (run / "export" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "image-feature-extraction"
    assert f"loss {facts['result']['loss']:.4f}" in card
    for text in (shown.stdout, json.dumps(receipt), card):
        assert "top1" not in text and "top-1" not in text and "logits" not in text


@pytest.mark.parametrize("given", ["uint8", pytest.param("image", marks=pytest.mark.full)])
def test_a_file_with_one_weight_changed_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = formats.FORMATS["onnx"]

    def poisoned(material: Any) -> Any:
        contents, more = usual.make(material)
        return {"model.onnx": with_one_weight_changed(contents["model.onnx"])}, more

    one = encoder()
    monkeypatch.setitem(formats.FORMATS, "onnx", replace(usual, make=poisoned))
    with pytest.raises(ExportError, match="differs from the encoder: features of 24 images"):
        export(one, tmp_path, given=given)
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.full
def test_a_file_that_crops_one_pixel_beside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(encoder(), tmp_path / "well", given="image")["width"] == 84
    half = whole._half
    monkeypatch.setattr(whole, "_half", lambda number: half(number) + 1)
    with pytest.raises(ExportError, match="differ in the mean"):
        export(encoder(), tmp_path, given="image")


@pytest.mark.full
def test_timm_loads_the_folder_as_a_network_without_classes(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    one = encoder("resnet18", 64, strides=(2,) * 5)
    export(one, tmp_path, formats="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert theirs.num_classes == 0 and theirs.num_features == 512
    x = one.recipe.normalised(torch.from_numpy(images(4, 64)).permute(0, 3, 1, 2))
    with torch.inference_mode():
        assert torch.allclose(theirs(x), one.network(x), atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "word"), [({"int8": True}, "no 8-bit file"), ({"views": 2}, "a single view")]
)
def test_what_needs_classes_is_refused(asked: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        export(encoder(), tmp_path, **asked)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_pretraining_is_refused_by_name(run: Path, photos: Path) -> None:
    newest = max((run / "checkpoints").glob("step_*"))
    with pytest.raises(CheckpointError, match="the encoder and what trains it") as refused:
        saccade.export(newest, data=str(photos))
    assert "name the run folder, without --best" in refused.value.fix
