"""Multi-label classification: figures as scikit-learn's, targets by hand, and a run as a whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as judge

import console
import saccade
from saccade import objectives
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.augment.mix import draw_mix
from saccade.data.sources import open_source
from saccade.data.sources.label_sets import labels_in
from saccade.errors import ConfigError, DataError, PreemptedError
from saccade.evaluation.classifier import Classifier
from saccade.log import Log
from saccade.objectives import per_label
from saccade.objectives.multi_label import MultiLabel
from saccade.objectives.objective import Cell
from saccade.report.comparison import compare_runs
from saccade.runs import run_folder

LABELS = ("blue", "green", "red")
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def settings(*sets: str) -> Config:
    layers = Layers()
    for one in sets:
        layers.set(one)
    return layers.resolve()


# figures


@settings_of_hypothesis(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_figures_are_those_of_scikit_learn_with_ties_and_empty_labels(
    seed: int, n: int, tied: bool
) -> None:
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(n, 5))
    logits = np.round(logits) if tied else logits
    truth = draws.random((n, 5)) < draws.random(5)
    truth[0, 0] = True  # one label at least can be judged
    found = per_label.figures(torch.from_numpy(logits).float(), torch.from_numpy(truth))

    scores = torch.from_numpy(logits).float().numpy()
    judged = truth.any(0)
    said = scores >= 0
    expected = {
        "map": judge.average_precision_score(truth[:, judged], scores[:, judged], average="macro"),
        "f1_macro": judge.f1_score(
            truth[:, judged], said[:, judged], average="macro", zero_division=0
        ),
        "f1_micro": judge.f1_score(truth, said, average="micro", zero_division=0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    plain = F.binary_cross_entropy_with_logits(
        torch.from_numpy(scores).double(), torch.from_numpy(truth).double()
    )
    assert found["loss"] == pytest.approx(float(plain), abs=1e-5)
    assert (found["judged"], found["n"]) == (int(judged.sum()), n)


def test_the_best_threshold_is_the_best_of_all_that_can_be_tried() -> None:
    draws = np.random.default_rng(3)
    scores, marks = draws.normal(size=60), draws.random(60) < 0.3
    best = per_label.best_threshold(scores, marks)
    tried = [judge.f1_score(marks, scores >= one) for one in np.unique(scores)]
    assert best.f1 == pytest.approx(max(tried))
    logit = np.log(best.threshold / (1 - best.threshold))
    assert judge.f1_score(marks, scores >= logit - 1e-9) == pytest.approx(best.f1)


def test_nothing_to_judge_is_an_error_and_no_figure() -> None:
    with pytest.raises(DataError, match="no label"):
        per_label.figures(torch.zeros(3, 2), torch.zeros(3, 2))


# targets


def cell_of(labels: list[int]) -> Cell:
    pixels = torch.zeros((len(labels), 3, 8, 8), dtype=torch.uint8)
    places = np.arange(len(labels))
    return Cell(pixels, torch.tensor(labels), places * 0, places, step=3, number=1)


@pytest.mark.parametrize("kind", ["augment.mixup=0.4", "augment.cutmix=1"])
def test_a_mixed_image_has_the_labels_of_both_by_their_weights(kind: str) -> None:
    config = settings(kind, "loss.label_smoothing=0.1")
    table = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    objective = MultiLabel(LABELS, config, table)
    _, targets = objective.prepare(cell_of([0, 1, 2, 1]))

    mix = draw_mix(config.augment, config.seed, 3, 1)
    own = [[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1]]
    lam = mix.lam if hasattr(mix, "lam") else None
    if mix.box is not None:
        left, top, width, height = mix.box
        side = round((left + width) * 8) - round(left * 8)
        tall = round((top + height) * 8) - round(top * 8)
        lam = 1 - side * tall / 64
    assert lam is not None and 0 < lam < 1
    for i, row in enumerate(own):
        for c, mark in enumerate(row):
            mixed = lam * mark + (1 - lam) * own[3 - i][c]
            assert float(targets[i, c]) == pytest.approx(0.9 * mixed + 0.05)


def test_the_loss_is_the_mean_over_images_and_labels() -> None:
    objective = MultiLabel(LABELS, settings("loss.label_smoothing=0"), torch.eye(3))
    _, targets = objective.prepare(cell_of([2, 0]))
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    expected = F.binary_cross_entropy_with_logits(logits.double(), torch.eye(3)[[2, 0]].double())
    assert float(objective.loss(logits, targets)) == pytest.approx(float(expected))
    assert float(objective.total(logits, targets)) == pytest.approx(2 * float(expected))


# a run as a whole


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of up to three colours, some of none, with a table that says which."""
    folder = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(1)
    rows = [("path", "labels", "split")]
    for i in range(96):
        held = [name for name in LABELS if draws.random() < 0.45]
        pixels = np.full((12, 12, 3), 120, np.uint8)
        for place, name in enumerate(held):
            pixels[:, 4 * place : 4 * place + 4] = COLOURS[name]
        noise = draws.integers(-20, 20, pixels.shape)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append((f"{i}.png", "|".join(held), "train" if i < 64 else "val"))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def train(photos: Path, out: Path, **more: Any) -> Path:
    outcome = saccade.train(
        model="lenet5",
        data=photos,
        labels=photos / "labels.csv",
        image_size=28,
        batch_size=16,
        epochs=10,
        lr=2e-3,
        optimizer__name="adamw",
        augment__mixup=0.1,
        data__eval_views=1,
        out=out,
        quiet=True,
        **more,
    )
    return outcome.folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(photos, tmp_path_factory.mktemp("runs") / "run")


