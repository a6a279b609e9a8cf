"""``saccade probe`` and ``saccade embed``: frozen features of runs and of weights of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import saccade
from console import run_here
from saccade.cli.probe import _table
from saccade.evaluation import neighbours, probe
from saccade.evaluation.features import Features
from saccade.models import create_model
from saccade.runs.probing import Comparison, Probed

FEW = ("--limit", "60")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "run"
    saccade.train("digits", epochs="3step", out=folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of others without a head."""
    state = create_model("resnet8", num_classes=3, image_size=32).state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    file = tmp_path_factory.mktemp("others") / "encoder.safetensors"
    file.write_bytes(safetensors.torch.save(kept))
    return file


def test_several_networks_are_compared_each_beside_itself_untrained(
    run: Path, encoder: Path
) -> None:
    command = ("probe", str(run), f"resnet8={encoder}", "--data", "digits", *FEW)
    done = run_here(*command, "--image-size", "32", "--json")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    names = [(row["weights"], row["untrained"]) for row in found["rows"]]
    assert (str(run), False) in names and (str(encoder), False) in names
    # one floor for each network and size
    assert sum(untrained for _, untrained in names) == 2
    assert all(set(row["knn"]) == {"10", "20", "100"} for row in found["rows"])
    assert found["judged"] == 360 and abs(found["learned"] - 60) < 15

    table = run_here(*command, "--image-size", "32").stdout
    for row in found["rows"]:
        line = next(line for line in table.splitlines() if line.startswith(row["weights"]))
        assert f"{row['probe']:.1%}" in line and f"{row['knn']['20']:.1%}" in line
    assert "best: " in table


def test_rows_of_one_name_are_told_apart_by_their_size() -> None:
    drawn = Probed("resnet8 untrained", "resnet8", 16, 64, {20: 0.5}, 0.5, 1.0, 0.5, untrained=True)
    rows = (replace(drawn, name="run", untrained=False), drawn, replace(drawn, image_size=32))
    lines = _table(Comparison(rows, learned=9, judged=9, judge="val")).splitlines()
    assert [line.split("  ")[0] for line in lines[3:6]] == [
        "run",
        "resnet8 untrained, 16 px",
        "resnet8 untrained, 32 px",
    ]


def test_all_of_a_few_images_right_is_no_certainty() -> None:
    drawn = Probed("one", "resnet8", 16, 64, {20: 1.0}, 1.0, 1.0, 0.5)
    rows = (drawn, replace(drawn, name="two", knn={20: 0.75}, probe=0.75))
    of_four, of_many = (Comparison(rows, learned=9, judged=n, judge="val") for n in (4, 4000))
    assert "not clearly worse: two" in _table(of_four) and "not clearly" not in _table(of_many)
    assert of_four.error(1.0) == of_four.error(0.0) > 0.1 and of_many.error(1.0) < 0.001


def test_weights_that_are_not_clearly_better_than_untrained_are_named() -> None:
    drawn = Probed("n untrained", "n", 16, 64, {20: 0.5}, 0.5, 1.0, 0.5, untrained=True)
    rows = (replace(drawn, name="run", untrained=False, probe=0.55), drawn)
    of_few, of_many = (Comparison(rows, learned=9, judged=n, judge="val") for n in (100, 4000))
    assert "not clearly better than untrained: run" in _table(of_few)
    assert "untrained:" not in _table(of_many)
    assert not Comparison(rows[:1], learned=9, judged=9, judge="val").like_untrained()


@pytest.mark.spec(44)
def test_the_figures_are_those_of_the_features_that_embed_writes(run: Path, tmp_path: Path) -> None:
    digits = saccade.open_source("digits")
    few = {name: split.at(np.arange(0, len(split), 7)) for name, split in digits.splits.items()}
    data = replace(digits, splits=few)
    found = saccade.probe(run, data, limit=0)
    for split in ("train", "test"):
        saccade.embed(run, data, out=tmp_path / split, split=split)

    def read(split: str) -> Features:
        arrays = [np.load(tmp_path / split / name) for name in ("features.npy", "labels.npy")]
        return Features(*map(torch.from_numpy, arrays))

    learned, judged = read("train"), read("test")
    row = found.rows[0]
    assert row.probe == probe.fit(learned, 10).top1(judged)
    assert row.knn[20] == neighbours.top1(learned, judged, k=20, num_classes=10)
    assert row.width == learned.vectors.shape[1]


