"""The report says what the run folder holds, escapes it, needs nothing from outside, and never
invents.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saccade import files
from saccade.config.schema import Config
from saccade.data.sources import Split
from saccade.errors import UsageError
from saccade.log import Log
from saccade.objectives.classification import Classification
from saccade.objectives.metrics import wilson_interval
from saccade.objectives.objective import Result
from saccade.report import compare_runs, parts, plots, write_report
from saccade.report.record import Record

NASTY = "<b>&"
NAMES = (NASTY, "$x_1$", "quote\"'", "ant", "bee", "cat", "dog", "emu", "fox", "猫")
PLOTS = ("loss", "accuracy", "learning_rate", "confusion", "mistakes")


@dataclass
class Fake:
    folder: Path
    split: Split
    result: Result


def fake_split(classes: tuple[str, ...] = NAMES, n: int = 200) -> Split:
    """Return ``n`` small PNG images in canonical order, each with a square in the colour of its
    class.
    """
    labels = np.sort(np.arange(n) % len(classes)).astype(np.int64)
    encoded = []
    for i, label in enumerate(labels):
        pixels = np.full((24, 32, 3), 230, np.uint8)
        pixels[4:20, 6:26] = (25 * (label % 10), 255 - 25 * (label % 10), i)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "png")
        encoded.append(out.getvalue())
    sizes = np.array([len(e) for e in encoded], np.int64)
    names = tuple(f"image{i:03d}.png" for i in range(n))
    return Split("val", classes, names, sizes, labels, encoded.__getitem__, "generated")


def answers(split: Split, wrong: int = 40) -> torch.Tensor:
    """Return logits that are right except for ``wrong`` images.

    Image 0 is the most confident mistake.
    """
    classes = len(split.classes)
    said = split.labels.copy()
    said[:wrong] = (said[:wrong] + 1 + np.arange(wrong) % 3) % classes
    logits = torch.zeros(len(split), classes)
    logits[torch.arange(len(split)), torch.from_numpy(said)] = torch.linspace(9, 3, len(split))
    return logits


def write_log(folder: Path, evaluations: int) -> None:
    log = Log(quiet=True)
    log.open(folder / "log.jsonl")
    for step in range(1, 10 * evaluations + 1):
        x = step / 30
        log.event(
            "step",
            step=step,
            epoch=3 * x,
            loss=2.3 - x,
            lr=0.1 * (1 - x),
            images_per_s=100.0,
            wait_share=0.1,
        )
        if step % 10 == 0:
            log.event(
                "eval",
                step=step,
                epoch=3 * x,
                split="val",
                top1=0.5 + x / 4,
                top5=0.9,
                loss=2.0 - x,
                n=200,
                correct=round(200 * (0.5 + x / 4)),
                correct5=180,
            )
    log.warn("the disk is <nearly> full")
    log.close()


def fake_run(
    folder: Path, classes: tuple[str, ...] = NAMES, *, finished: bool = True, lr: str = "0.1"
) -> Fake:
    split = fake_split(classes)
    result = Classification(split.classes).judge(answers(split), torch.from_numpy(split.labels))
    write_log(folder, evaluations=3 if finished else 1)
    config = Config.model_validate({"optimizer": {"lr": lr}}).dump()
    files.write_bytes(folder / "config.yaml", yaml.safe_dump(config).encode())
    facts = {
        "saccade": "0.1.0",
        "status": "done" if finished else "PreemptedError",
        "dataset": {
            "name": "set",
            "train": 800,
            "val": 200,
            "classes": list(classes),
            "fingerprint": "f" * 64,
        },
        "model": {"name": "resnet18", "params": 11_181_642},
        "batch": {"global": 256, "cell": 128, "ranks": 1},
        "learning_rate": "0.1 = 0.1 x 256/256 (linear)",
        "steps": 30,
        "resolved": {"precision": {"value": "bf16", "reason": "the processor has it"}},
        "findings": [
            {
                "id": "train-val-overlap",
                "severity": "warning",
                "message": "1 <image> is on both sides",
            }
        ],
    }
    if finished:
        files.write_bytes(
            folder / "predictions.safetensors",
            safetensors.torch.save({"logits": result.logits, "labels": result.labels}),
        )
        time = {"preflight_s": 1.0, "train_s": 20.0, "evaluation_s": 3.0, "data_wait_share": 0.25}
        facts |= {"result": result.to_json() | {"split": "val"}, "seconds": 30.0, "time": time}
    files.write_json(folder / "run.json", facts)
    return Fake(folder, split, result)


@pytest.fixture
def run(tmp_path: Path) -> Fake:
    return fake_run(tmp_path / "run")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fake, Page]:
    """A finished run and its page, for the tests that only look."""
    fake = fake_run(tmp_path_factory.mktemp("report") / "run")
    return fake, Page(write_report(fake.folder, fake.split))


class Page(HTMLParser):
    """Tags, addresses and visible text of a page; unbalanced tags are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[bytes] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self._open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("img", "meta"):
            self._open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} would run a script"
            if name in ("src", "srcset", "href", "data", "action"):
                self.addresses.append(value or "")
            if tag == "img" and name == "src":
                self.images.append(base64.b64decode((value or "").split(",")[1]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)


def test_page_needs_nothing_from_outside(report: tuple[Fake, Page]) -> None:
    _, page = report
    assert page.addresses and all(a.startswith("data:image/") for a in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(
        r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source)
    )


@pytest.mark.spec(26, 36)
def test_every_plot_is_written_and_embedded(report: tuple[Fake, Page]) -> None:
    run, page = report
    written = {path.stem: path.read_bytes() for path in (run.folder / "plots").iterdir()}
    assert set(written) == set(PLOTS)
    assert {name for name in PLOTS if written[name] in page.images} == set(PLOTS) - {"mistakes"}
    for picture in [*written.values(), *page.images]:
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format in ("PNG", "JPEG")
            image.load()
            assert np.ptp(np.asarray(image.convert("RGB"))) > 0  # something was drawn


def test_headline_is_the_result_with_its_interval(report: tuple[Fake, Page]) -> None:
    _, page = report
    low, high = wilson_interval(160, 200)
    assert "80.00 %" in page.text and f"{100 * low:.2f} – {100 * high:.2f} %" in page.text
    for words in (
        "top-1 accuracy on val",
        "200",
        "256 = 2 cells (micro-batches) x 128 images x 1 rank",
        "11.18 M parameters",
    ):
        assert words in page.text
    assert (
        "0.1 = 0.1 x 256/256 (linear)" in page.text and "bf16 (the processor has it)" in page.text
    )
    assert "partial" not in page.text


def test_all_text_is_escaped(report: tuple[Fake, Page]) -> None:
    _, page = report
    assert (
        NASTY not in page.source and "<image>" not in page.source and "<nearly>" not in page.source
    )
    assert (
        NASTY in page.text
        and "1 <image> is on both sides" in page.text
        and "the disk is <nearly> full" in page.text
    )


def test_worst_mistakes_are_the_most_confident_ones_with_their_pictures(
    report: tuple[Fake, Page],
) -> None:
    run, page = report
    assert [f"image{i:03d}.png" for i in range(12)] == re.findall(r"image\d{3}\.png", page.text)
    first = np.asarray(Image.open(io.BytesIO(run.split.read(0))))
    assert any(np.array_equal(first, pixels) for pixels in decoded(page.images, first.shape))
    sure = run.result.logits.softmax(1).amax(1)[0]
    assert f"$x_1$ · {100 * sure:.1f}" in page.text


def decoded(pictures: list[bytes], shape: tuple[int, ...]) -> list[np.ndarray]:
    opened = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in pictures)
    return [pixels for pixels in opened if pixels.shape == shape]


