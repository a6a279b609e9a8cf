"""The preflight: every finding by its id on real folders, the contents pass, the trial step."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from saccade.data.archives import stamps
from saccade.data.audit import sample as ledger
from saccade.device import compile
from saccade.errors import ConfigError, DataError, DiskError, DivergedError, PreemptedError
from saccade.findings import Finding, listed, refuse
from saccade.log import Log
from saccade.preflight import checks, out_of_memory
from saccade.preflight import trial as rehearsal
from saccade.setup import build
from saccade.setup.compose import Composed, Request, compose
from saccade.training import datasets
from saccade.training.run import Run

QUIET = Log(quiet=True)
Layout = dict[str, dict[str, int]]
USUAL: Layout = {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}


def picture(seed: str, side: int = 24, turned: bool = False) -> bytes:
    pixels = np.random.default_rng(list(seed.encode())).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", exif=exif)
    return out.getvalue()


def make_set(root: Path, layout: Layout | None = None, **kind: Any) -> Path:
    for split, classes in (layout or USUAL).items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.jpg").write_bytes(picture(f"{split}{name}{i}", **kind))
    return root


def asked(data: Path | str, *sets: str, **flags: Any) -> Composed:
    given_flags = {"data.train": str(data), "data.image_size": 24, "epochs": "2ep"} | flags
    composed = compose(Request(["photos-small", "resnet8"], given_flags, sets))
    return dataclasses.replace(composed, explicit_batch="batch.global" in flags)


def found(composed: Composed, module: nn.Module | None = None) -> dict[str, Finding]:
    data = datasets.open_data(composed.config, composed.source)
    config, shrunk = build.shrink_batch(composed.config, len(data.train), composed.explicit_batch)
    return {f.id: f for f in checks.inspect(config, data, module, QUIET, shrunk)}


def built(composed: Composed, folder: Path, module: nn.Module | None = None) -> Run:
    data = datasets.open_data(composed.config, composed.source)
    config, _ = build.shrink_batch(composed.config, len(data.train), composed.explicit_batch)
    return build.build(config, data, folder, build.resolve(config, None), module)


def rehearse(run: Run) -> dict[str, Finding]:
    try:
        return {f.id: f for f in checks.trial(run, QUIET, lambda: None)}
    finally:
        run.readers.close()


def errors(findings: dict[str, Finding]) -> dict[str, int]:
    return {f.id: f.status for f in findings.values() if f.severity == "error"}


def test_a_sound_set_has_no_errors(tmp_path: Path) -> None:
    findings = found(asked(make_set(tmp_path / "set")))
    assert errors(findings) == {}
    assert "128 -> 8" in findings["batch-shrunk"].message
    assert findings["too-few-images"].severity == "note"


def test_classes_of_one_side_that_differ_in_case_alone_are_named(tmp_path: Path) -> None:
    side = {"Cat": 4, "cat": 4, "A": 4, "a": 4}
    findings = found(asked(make_set(tmp_path / "set", {"train": side, "val": side})))
    assert findings["class-case-differs"].severity == "warning"
    assert findings["class-case-differs"].items == ("'Cat' / 'cat'",)


def test_classes_are_compared_by_name_in_both_directions(tmp_path: Path) -> None:
    layout = {"train": {"a": 4, "b": 4, "Cat": 4}, "val": {"a": 2, "d": 2, "cat": 2}}
    findings = found(asked(make_set(tmp_path / "set", layout)))
    assert errors(findings) == {
        "class-case-differs": 65,
        "class-missing-in-val": 65,
        "class-missing-in-train": 65,
    }
    assert findings["class-missing-in-val"].items == ("b",)
    assert findings["class-missing-in-train"].items == ("d",)
    assert findings["class-case-differs"].items == ("'Cat' / 'cat'",)


def test_an_empty_class_folder_counts_as_missing_or_is_warned_of(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    (data / "train" / "nothing").mkdir()
    findings = found(asked(data))
    assert errors(findings) == {} and findings["empty-class"].items == ("nothing",)
    for image in (data / "val" / "b").iterdir():
        image.unlink()
    missing = found(asked(data))["class-missing-in-val"]
    assert missing.status == 65 and "empty" in missing.message


def test_one_class_is_refused(tmp_path: Path) -> None:
    findings = found(asked(make_set(tmp_path / "set", {"train": {"a": 4}, "val": {"a": 2}})))
    assert errors(findings) == {"one-class": 65}


def test_class_folders_named_as_validation_data_are_taken_whole(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    composed = asked(root / "train", f"data.val={root / 'val'}")
    data = datasets.open_data(composed.config, composed.source)
    assert (data.train.name, len(data.train), len(data.val), data.val.where) == (
        "all",
        12,
        4,
        str(root / "val"),
    )
    assert data.train.classes == data.val.classes


def test_a_class_of_one_image_is_warned_of_when_held_out(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", {"train": {"a": 8, "b": 8, "c": 1}})
    findings = found(asked(data, **{"data.holdout": 0.25}))
    assert errors(findings) == {} and findings["class-missing-in-val"].severity == "warning"


def test_files_that_are_not_used_are_counted_and_named(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    (data / "train" / "a" / "labels.txt").write_text("a")
    note = found(asked(data))["ignored-files"]
    assert (note.severity, note.items) == ("note", ("train/a/labels.txt",))
    (data / "train" / "stray.jpg").write_bytes(picture("stray"))
    assert found(asked(data))["ignored-files"].severity == "warning"


def test_every_unreadable_image_is_named_with_the_reason(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    whole = (data / "train" / "a" / "0.jpg").read_bytes()
    (data / "train" / "a" / "0.jpg").write_bytes(whole[:-40])
    (data / "train" / "b" / "1.jpg").write_bytes(b"")
    (data / "val" / "b" / "1.jpg").write_bytes(b"no image at all")
    finding = found(asked(data))["unreadable-image"]
    assert "data.unreadable=drop" in finding.fix
    assert (finding.status, len(finding.items)) == (65, 3)
    assert "all 16 images" in finding.message
    assert [item.split(" in ")[0] for item in finding.items] == [
        "train/a/0.jpg",
        "train/b/1.jpg",
        "val/b/1.jpg",
    ]
    assert "empty" in finding.items[1] and "not an image" in finding.items[2]


def test_equal_images_are_refused_on_both_sides_and_warned_of_under_two_labels(
    tmp_path: Path,
) -> None:
    data = make_set(tmp_path / "set")
    shutil.copy(data / "train" / "a" / "2.jpg", data / "train" / "b" / "copy.jpg")
    twice = found(asked(data))
    assert errors(twice) == {} and twice["duplicate-images"].severity == "warning"
    shutil.copy(data / "train" / "a" / "2.jpg", data / "val" / "a" / "leak.jpg")
    leak = found(asked(data))["train-val-overlap"]
    assert leak.status == 65 and "1 of 5 validation images" in leak.message
    assert leak.items == ("val/a/leak.jpg in set = train/a/2.jpg in set",)


def test_a_small_overlap_is_listed_but_not_refused(tmp_path: Path) -> None:
    data = datasets.open_data(
        (composed := asked(make_set(tmp_path / "set"))).config, composed.source
    )
    read = ledger.audit(data.train, data.val)
    few = dataclasses.replace(read, overlap=ledger.Named(1, ("x = y",)), compared=1000)
    many = dataclasses.replace(few, overlap=ledger.Named(2, ("x = y",)))
    verdicts = [checks._contents(one, composed.config, data)[0] for one in (few, many)]
    assert [(v.id, v.severity, v.status) for v in verdicts] == [
        ("train-val-overlap", "warning", 0),
        ("train-val-overlap", "error", 65),
    ]


def test_turned_and_enlarged_images_are_noted(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", side=16, turned=True)
    findings = found(asked(data, **{"data.image_size": 48}))
    assert "16 image(s)" in findings["exif-orientation"].message
    assert "16 px" in findings["image-size-above-source"].message
    assert findings["image-size-above-source"].fix == "consider --image-size 32"
    applied = found(asked(data, "data.exif=apply"))
    assert {"exif-orientation", "image-size-above-source"} & set(applied) == set()


@pytest.mark.parametrize(
    ("shape", "crop", "said"),
    [
        ((60, 12), 0.875, "15 %"),
        ((60, 12), 1.0, "20 %"),
        ((40, 30), 0.875, "57 %"),
        ((40, 30), 1.0, ""),
        ((40, 40), 0.875, ""),
    ],
)
def test_it_is_said_how_little_of_wide_images_evaluation_sees(
    shape: tuple[int, int], crop: float, said: str, tmp_path: Path
) -> None:
    data = make_set(tmp_path / "set", side=16)
    for file in data.rglob("*.jpg"):
        Image.open(file).resize(shape).save(file)
    finding = found(asked(data, **{"data.eval_crop": crop})).get("view-sees-little")
    assert (finding is not None) == bool(said)
    if finding:
        assert (
            f"{said} of the typical image" in finding.message.replace("%", " %")
            and finding.severity == "note"
        )
        for advice in ("squash", "pad"):  # the advice works
            assert advice in finding.fix
            fitted = found(asked(data, f"data.fit={advice}", **{"data.eval_crop": crop}))
            assert "view-sees-little" not in fitted


@pytest.mark.parametrize(
    ("side", "image_size", "said"), [(8, 32, ""), (8, 40, "32"), (20, 64, "32"), (40, 96, "40")]
)
def test_a_smaller_image_size_is_proposed_only_where_there_is_one(
    side: int, image_size: int, said: str, tmp_path: Path
) -> None:
    data = make_set(tmp_path / "set", side=side)
    finding = found(asked(data, **{"data.image_size": image_size})).get("image-size-above-source")
    assert (finding.fix if finding else "") == (f"consider --image-size {said}" if said else "")
    if finding:  # the advice works
        assert "image-size-above-source" not in found(asked(data, **{"data.image_size": int(said)}))


class FixedSize(nn.Module):
    """A network whose last layer fits images of one size alone."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * side * side, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sets", "where"),
    [
        (("augment.sizes=[0.5, 1]",), "augment.sizes"),
        (("augment.sizes=[1]", "data.eval_size=96"), "data.eval_size"),
        (("augment.sizes=[1]", "data.eval_size=48"), "data.eval_size"),
        (("augment.sizes=[1]", "data.image_size=32"), "FixedSize"),
        (("augment.sizes=[1]",), ""),
    ],
)
def test_the_setting_that_brings_in_another_size_is_to_blame(
    sets: tuple[str, ...], where: str, tmp_path: Path
) -> None:
    data = make_set(tmp_path / "set", side=40)
    composed = compose(
        Request(["photos-small", "resnet8"], {"data.train": str(data), "data.image_size": 64}, sets)
    )
    finding = found(composed, FixedSize(64)).get("model-fails")
    assert (finding.where if finding else "") == where
    if finding and where != "FixedSize":
        assert "at 64 px it works" in finding.message


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe the clock of the file system to the nanosecond: what was written just now has a
    stamp.
    """
    monkeypatch.setattr(stamps, "SETTLED_S", 0.0)


@pytest.mark.usefixtures("settled")
def test_a_clean_result_is_found_again_and_a_bad_one_is_not(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    opened = [datasets.open_data((c := asked(data)).config, c.source) for _ in range(2)]
    results = [ledger.audit(d.train, d.val) for d in opened]
    assert [r.cached for r in results] == [False, True]
    assert dataclasses.replace(results[1], cached=False) == results[0]
    path = data / "val" / "a" / "0.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    assert not found(asked(data)).get("unreadable-image")
    path.write_bytes(bytes(len(whole) + 2))
    assert found(asked(data))["unreadable-image"].items
    path.write_bytes(whole + b"\0\0")  # repaired in the same length
    assert "unreadable-image" not in found(asked(data))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A split of which only the sizes are known."""

    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    where: str = "sizes"
    fingerprint: str = ""
    stamp: str = ""

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, i: int) -> bytes:
        return b"x" * int(self.sizes[i])

    def describe(self, i: int) -> str:
        return str(i)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 500), st.integers(0, 99))