@pytest.mark.spec(44)
def test_softmax_and_labels_give_the_figure_of_eval(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_here("embed", str(run), "--data", "digits", "--out", str(out), "--json")
    assert done.status == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["labels_are_columns"] is True
    softmax, labels = np.load(out / "softmax.npy"), np.load(out / "labels.npy")
    lines = (out / "names.csv").read_text().splitlines()
    assert len(softmax) == len(labels) == len(lines) - 1 == sum(facts["splits"].values())
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-5)

    names = [line.split(",") for line in lines[1:]]
    assert [int(name[0]) for name in names] == list(range(len(names)))
    assert all(
        facts["classes"][label] == name[3] for label, name in zip(labels, names, strict=True)
    )
    judged = [name[1] == "test" for name in names]
    top1 = float((softmax.argmax(1) == labels)[judged].mean())
    scored = json.loads(run_here("eval", str(run), "--json").stdout)
    assert top1 == scored["top1"]
    alone = json.loads(run_here("eval", str(out), "--json").stdout)
    assert (alone["split"], alone["top5"], alone["n"]) == ("test", scored["top5"], scored["n"])
    assert alone["loss"] == pytest.approx(scored["loss"], 1e-4)


def test_images_without_labels_get_features_and_no_labels(encoder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(5):
        Image.new("RGB", (40 + i, 40), (40 * i, 9, 9)).save(photos / f"{i}.png")
    out = tmp_path / "out"
    command = ("embed", str(encoder), "--model", "resnet8", "--image-size", "32")
    done = run_here(*command, "--data", str(photos), "--out", str(out))
    assert done.status == 0, done.stderr
    assert np.load(out / "features.npy").shape[0] == 5
    assert not (out / "labels.npy").exists() and not (out / "softmax.npy").exists()
    assert (out / "names.csv").read_text().splitlines()[1].endswith("0.png")


def test_features_of_other_weights_are_never_mixed_with_what_lies_there(
    encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "softmax.npy").write_bytes(b"of a network with a head")
    command = ("embed", str(encoder), "--model", "resnet8", "--image-size", "32")
    done = run_here(*command, "--data", "digits", "--split", "test", "--out", str(out))
    assert done.status == 2 and "already holds features: softmax.npy" in done.stderr
    assert [found.name for found in out.iterdir()] == ["softmax.npy"]


def test_a_class_without_images_to_judge_is_named(run: Path, tmp_path: Path) -> None:
    for split, name in (("train", "dark"), ("train", "light"), ("val", "dark")):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(4):
            level = 30 + i + 160 * (name == "light") + 7 * (split == "val")
            Image.new("L", (20, 20), level).save(tmp_path / split / name / f"{i}.png")
    done = run_here("probe", str(run), "--data", str(tmp_path))
    assert done.status == 0 and "'val' has no image of 1 class: light" in done.stderr


def test_what_has_no_trained_weights_is_refused(encoder: Path, tmp_path: Path) -> None:
    done = run_here("probe", "resnet8", "--data", "digits")
    assert done.status == 66, done.stderr
    assert "no trained model" in done.stderr
    # half of a network would stay random
    state = safetensors.torch.load(encoder.read_bytes())
    half = tmp_path / "half.safetensors"
    half.write_bytes(safetensors.torch.save(dict(list(state.items())[: len(state) // 2])))
    done = run_here("probe", str(half), "--model", "resnet8", "--data", "digits")
    assert done.status != 0 and "stay random" in done.stderr


def test_labels_that_no_probe_can_learn_are_refused(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "train" / name).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "train" / "one" / f"{i}.png")
    (tmp_path / "train" / "two").rmdir()
    done = run_here("probe", str(run), "--data", str(tmp_path))
    assert done.status == 65 and "only one class" in done.stderr
    assert run_here("probe", str(run)).status == 2


def test_without_a_validation_split_every_fifth_image_is_judged(run: Path, tmp_path: Path) -> None:
    for name, level in (("dark", 30), ("light", 200)):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (20, 20), level + i).save(tmp_path / name / f"{i}.png")
    done = run_here("probe", str(run), "--data", str(tmp_path), "--json")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["learned"], found["judged"]) == (16, 4)