def told(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def test_a_table_of_several_labels_makes_a_run_that_is_judged_by_map(run: Path) -> None:
    facts = told(run)
    assert (facts["objective"], facts["primary"]) == ("multi-label", "map")
    assert facts["dataset"]["classes"] == list(LABELS)
    assert facts["result"]["map"] > 0.8 and facts["best"]["map"] >= facts["result"]["map"]
    notes = {finding["id"]: finding["message"] for finding in facts["findings"]}
    assert "any number of 3 labels" in notes["multi-label"]
    assert "32 validation images: so few images make mAP uncertain" in notes["too-few-images"]
    head, *rows = csv.reader((run / "metrics.csv").read_text().splitlines())
    assert {"map", "f1_macro", "f1_micro"} <= set(head) and len(rows) == 10


def test_the_separator_that_was_found_is_said_at_the_start(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = open_source(photos, str(photos / "labels.csv"))
    assert table.read_as.startswith("separated by '|'; 0 to 3 in an image, 1.")
    saccade.train(
        model="lenet5",
        data=photos,
        labels=photos / "labels.csv",
        image_size=28,
        epochs="1step",
        out=tmp_path / "run",
    )
    assert table.read_as in capsys.readouterr().err


@pytest.mark.parametrize("form", ["columns", "torch", "lists", "sets", "frame"])
def test_labels_from_python_are_those_of_the_table(form: str, photos: Path) -> None:
    pandas = pytest.importorskip("pandas") if form == "frame" else None
    table = open_source(photos, str(photos / "labels.csv")).splits["train"]
    held = [labels_in(table.classes[i]) for i in table.labels.tolist()]
    paths = [photos / name for name in table.names]
    hot = np.array([[name in one for name in LABELS] for one in held], np.int64)
    data: Any = {
        "columns": (paths, hot),
        "torch": (paths, torch.from_numpy(hot).bool()),
        "lists": (paths, [list(one) for one in held]),
        "sets": (paths, [set(one) for one in held]),
    }.get(form)
    if pandas is not None:
        joined = ["; ".join(one) for one in held]
        data = pandas.DataFrame({"path": list(map(str, paths)), "labels": joined})

    split = saccade.open_source(data).splits["all"]
    names = dict(zip("012", LABELS, strict=True)) if form in ("columns", "torch") else {}
    found = {
        split.names[i].partition("-")[2].rpartition("-")[0] or split.origins[i]: {
            names.get(name, name) for name in labels_in(split.classes[split.labels[i]])
        }
        for i in range(len(split))
    }
    assert {Path(name).name: one for name, one in found.items()} == {
        path.name: set(one) for path, one in zip(paths, held, strict=True)
    }


def test_an_array_of_labels_makes_a_run_that_is_judged_by_map(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 255, (40, 12, 12, 3), np.uint8)
    hot = draws.integers(0, 2, (40, 3))
    outcome = saccade.train(
        model="lenet5",
        data=(images, hot),
        holdout=0.5,
        image_size=28,
        epochs="2step",
        out=tmp_path / "run",
        quiet=True,
    )
    facts = told(outcome.folder)
    assert (facts["primary"], facts["dataset"]["classes"]) == ("map", ["0", "1", "2"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(4), r"labels.argmax\(1\)"),
        ([[0, 1], [1, 1], [1, 0], [0, 0]], r"numpy.array\(labels\)"),
        ([["a", 1], ["b"], [], ["a"]], "text as well as numbers"),
        ([["a|b"], ["b"], [], ["a"]], "a|b"),
        (np.full((4, 2), 0.5), "several numbers"),
    ],
)
def test_labels_from_python_that_may_mean_two_things_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        saccade.open_source((np.zeros((4, 8, 8), np.uint8), labels))
    assert words.replace("\\", "") in f"{caught.value.what} {caught.value.fix}"


def test_the_saved_weights_say_what_they_are_and_answer_alike_anywhere(
    run: Path, photos: Path
) -> None:
    loaded = Classifier.load(run)
    assert (loaded.recipe.objective, loaded.recipe.classes) == ("multi-label", LABELS)
    path = photos / "70.png"
    (answer,) = saccade.predict(run, path, top=3)
    squares = loaded.recipe.framing.square(np.array(Image.open(path)), 28)
    pixels = squares[None].float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (loaded.recipe.mean, loaded.recipe.std))
    with torch.inference_mode():
        chances = loaded.network((pixels - mean) / std).sigmoid()[0]
    expected = {name: float(p) for name, p in zip(LABELS, chances, strict=True) if p >= 0.5}
    assert dict(answer.top) == pytest.approx(expected, abs=1e-5)
    assert sorted(answer.top, key=lambda one: -one[1]) == list(answer.top)


