"""Sets and settings on which other trainers end with status 0 and a meaningless number.

Each is refused with its id and status; beside it stands the repaired set, which trains with the
same command.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import console
from saccade import api, files
from saccade.errors import DataError, DivergedError, PreemptedError

SIDE = 80
Layout = dict[str, dict[str, int]]
USUAL: Layout = {"train": {"cat": 8, "dog": 8, "owl": 8}, "val": {"cat": 2, "dog": 2, "owl": 2}}
FLAGS = ("--image-size", "32", "--epochs", "1", "--seed", "3")


def photo(*words: object) -> bytes:
    """Return a JPEG of a colour that follows from the first word, with noise that follows from
    all of them.
    """
    colour = np.random.default_rng(list(str(words[0]).encode())).integers(40, 216, 3)
    noise = np.random.default_rng(list(repr(words).encode())).integers(-40, 40, (SIDE, SIDE, 3))
    out = io.BytesIO()
    Image.fromarray((colour + noise).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def make_set(root: Path, layout: Layout) -> Path:
    for split, classes in layout.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(photo(name, split, i))
    return root


def outcome(
    data: Path, *arguments: str, run: Callable[..., console.Done] = console.run_here
) -> console.Done:
    return run("train", "resnet8", "--data", str(data), "--out", f"{data}-run", *FLAGS, *arguments)


def refusal(
    data: Path, *arguments: str, run: Callable[..., console.Done] = console.run_here
) -> tuple[int, str]:
    """Run the command on a set that must not train; returns status and message."""
    done = outcome(data, *arguments, run=run)
    assert not (Path(f"{data}-run") / "model.safetensors").exists()
    return done.status, done.stderr


def must_train(data: Path, *arguments: str) -> None:
    done = outcome(data, *arguments)
    assert done.status == 0, done.stderr
    assert facts(data)["status"] == "done"


def facts(data: Path) -> dict[str, Any]:
    return dict(files.read_json(Path(f"{data}-run") / "run.json"))


def answers(data: Path) -> dict[str, Tensor]:
    return safetensors.torch.load((Path(f"{data}-run") / "predictions.safetensors").read_bytes())


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repaired set of most traps, on which the same command has trained."""
    data = make_set(tmp_path_factory.mktemp("repaired") / "usual", USUAL)
    must_train(data)
    return data


def changed(layout: Layout, split: str, **classes: int) -> Layout:
    return {**layout, split: classes}


def test_train_without_validation_is_refused_and_test_is_a_validation_split(tmp_path: Path) -> None:
    only_train = make_set(tmp_path / "only", {"train": USUAL["train"]})
    with_test = make_set(
        tmp_path / "test", {"train": USUAL["train"], "test": {"cat": 3, "dog": 1, "owl": 2}}
    )
    status, said = refusal(only_train, run=console.run_process)
    must_train(with_test)
    assert (status, "[no-val-split]" in said) == (65, True), said
    assert "val/, validation/, valid/ and test/" in said and "--holdout" in said
    # the test images, each once, and no other
    assert answers(with_test)["labels"].tolist() == [0, 0, 0, 1, 2, 2]
    assert (facts(with_test)["result"]["n"], facts(with_test)["result"]["split"]) == (6, "test")


@pytest.mark.usefixtures("usual")
def test_an_unknown_folder_beside_train_is_no_validation_split(tmp_path: Path) -> None:
    unknown = make_set(tmp_path / "unknown", {"train": USUAL["train"], "heldback": USUAL["val"]})
    status, said = refusal(unknown)
    assert (status, "[no-val-split]" in said) == (65, True), said


@pytest.mark.usefixtures("usual")
@pytest.mark.spec(6)
def test_a_class_missing_in_validation_is_refused(tmp_path: Path) -> None:
    lacking = make_set(tmp_path / "lacking", changed(USUAL, "val", cat=2, owl=2))
    status, said = refusal(lacking)
    assert (status, "[class-missing-in-val]" in said, "dog" in said) == (65, True, True), said


