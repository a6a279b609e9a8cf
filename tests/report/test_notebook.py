"""A run as a notebook: what is in it, and that what its reader changed is never overwritten."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from torch import Tensor

import console
import saccade
from saccade import api
from saccade.report import notebook
from saccade.report.record import Answers, Record

CLASSES = ["ant", "bee"]
COURSE = "epoch,step,split,views,train_loss,val_loss,top1,lr\n1.0,5,val,1,0.7,0.6,0.5,0.1\n"


def record(folder: Path, classes: list[str] = CLASSES, **facts: Any) -> Record:
    """Return a finished run of 12 validation images, half of which are answered wrongly."""
    (folder / "metrics.csv").write_text(COURSE)
    pixels = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), np.uint8)
    names = [classes[i % 2] for i in range(12)]
    split = saccade.open_source({"train": (pixels, names), "val": (pixels, names)}).splits["val"]
    logits = torch.tensor([[2.0, 0.0]]).repeat(12, 1)
    answers = Answers(logits, torch.from_numpy(split.labels.copy()))
    known = {"dataset": {"classes": classes}, "model": {"name": "lenet5"}, **facts}
    return Record(folder, split, known, answers=answers)


def code(of: Record) -> str:
    """Return all code of a notebook, which must be Python."""
    made = list(notebook.cells(of, Path.cwd()))
    text = "\n".join(text for kind, text in made if kind == "code")
    ast.parse(text)
    return text


def words(of: Record) -> str:
    return "\n".join(text for kind, text in notebook.cells(of, of.folder) if kind == "markdown")


def test_a_notebook_is_one_as_jupyter_reads_them_and_has_no_outputs(tmp_path: Path) -> None:
    made = notebook.notebook(notebook.cells(record(tmp_path), tmp_path))
    nbformat.validate(nbformat.from_dict(made))
    assert not any(cell.get("outputs") for cell in made["cells"])
    assert made == notebook.notebook(notebook.cells(record(tmp_path), tmp_path))


@pytest.mark.spec(37)
def test_it_loads_the_run_draws_its_curves_and_shows_answers_and_mistakes(tmp_path: Path) -> None:
    text = code(record(tmp_path))
    assert "saccade.load(RUN)" in text and "saccade.validation_images(RUN)" in text
    for panel in ('"Loss": ["train_loss", "val_loss"],', '"Accuracy": ["top1"],'):
        assert panel in text
    assert "top=5" in text and "argsort(descending=True)" in text
    assert "class_name" not in text


def test_classes_of_imagenet_have_their_english_names(tmp_path: Path) -> None:
    text = code(record(tmp_path, ["n01440764", "n01443537"]))
    assert "class_name(name) for name in facts" in text and "{class_name(name)} {share" in text


def test_a_network_of_ones_own_is_not_loaded(tmp_path: Path) -> None:
    own = record(tmp_path, model={"name": "custom:Mine"})
    assert "saccade.load(" not in code(own) and "softmax(1).topk" in code(own)
    assert "module=YourNetwork()" in words(own)


def test_images_with_several_labels_are_judged_label_by_label(tmp_path: Path) -> None:
    several = record(tmp_path)
    several.facts["objective"] = "multi-label"
    held: Tensor = torch.nn.functional.one_hot(several.answers.labels, 2)  # type: ignore[union-attr]
    several.answers = replace(several.answers, labels=held)  # type: ignore[type-var]
    text = code(several)
    assert "sigmoid()" in text and "softmax" not in text


@pytest.mark.parametrize("lacks", ["split", "answers"])
def test_without_images_or_answers_there_are_curves_and_a_sentence(
    tmp_path: Path, lacks: str
) -> None:
    cut = record(tmp_path)
    setattr(cut, lacks, None)
    assert "panels" in code(cut) and "saccade.load" not in code(cut)
    assert "There are no pictures here" in words(cut)


def test_names_of_folders_with_quotes_and_braces_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s {a} "run"'
    folder.mkdir()
    (line,) = [line for line in code(record(folder)).split("\n") if line.startswith("RUN = ")]
    assert eval(line.removeprefix("RUN = "), {"Path": Path}) == folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("notebook")
    done = console.run_here(
        "train", "digits", "lenet5", "--epochs", "20step", "--out", "run", cwd=place
    )
    assert done.status == 0, done.stderr
    return place / "run"


def test_what_a_reader_changed_is_kept_and_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    file = run / "notebook.ipynb"
    for _ in range(2):  # the same again is no change
        assert api.write_notebook(Path("run")) == (Path("run/notebook.ipynb"), True)
    assert "saccade.load(RUN)" in file.read_text()

    file.write_text("mine")
    done = console.run_here("report", "run", "--notebook", "--json")
    assert done.status == 0 and "is kept; rename it to get a new one" in done.stderr
    assert json.loads(done.stdout)["notebook"] == "run/notebook.ipynb"
    assert file.read_text() == "mine"
    file.rename(run / "mine.ipynb")
    assert api.write_notebook(Path("run"))[1] and file.read_text() != "mine"


def test_the_images_that_were_validated_on_are_in_the_order_of_the_answers(run: Path) -> None:
    from safetensors.torch import load_file

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        images = saccade.validation_images("run")
    labels = load_file(run / "predictions.safetensors")["labels"]
    assert images.labels.tolist() == labels.tolist() and len(images) == 360


@pytest.mark.parametrize("more", [["run"], ["--table", "md"]], ids=["two runs", "a table"])
def test_a_notebook_is_about_one_run(run: Path, more: list[str]) -> None:
    done = console.run_here("report", "run", "--notebook", *more, cwd=run.parent)
    assert done.status == 2 and "a notebook is about one run" in done.stderr
