"""What leaves is used elsewhere: in transformers; from your own network; with several labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toy_classifiers import CLASSES, SIDE, classifier, export, images

import saccade
from saccade.errors import ExportError
from saccade.evaluation.classifier import Classifier

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.full

PIPELINE = """
import json, sys
sys.modules["saccade"] = None
from transformers import AutoModelForImageClassification, pipeline
found = pipeline("image-classification", model=sys.argv[1])(sys.argv[2])
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
print(json.dumps([{one["label"]: one["score"] for one in found}, model.config.id2label]))
"""


@pytest.mark.parametrize(("name", "side"), [("resnet18", 64), ("vit_ti_16", 224)])
def test_transformers_classifies_with_the_folder_for_timm_without_the_internet(
    name: str, side: int, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    strides = (2,) * 5 if name == "resnet18" else ()
    one = classifier(name, side, strides=strides)
    export(one, tmp_path, formats="timm")
    photo = tmp_path / "photo.png"
    Image.fromarray(images(side=side)[5]).resize((side * 2, side + 9)).save(photo)
    (ours,) = saccade.predict(one, photo)

    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PIPELINE, str(tmp_path / "timm"), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr[-2000:]
    shares, names = json.loads(done.stdout.splitlines()[-1])
    assert list(names.values()) == list(CLASSES)
    assert max(shares, key=lambda label: shares[label]) == ours.label
    assert shares == pytest.approx(dict(ours.top), abs=0.01)


class Own(nn.Module):
    """A network of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_network_of_your_own_leaves_in_what_needs_none_of_its_code(tmp_path: Path) -> None:
    run = saccade.train(data="digits", model=Own(), epochs="2step", out=tmp_path / "run")
    receipt = saccade.export(run.folder, module=Own(), formats="onnx,pt2,pt", int8=True, max_drop=9)
    assert set(receipt["files"]) == {"onnx", "pt2", "pt", "int8"}
    assert Path(receipt["folder"]) == Path(run.folder) / "export"
    assert receipt["run_result"]["n"] == receipt["files"]["onnx"]["images"] == 360

    # the class lives in this test alone: no other process can import it
    with pytest.raises(ExportError, match="cannot be used: ModuleNotFoundError"):
        saccade.export(run.folder, module=Own(), formats="pickle")
    with pytest.raises(ExportError, match="your own"):
        saccade.export(run.folder, module=Own(), formats="timm")


def test_several_labels_leave_with_a_chance_for_each(tmp_path: Path) -> None:
    drawn = classifier("lenet5")
    one = Classifier(drawn.network, replace(drawn.recipe, objective="multi-label"))
    x, marks = images(), np.random.default_rng(4).random((24, len(CLASSES))) < 0.5
    names = [[name for name, on in zip(CLASSES, row, strict=True) if on] for row in marks]
    data = {"train": (images(seed=2), names), "val": (x, names)}
    out = tmp_path / "out"
    receipt = saccade.export(one, out=out, data=data, split="val", int8=True, max_drop=50)
    assert receipt["files"]["onnx"]["classifier"]["map"] > 0
    assert receipt["files"]["int8"]["drop_interval_95"] is None

    Image.fromarray(x[3]).resize((75, 50)).save(tmp_path / "one.png")
    command = [sys.executable, "-I", str(out / "classify.py"), "one.png"]
    for more in ([], [str(out / "model-int8.onnx")]):
        said = subprocess.run(
            command + more, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        shares = {name: share for share, name in map(str.split, said.stdout.splitlines())}
        square = one.recipe.framing.square(np.array(Image.open(tmp_path / "one.png")), SIDE)
        with torch.inference_mode():
            chances = one.network(one.recipe.normalised(square[None])).sigmoid()[0].tolist()
        for name, chance in zip(CLASSES, chances, strict=True):
            assert float(shares[name].strip("%")) / 100 == pytest.approx(chance, abs=0.03)
