"""An export that is killed anywhere leaves the old files or whole new ones; the same command ends
it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy

from saccade import files
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]

FILES = ("README.md", "classify.py", "model.onnx", "export.json")
RECIPE = Recipe("lenet5", (), 32, 1.0, (0.5,) * 3, (0.2,) * 3, "ignore")


def weights(images: Path, place: Path, seed: int) -> Path:
    """Write a classifier of the classes of some images, with drawn weights."""
    classes = tuple(sorted(path.name for path in (images / "val").iterdir()))
    torch.manual_seed(seed)
    network = create_model("lenet5", num_classes=len(classes), image_size=32, seed=seed)
    path = place / f"{seed}.safetensors"
    path.write_bytes(Classifier(network, replace(RECIPE, classes=classes)).to_bytes())
    return path


def start(model: Path, images: Path, out: Path, *faults: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(toy.VICTIM), *faults, "--", "export", str(model)]
    return subprocess.Popen(
        [*command, "--data", str(images), "--out", str(out)], stdout=subprocess.DEVNULL
    )


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def is_vouched_for(out: Path) -> bool:
    fact = files.read_json(out / "export.json")["files"]["onnx"]
    return fact["sha256"] == {"model.onnx": files.digest(out / "model.onnx")}


@pytest.fixture(scope="module")
def exports(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Two sets of weights, and the folder that the first one was exported to."""
    place = tmp_path_factory.mktemp("exports")
    models = [weights(images, place, seed) for seed in (1, 2)]
    assert start(models[0], images, place / "out").wait(120) == 0
    return models, place / "out"


def test_killed_in_its_proof_the_old_files_stand_and_the_next_one_sweeps(
    exports: tuple[list[Path], Path], images: Path
) -> None:
    models, out = exports
    before = contents(out)
    process = start(models[1], images, out)
    deadline = time.monotonic() + 120
    while not list(out.glob(".saccade.part-*/model.onnx")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()

    assert process.wait(30) == -signal.SIGKILL
    assert contents(out) == before and is_vouched_for(out)
    assert start(models[0], images, out).wait(120) == 0
    assert is_vouched_for(out)
    assert not [path for path in out.iterdir() if ".part" in path.name]


@pytest.mark.parametrize("stage", ["moved README.md", "moved classify.py", "moved model.onnx"])
def test_killed_between_two_names_each_file_is_whole_and_the_same_command_ends_it(
    stage: str, exports: tuple[list[Path], Path], images: Path
) -> None:
    models, out = exports
    assert start(models[0], images, out).wait(120) == 0
    old = contents(out)
    assert start(models[1], images, out, "--stage", stage).wait(120) == -signal.SIGKILL
    torn = contents(out)
    assert torn["export.json"] == old["export.json"], "the receipt is the last"
    assert is_vouched_for(out) == (torn["model.onnx"] == old["model.onnx"])

    assert start(models[1], images, out).wait(120) == 0
    assert is_vouched_for(out)
    new = contents(out)
    for name in ("classify.py", "model.onnx"):
        assert torn[name] in (old[name], new[name])
    assert new["model.onnx"] != old["model.onnx"]