def test_a_learning_rate_that_is_too_high_ends_as_diverged(tmp_path: Path) -> None:
    wild, tame = make_set(tmp_path / "wild", USUAL), make_set(tmp_path / "tame", USUAL)
    status, said = refusal(wild, "--lr", "1e30")
    assert (status, "[not-finite]" in said) == (76, True), said
    assert not {"best", "result"} & set(facts(wild))
    must_train(tame, "--lr", "0.01")


@pytest.mark.parametrize("method", ["sgd", "adamw", "muon"])
@pytest.mark.fault("G3")
def test_a_rate_beyond_all_reason_ends_before_the_first_step(method: str, tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", USUAL)
    status, said = refusal(data, "--lr", "1e12", "--set", f"optimizer.name={method}")
    assert (status, "[not-finite]" in said) == (76, True), said
    assert (
        "lr 1e+12" in said
        and "in the trial before training" in said
        and "lower the learning rate" in said
    )
    assert not {"best", "result"} & set(facts(data)) and "CUDA" not in said


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.fault("G3")
def test_images_that_show_nothing_are_refused(side: str, tmp_path: Path) -> None:
    """What a broken converter or a disk full of zeros leaves: sound files, all black, each of
    another size.
    """
    data = make_set(tmp_path / "set", USUAL)
    for number, path in enumerate(sorted((data / side).rglob("*.jpg"))):
        Image.new("RGB", (SIDE + number, SIDE)).save(path, "PNG")
    status, said = refusal(data)
    assert (status, "[blank-images]" in said, f"'{side}'" in said) == (65, True, True), said


def test_images_of_one_colour_each_are_no_blank_set(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", USUAL)
    for number, path in enumerate(sorted(data.rglob("*.jpg"))):
        Image.new("RGB", (SIDE, SIDE), (number * 8, 0, 0)).save(path, "PNG")
    assert outcome(data).status == 0


@pytest.mark.usefixtures("usual")
@pytest.mark.fault("G3")
def test_a_single_class_is_refused(tmp_path: Path) -> None:
    alone = make_set(tmp_path / "alone", {"train": {"cat": 8}, "val": {"cat": 2}})
    status, said = refusal(alone)
    assert (status, "[one-class]" in said, "cat" in said) == (65, True, True), said


@pytest.mark.fault("G3")
def test_a_label_that_is_no_class_is_refused_where_the_split_is_made() -> None:
    split = api.open_source("digits").splits["train"]
    for wrong in (10, -1):
        labels = split.labels.copy()
        labels[7] = wrong
        with pytest.raises(DataError, match=f"not among its 10 classes, such as {wrong}"):
            dataclasses.replace(split, labels=labels)


class Poisoned(nn.Module):
    """A network whose logits turn NaN in the given training step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.left = step

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.mean((2, 3)))
        if self.training:
            self.left -= 1
            logits = logits * (torch.nan if self.left == 0 else 1.0)
        return logits


def test_a_run_that_diverges_after_an_evaluation_has_no_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = make_set(tmp_path / "set", USUAL)
    with pytest.raises(DivergedError) as caught:
        api.train(
            model=Poisoned(12),
            data=data,
            out=run,
            epochs=4,
            image_size=32,
            batch_size=4,
            quiet=True,
        )
    assert (caught.value.finding, "step 11" in str(caught.value)) == ("not-finite", True)
    told = files.read_json(run / "run.json")
    assert (told["status"], told["exit_status"]) == ("diverged", 76)
    assert not {"best", "result"} & set(told) and not (run / "model.safetensors").exists()
    evaluated = [e for e in (run / "log.jsonl").read_text().splitlines() if '"event": "eval"' in e]
    assert len(evaluated) == 1 and "NaN" not in evaluated[0]


def test_a_batch_above_the_training_set_is_refused(tmp_path: Path) -> None:
    small = make_set(tmp_path / "small", USUAL)
    large = make_set(tmp_path / "large", changed(USUAL, "train", cat=22, dog=22, owl=22))
    status, said = refusal(small, "--batch-size", "64")
    must_train(large, "--batch-size", "64")
    assert (status, "[batch-larger-than-data]" in said) == (78, True), said
    assert facts(large)["steps"] == 2  # ceil(66 / 64): no step is dropped


class Notes(list[int]):
    """A list that a copy of its owner shares: a copy of a network is what is trained."""

    def __deepcopy__(self, _memo: object) -> Notes:
        return self


class Recorder(nn.Module):
    """A network that notes the gray level of every training image it sees."""

    def __init__(self) -> None:
        torch.manual_seed(0)  # the run that was broken off is found again by the same start
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.seen = Notes()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.seen += ((x.mean((1, 2, 3)) * 0.5 + 0.5) * 255 / 8).round().long().tolist()
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def test_a_resume_inside_an_epoch_sees_every_other_sample_once(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    grays = range(2, 26)
    # images of one gray level each, 8 apart: crops and flips cannot hide which one it is
    for gray in grays:
        for split in ("train", "val"):
            path = tmp_path / "set" / split / f"class{gray % 2}" / f"{gray}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (SIDE, SIDE + (split == "val")), gray * 8).save(path)
    settings: dict[str, Any] = {
        "data": tmp_path / "set",
        "out": tmp_path / "run",
        "epochs": 3,
        "image_size": 32,
        "batch_size": 5,
        "quiet": True,
        "checkpoint__every": "1step",
        "data__mean": (0.5,) * 3,
        "data__std": (0.5,) * 3,
        "precision": "fp32",
    }
    first, second = Recorder(), Recorder()
    stop_after(7)
    with pytest.raises(PreemptedError):
        api.train(model=first, **settings)
    api.train(model=second, **settings)
    # before the first step the preflight has shown a few images to copies
    # one epoch of 24 and 11 images; the rest of 3 epochs
    seen = first.seen[-35:] + second.seen[-40:]
    for epoch in range(3):
        assert Counter(seen[24 * epoch : 24 * (epoch + 1)]) == Counter(grays), epoch
    assert seen[:24] != seen[24:48]


@pytest.mark.spec(6, "A9", "A18")
def test_three_classes_get_a_head_of_three(usual: Path) -> None:
    status, said = refusal(
        usual.with_name("wide"), "--data", str(usual), "--set", "model.num_classes=1000"
    )
    assert (status, "[head-width]" in said, "1,000" in said) == (78, True, True), said
    weights = safetensors.torch.load((Path(f"{usual}-run") / "model.safetensors").read_bytes())
    assert weights["fc.weight"].shape[0] == 3


@pytest.mark.usefixtures("usual")
def test_the_same_image_on_both_sides_is_refused(tmp_path: Path) -> None:
    leaking = make_set(tmp_path / "leaking", USUAL)
    shutil.copy(leaking / "train" / "dog" / "3.jpg", leaking / "val" / "dog" / "again.jpg")
    status, said = refusal(leaking)
    assert (status, "[train-val-overlap]" in said) == (65, True), said
    assert "val/dog/again.jpg" in said and "train/dog/3.jpg" in said


@pytest.mark.usefixtures("usual")
@pytest.mark.spec("A12")
def test_broken_images_are_named_all_at_once(tmp_path: Path) -> None:
    broken = make_set(tmp_path / "broken", USUAL)
    path = broken / "train" / "owl" / "5.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    (broken / "val" / "cat" / "page.jpg").write_text("<html>404</html>")
    status, said = refusal(broken)
    assert (status, "[unreadable-image]" in said) == (65, True), said
    assert "train/owl/5.jpg" in said and "val/cat/page.jpg" in said


@pytest.mark.usefixtures("usual")
def test_a_class_name_in_other_case_is_named(tmp_path: Path) -> None:
    mixed = make_set(tmp_path / "mixed", changed(USUAL, "val", cat=2, Dog=2, owl=2))
    status, said = refusal(mixed)
    assert (status, "[class-case-differs]" in said, "'dog' / 'Dog'" in said) == (65, True, True), (
        said
    )