def test_classes_are_listed_worst_first(report: tuple[Fake, Page]) -> None:
    _, page = report
    accuracies = re.findall(r"20 (\d+) (\d+\.\d\d) %", page.text.split("Classes, worst first")[1])
    assert [float(a) for _, a in accuracies] == [0.0, 0.0] + [100.0] * 8


@pytest.mark.spec(36)
def test_unfinished_run_gets_a_report_of_what_is_there(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", finished=False)
    page = Page(write_report(run.folder, None))
    assert {path.stem for path in (run.folder / "plots").iterdir()} == {
        "loss",
        "accuracy",
        "learning_rate",
    }
    assert "stopped, can continue" in page.text and "the run has no final result yet" in page.text
    assert "58.33 %" in page.text and "10 of 30 steps done" in page.text
    assert "Confusion" not in page.text and "mistakes" not in page.text


@pytest.mark.parametrize("kept", ["run.json", "log.jsonl", "config.yaml"])
def test_any_one_file_of_a_run_is_enough_for_a_page(run: Fake, kept: str) -> None:
    for path in run.folder.iterdir():
        if path.name != kept:
            path.unlink()
    assert Page(write_report(run.folder, None)).text


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "predictions.safetensors"])
def test_a_damaged_file_is_named_and_the_rest_still_shown(run: Fake, name: str) -> None:
    (run.folder / name).write_bytes(b"{\x00\xff: [")
    page = Page(write_report(run.folder, None))
    assert re.search(f"{name} cannot be (read|used)", page.text)
    assert (run.folder / "plots" / "loss.png").exists()