def test_a_sample_holds_every_training_image_that_could_equal_a_sampled_validation_image(
    num_train: int, num_val: int, spread: int, seed: int
) -> None:
    draws = (
        np.random.default_rng(seed).integers(0, spread, num_train + num_val) + ledger.COMPLETE_BYTES
    )
    train, val = (Sizes(part, np.zeros_like(part)) for part in np.split(draws, [num_train]))
    chosen_train, chosen_val = ledger.choose(train, val)
    twins = np.flatnonzero(np.isin(train.sizes, val.sizes[chosen_val]))
    assert set(twins.tolist()) <= set(chosen_train.tolist())
    assert (
        len(chosen_val) <= ledger.SAMPLED
        and len(chosen_train) <= ledger.SAMPLED + ledger.CANDIDATES
    )
    assert len(set(chosen_train.tolist())) == len(chosen_train)


def test_small_sets_are_read_completely() -> None:
    train, val = (Sizes(np.full(n, 9), np.zeros(n, np.int64)) for n in (5000, 700))
    assert [len(places) for places in ledger.choose(train, val)] == [5000, 700]


@pytest.mark.parametrize(("share", "finding"), [(0.34, "last-map-too-small"), (1.0, None)])
def test_the_last_map_must_have_two_places_each_way(
    tmp_path: Path, share: float, finding: str | None
) -> None:
    network = ["model.name=resnet18", f"augment.sizes=[{share}]"]
    findings = found(asked(make_set(tmp_path / "set"), *network, **{"data.image_size": 48}))
    assert errors(findings) == ({finding: 78} if finding else {})