def test_eval_gives_the_figures_of_the_run_and_an_image_may_have_no_label(
    run: Path, tmp_path: Path
) -> None:
    done = console.run_here("eval", str(run), "--json")
    assert done.status == 0, done.stderr
    result, found = told(run)["result"], json.loads(done.stdout)
    assert all(found[name] == result[name] for name in ("map", "f1_macro", "f1_micro", "loss"))
    words = console.run_here("eval", str(run)).stdout
    assert "mAP" in words and "macro F1" in words and "interval" not in words

    empty = Image.new("RGB", (12, 12), (120, 120, 120))
    (answer,) = saccade.predict(run, empty)
    assert answer.top == () and answer.label == "" and not answer.error
    empty.save(file := tmp_path / "empty.png")
    console.run_here("predict", str(run), str(file), "--csv", str(tmp_path / "p.csv"))
    assert (tmp_path / "p.csv").read_text().splitlines()[1:] == [f"{file},,,"]


def test_the_report_has_a_row_for_each_label_and_says_what_is_optimistic(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "mean average precision" in page and "Labels, worst first" in page
    assert "it is optimistic" in page and "Confusion matrix" not in page
    for name in LABELS:
        assert f"<td>{name}</td>" in page


def test_a_run_that_was_stopped_ends_with_the_same_weights_and_figures(
    run: Path, photos: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(17)
    with pytest.raises(PreemptedError):
        train(photos, tmp_path / "again")
    stop_after(10_000)
    resumed = told(train(photos, tmp_path / "again"))
    assert resumed["attempts"] == 2
    assert (resumed["digest"], resumed["best"]) == (told(run)["digest"], told(run)["best"])


def test_what_has_no_meaning_here_is_refused_with_a_sentence(photos: Path) -> None:
    with pytest.raises(ConfigError, match="separate decision"):
        train(photos, photos / "no", loss__class_weights="balanced")


def test_labels_of_one_side_alone_are_named(photos: Path, tmp_path: Path) -> None:
    lines = (photos / "labels.csv").read_text().splitlines()
    table = tmp_path / "t.csv"
    table.write_text("\n".join([*lines[:-1], "95.png,red|violet,val"]))
    splits = open_source(photos, str(table)).splits
    objective = objectives.build(Config(), splits["train"])
    (error, *_) = objective.inspect(splits["train"], splits["val"], held_out=False)
    assert (error.id, error.items, error.status) == ("class-missing-in-train", ("violet",), 65)

    table.write_text(
        "\n".join(
            [
                lines[0],
                *[f"{i}.png,red|green,train" for i in range(9)],
                *[f"{i}.png,green,val" for i in range(9, 12)],
            ]
        )
    )
    splits = open_source(photos, str(table)).splits
    objective = objectives.build(Config(), splits["train"])
    found = {f.id: f for f in objective.inspect(splits["train"], splits["val"], held_out=False)}
    assert found["class-missing-in-val"].items == ("red",)
    assert found["class-missing-in-val"].severity == "warning"
    assert found["label-always-there"].items == ("green", "red")


def test_a_column_for_several_labels_that_never_holds_two_is_asked_about(
    photos: Path, tmp_path: Path
) -> None:
    """Cells such as 'cat dog' become one label each without a word else."""
    table = tmp_path / "t.csv"
    for cell, warned in (("red", True), ("red|green", False)):
        table.write_text(f"path,labels,split\n0.png,{cell},train\n1.png,,train\n2.png,red,val\n")
        splits = open_source(photos, str(table)).splits
        objective = objectives.build(Config(), splits["train"])
        found = objective.inspect(splits["train"], splits["val"], held_out=False)
        assert ("label-alone" in [one.id for one in found]) is warned


def test_the_last_lines_need_no_file_of_the_run(tmp_path: Path, capsys: Any) -> None:
    """Other ranks come here while the first still writes ``run.json``."""
    figures = {"map": 0.5, "f1_macro": 0.25, "f1_micro": 0.2, "loss": 0.6, "judged": 2, "n": 9}
    result = {"step": 1, "epoch": 1.0, "split": "val", "views": 1, **figures}
    learned = MultiLabel(LABELS[:2])
    run_folder.conclude(result, tmp_path, 1.0, Log(), objective=learned)
    assert "mAP 50.00%" in "".join(capsys.readouterr())


def test_runs_that_learned_different_things_have_a_table_each(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "one-class"
    other.mkdir()
    result = {"step": 1, "top1": 0.75, "top5": 1.0, "correct": 3, "loss": 1.0, "n": 4}
    facts = {"dataset": {"classes": ["a", "b"]}, "status": "done", "result": result}
    (other / "run.json").write_text(json.dumps(facts))
    compare_runs([run, other], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<th>status</th>") == 2 and ">mAP<" in page
    assert page.index(">top-1<") < page.index("75.00") < page.index("30.06")