def test_an_empty_folder_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path, None)
    assert not list(tmp_path.iterdir())


def test_predictions_of_another_evaluation_are_called_out(run: Fake) -> None:
    logits = run.result.logits.flip(0)
    content = safetensors.torch.save({"logits": logits.contiguous(), "labels": run.result.labels})
    (run.folder / "predictions.safetensors").write_bytes(content)
    record = Record.read(run.folder)
    assert "belong to another evaluation" in record.problems[0] and record.figures["top1"] == 0.8


def test_pictures_of_changed_data_are_not_shown(run: Fake) -> None:
    record = Record.read(run.folder, run.split.subset(np.arange(150), "val"))
    assert "no longer contains the images that were evaluated" in record.problems[0]
    assert [(m.name, m.pixels) for m in parts.drawn(record)[-1].tiles[:2]] == [
        ("image 0", None),
        ("image 1", None),
    ]


def test_an_image_that_is_gone_leaves_its_tile_empty(run: Fake) -> None:
    def read(i: int) -> bytes:
        if i == 0:
            raise FileNotFoundError("gone")
        return bytes(run.split.read(i))

    page = Page(write_report(run.folder, replace(run.split, read=read)))
    assert (
        page.text.count("no picture") == 1
        and "image000.png in generated cannot be shown: gone" in page.text
    )


def test_many_classes_get_a_table_of_confused_pairs(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", tuple(f"class{i:02d}" for i in range(40)))
    page = Page(write_report(run.folder, run.split))
    assert not (run.folder / "plots" / "confusion.png").exists()
    assert "class00 class01 2 40.00 %" in page.text and "the other 10 classes" in page.text


def test_classes_of_imagenet_are_called_by_their_english_names(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", ("n01440764", "n02102040", "zebra fish", "n00000000"))
    page = Page(write_report(run.folder, run.split))
    for words in ("English springer 50", "is tench", "zebra fish 50", "n00000000 50"):
        assert words in page.text


def test_final_evaluation_on_another_split_is_not_drawn_into_the_curve(run: Fake) -> None:
    log = (run.folder / "log.jsonl").read_text()
    before = Record.read(run.folder).series("eval", "top1")
    last = (
        '{"event": "eval", "step": 31, "epoch": 3.1, "split": "test", "top1": 0.01, "loss": 9.0, '
        '"n": 5}\n'
    )
    (run.folder / "log.jsonl").write_text(log + last)
    assert Record.read(run.folder).series("eval", "top1") == before


def test_comparison_ranks_runs_and_names_what_differs(tmp_path: Path) -> None:
    runs = [
        fake_run(tmp_path / name, finished=done, lr=lr).folder
        for name, done, lr in (("slow", False, "0.1"), ("fast", True, "0.2"), (NASTY, True, "0.2"))
    ]
    page = Page(compare_runs(runs, tmp_path / "compare.html"))
    table = page.text.split("Results, best first")[1]
    assert table.index("80.00 %") < table.index("58.33 %")
    assert "optimizer.lr 0.1 0.2 0.2" in page.text and "batch.global" not in page.text
    assert NASTY in page.text and NASTY not in page.source
    assert len(page.images) == 6 and all(a.startswith("data:image/") for a in page.addresses)


def test_comparison_of_different_data_is_called_out(tmp_path: Path) -> None:
    first, second = fake_run(tmp_path / "a"), fake_run(tmp_path / "b")
    facts = files.read_json(second.folder / "run.json")
    facts["dataset"]["fingerprint"] = "0" * 64
    files.write_json(second.folder / "run.json", facts)
    page = Page(compare_runs([first.folder, second.folder], tmp_path / "compare.html"))
    assert "used different data" in page.text


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
def test_labels_keep_their_order_and_distance(values: list[float], gap: float) -> None:
    moved = plots.spread(values, gap)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(moved[b] - moved[a] >= gap - 1e-9 for a, b in pairwise(order))
    assert sum(moved) == pytest.approx(sum(values), abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=300))
def test_running_mean_stays_within_the_values(values: list[float]) -> None:
    mean = plots.running_mean(np.array(values))
    assert (
        len(mean) == len(values)
        and min(values) - 1e-9 <= mean.min() <= mean.max() <= max(values) + 1e-9
    )