def test_strides_set_by_hand_may_leave_a_single_place_and_are_warned_of(tmp_path: Path) -> None:
    strides = ["model.name=resnet18", "model.strides=[2, 2, 2, 2, 2]", "augment.sizes=[1.0]"]
    findings = found(asked(make_set(tmp_path / "set"), *strides, **{"data.image_size": 32}))
    assert errors(findings) == {} and "last-map-too-small" in findings


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    assert errors(found(asked(data, "model.num_classes=10"))) == {"head-width": 78}
    assert errors(found(asked(data, "model.num_classes=2"))) == {}


class Own(nn.Module):
    """A user's network that can be wrong in several ways."""

    def __init__(
        self, width: int = 2, channels: int = 3, scale: float = 1.0, real_only: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, width)
        self.scale, self.real_only = scale, real_only

    def forward(self, x: Tensor) -> Tensor:
        if self.real_only:
            float(x.sum())  # no value can be read on the meta device
        return self.head(self.norm(self.conv(x)).mean((2, 3))) * self.scale  # type: ignore[no-any-return]


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Own(), {}),
        (Own(real_only=True), {}),
        (Own(width=1000), {"head-width": 78}),
        (Own(width=1000, real_only=True), {"head-width": 78}),
        (Own(channels=1), {"model-fails": 78}),
        (Nothing(), {"head-width": 78}),
    ],
    ids=["fits", "fits-real-only", "wide", "wide-real-only", "gray-only", "pair"],
)
def test_a_network_of_ones_own_is_run_before_it_is_trained(
    tmp_path: Path, module: nn.Module, expected: dict[str, int]
) -> None:
    before = {n: t.clone() for n, t in module.state_dict().items()}
    assert errors(found(asked(make_set(tmp_path / "set")), module)) == expected
    assert all(
        torch.equal(before[n], t) and t.device.type == "cpu" for n, t in module.state_dict().items()
    )


