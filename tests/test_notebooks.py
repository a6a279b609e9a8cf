"""The notebooks of the documentation, and those that are written for runs, really run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import console
import saccade
from saccade.report import notebook as writer
from saccade.report.record import Record

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=sys.argv[2])
nbformat.write(notebook, sys.argv[3])
"""


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def executed(notebook: Path, folder: Path) -> list[dict[str, Any]]:
    """Run a notebook, with an empty folder to work in, in processes of its own; return its cells
    of code. An error in a cell fails the test.
    """
    done = folder / "done.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(notebook), str(folder), str(done)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return cells_of(done)


def pictures(cells: list[dict[str, Any]]) -> int:
    """Return how many pictures are among the outputs."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def texts(cells: list[dict[str, Any]]) -> str:
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_documentation_is_kept_without_its_outputs(notebook: Path) -> None:
    assert len(NOTEBOOKS) == 3 and notebook.stat().st_size < 10_000
    for cell in cells_of(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        longest = max(map(len, "".join(cell["source"]).split("\n")))
        assert longest <= 100, "".join(cell["source"])


@pytest.mark.full
@pytest.mark.spec(37)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_documentation_runs_from_top_to_bottom(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("onnxscript")
    cells = executed(notebook, tmp_path)
    said = texts(cells)
    expected = {
        "train-your-photographs": ("'all': 479 images of 10 classes", "that it never trained on"),
        "look-into-a-run": ("of 360 images are answered wrongly",),
        "export-and-use": ("model.onnx: ", "model.pt2: ", "true: 0"),
    }
    assert all(words in said for words in expected[notebook.stem]), said
    assert pictures(cells) == (3 if notebook.stem == "look-into-a-run" else 0)

    if notebook.stem == "look-into-a-run":
        monkeypatch.chdir(tmp_path)
        run = Record.read(Path("runs/digits"), saccade.validation_images("runs/digits"))
        written = [text for _, text in writer.cells(run, tmp_path)][2:]
        shown = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert ["".join(cell["source"]) for cell in shown][-len(written) :] == written


# ------------------------------------------------------------------------- of any run


class Mine(nn.Module):
    """A reader's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


def photographs(place: Path, classes: tuple[str, str]) -> None:
    draw = np.random.default_rng(1)
    for number in range(48):
        # the first one is filed wrongly, so that every network makes a mistake
        kind = classes[number % 2 if number else 1]
        folder = place / ("train" if number % 3 else "val") / kind
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 128, (20, 16, 3), np.uint8) + np.uint8(number % 2 * 127)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def of_classes(classes: tuple[str, str], **more: Any) -> Path:
    photographs(Path("photos"), classes)
    return saccade.train(
        **{"model": "lenet5", **more}, data="photos", image_size=28, epochs=2, out="runs/one"
    ).folder


def of_several_labels() -> Path:
    photographs(Path("photos"), ("dark", "bright"))
    files = sorted(Path("photos").rglob("*.png"))
    rows = [(str(f.relative_to("photos")), f"{f.parent.name}|small", f.parts[1]) for f in files]
    with open("labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return saccade.train(
        model="lenet5", data="photos", labels="labels.csv", image_size=28, epochs=2, out="runs/one"
    ).folder


def of_pretraining() -> Path:
    photographs(Path("photos"), ("dark", "bright"))
    settings = ["pretrain.projector=[32, 16]", "pretrain.bank=16"]
    return saccade.pretrain(
        "simclr", model="resnet8", data="photos", epochs=2, image_size=32, set=settings, out="one"
    ).folder


RUNS: dict[str, tuple[Callable[[], Path], int]] = {
    "classes": (lambda: of_classes(("cat", "dog")), 3),
    "wnids": (lambda: of_classes(("n01440764", "n01443537")), 3),
    "own network": (lambda: of_classes(("cat", "dog"), model=Mine()), 3),
    "timm": (lambda: of_classes(("cat", "dog"), model="timm:resnet10t"), 3),
    "several labels": (of_several_labels, 3),
    "pretraining": (of_pretraining, 1),
}


@pytest.mark.full
@pytest.mark.spec(37)
@pytest.mark.parametrize("kind", RUNS)
def test_the_notebook_of_a_run_runs_from_top_to_bottom(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbclient")
    monkeypatch.chdir(tmp_path)
    train, expected = RUNS[kind]
    run = train()
    done = console.run_here("report", str(run), "--notebook")
    assert done.status == 0, done.stderr

    # it finds the images whatever folder Jupyter was started in
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cells = executed(run / "notebook.ipynb", elsewhere)
    assert pictures(cells) == expected
    if kind == "wnids":
        assert " of 16 images are answered wrongly" in texts(cells)


@pytest.mark.full
def test_control_a_notebook_that_breaks_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": ["1 / 0"]}
    broken = {"cells": [{**cell, "execution_count": None}], "metadata": {}, "nbformat": 4}
    (tmp_path / "a.ipynb").write_text(json.dumps({**broken, "nbformat_minor": 5}))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        executed(tmp_path / "a.ipynb", tmp_path)