def test_all_further_errors_are_named_with_the_first() -> None:
    findings = [
        Finding("a-note", "note", "fine"),
        Finding("one-class", "error", "alone", fix="more", status=65),
        Finding("head-width", "error", "wide", status=78),
        Finding("disk-space", "error", "full", status=74),
    ]
    with pytest.raises(
        DataError, match=r"\[one-class\] alone \(also found: head-width, disk-space\)"
    ) as caught:
        refuse(findings)
    assert caught.value.status == 65
    with pytest.raises(ConfigError):
        refuse(findings[2:])
    refuse(findings[:1])


def test_examine_raises_what_inspect_lists(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"), **{"batch.global": 64})
    data = datasets.open_data(composed.config, composed.source)
    with pytest.raises(ConfigError) as caught:
        checks.examine(composed.config, data, None, QUIET)
    assert caught.value.finding == "batch-larger-than-data"


@given(st.lists(st.text("abc", min_size=1), max_size=9), st.integers(0, 20))
def test_a_phrase_accounts_for_every_name(names: list[str], extra: int) -> None:
    phrase = listed(names, len(names) + extra)
    rest = max(len(names) - 4, 0) + extra
    assert phrase == ", ".join(names[:4]) + (f" and {rest} more" if rest else "")


def test_the_trial_changes_nothing_but_says_how_long_it_takes(tmp_path: Path) -> None:
    composed = asked(
        make_set(tmp_path / "set"), "ema.half_life=1ep", "augment.mixup=0.2", "model.dropout=0.1"
    )
    run = built(composed, tmp_path / "run")
    before, generator, threads = run.state.digest(), torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        findings = rehearse(run)
        assert not torch.is_grad_enabled()
    assert run.state.digest() == before and run.state.step == 0
    assert torch.equal(torch.get_rng_state(), generator) and torch.get_num_threads() == threads
    assert all(p.grad is None for p in run.state.model.parameters())
    assert not (tmp_path / "run").exists()
    assert "limits" in findings["time"].message and errors(findings) == {}


@pytest.mark.parametrize(("waits_s", "threads"), [(0.001, 2), (0.0, 8)])
def test_fewer_threads_read_where_many_stand_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_s: float, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    composed = asked(make_set(tmp_path / "set"))
    run = built(composed, tmp_path / "run")
    run.readers.resize(8)
    split, lock = run.view.split, threading.Lock()

    def read(sample: int) -> Any:
        if waits_s:
            with lock:  # each waits longer the more there are
                time.sleep(waits_s * run.readers.threads)
        else:
            time.sleep(0.01)
        return split.read(sample)

    slow = dataclasses.replace(
        run, view=dataclasses.replace(run.view, split=dataclasses.replace(split, read=read))
    )
    rehearse(slow)
    assert run.readers.threads == threads == run.resolved["reader_threads"]["value"]


def test_the_estimate_adds_up(tmp_path: Path) -> None:
    composed = asked(
        make_set(tmp_path / "set"),
        "augment.sizes=[0.5, 1.0]",
        **{"batch.global": 4, "batch.cell": 2},
    )
    run = built(composed, tmp_path / "run")
    run.readers.close()
    # 6 steps of two cells; 16 and 24 px are not 12 and 24: sizes are multiples of 8
    assert [run.view.size_at(step) for step in (0, 5)] == [16, 24]
    spent = rehearsal.estimate(
        run, rehearsal.Speed(load_s=0.01, first_cell_s=0.3, next_cell_s=0.1, side=24)
    )
    compute = 0.4 * ((16 / 24) ** 2 + 1) / 2
    assert spent.compute_s == pytest.approx(compute) and spent.load_s == pytest.approx(0.04)
    judged = (1 + 1 + 1) * 4  # after each epoch with one view, and at the end with two
    assert spent.total_s == pytest.approx(6 * (compute + 0.04) + judged * (0.1 / 2 / 3 + 0.01))
    assert spent.limit == "compute"


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e4])
def test_an_absurd_first_loss_is_refused(tmp_path: Path, scale: float) -> None:
    module = Own(scale=scale)
    with torch.no_grad():  # sure of class b, scale or not
        module.head.bias.copy_(torch.tensor([0.0, 1.0]))
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run", module)
    with pytest.raises(DivergedError) as caught:
        rehearse(run)
    assert caught.value.finding == ("loss-at-start" if math.isfinite(scale) else "not-finite")


def test_an_unusual_first_loss_is_warned_of(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set"), **{"batch.global": 12}), tmp_path / "run", Own())
    with torch.no_grad():  # a network that is sure of class a, on as many images of a as of b
        run.state.model.get_parameter("head.bias").copy_(torch.tensor([6.0, 0.0]))
        run.state.model.get_parameter("head.weight").zero_()
    assert rehearse(run)["loss-at-start"].severity == "warning"


class Hungry(Own):
    """A network that runs out of memory in training, as a GPU would say it, with more images
    than ``room``.
    """

    room = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_a_cell_that_does_not_fit_names_the_way_out(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"), **{"batch.global": 8})
    with pytest.raises(ConfigError) as caught:
        rehearse(built(composed, tmp_path / "run", Hungry()))
    assert (
        caught.value.finding == "out-of-memory" and "--set batch.cell=4 or less" in caught.value.fix
    )


def test_the_largest_cell_that_fits_is_found(tmp_path: Path) -> None:
    hungry = Hungry()
    hungry.room = 3
    with pytest.raises(ConfigError, match="8 images") as caught:
        rehearse(
            built(
                asked(make_set(tmp_path / "set"), **{"batch.global": 8}), tmp_path / "run", hungry
            )
        )
    assert "--set batch.cell=2 fits (tried)" in caught.value.fix


def test_memory_that_runs_out_later_is_explained(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set"), **{"batch.global": 8}), tmp_path / "run")
    with (
        pytest.raises(ConfigError, match="at step 0, with cells of 8 images") as caught,
        out_of_memory.explained(run),
    ):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"
        )
    assert (
        "the same command continues" in caught.value.fix and caught.value.finding == "out-of-memory"
    )
    with pytest.raises(RuntimeError, match="sizes"), out_of_memory.explained(run):
        raise RuntimeError("sizes differ")
    run.readers.close()


def test_the_trial_can_be_stopped(tmp_path: Path) -> None:
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run")

    def stop() -> None:
        raise PreemptedError("asked to stop")

    with pytest.raises(PreemptedError):
        checks.trial(run, QUIET, stop)
    run.readers.close()


def test_checkpoints_that_do_not_fit_onto_the_disk_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = built(asked(make_set(tmp_path / "set")), tmp_path / "run")
    one = sum(
        t.numel() * t.element_size()
        for group in run.state.tensors().values()
        for t in group.values()
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=4 * one))
    with pytest.raises(DiskError) as caught:
        rehearse(run)
    assert caught.value.finding == "disk-space"


def test_check_lists_errors_instead_of_raising_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_set(tmp_path / "set")
    threads = torch.get_num_threads()
    sound = checks.check(asked(data), QUIET)
    assert "time" in [f.id for f in sound] and json.dumps([f.to_json() for f in sound])
    shutil.rmtree(data / "val")
    refused = checks.check(asked(data), QUIET)
    assert [(f.id, f.severity, f.status) for f in refused] == [("no-val-split", "error", 65)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
    assert torch.get_num_threads() == threads


def test_the_built_in_digits_are_sound() -> None:
    assert errors(found(compose(Request()))) == {}


def test_compiling_is_tried_only_within_its_budget_and_kept_only_where_it_pays() -> None:
    assert compile.worth_trying("cpu", 1e9) == (False, "does not pay on a CPU")
    assert not compile.worth_trying("cuda", 600)[0] and "2%" in compile.worth_trying("cuda", 600)[1]
    assert compile.worth_trying("cuda", 36000)[0]
    assert compile.worth_keeping(0.100, 0.080)[0] and not compile.worth_keeping(0.100, 0.097)[0]
    assert "80.0 ms compiled" in compile.worth_keeping(0.100, 0.080)[1]
