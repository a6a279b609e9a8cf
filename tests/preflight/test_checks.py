"""The preflight: every finding by its id on real folders, the contents pass, the verb."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from small_sets import (
    QUIET,
    asked,
    errors,
    found,
    make_set,
    picture,
)

from saccade import trainer
from saccade.data.archives import stamps
from saccade.data.audit import sample as ledger
from saccade.errors import ConfigError, DataError
from saccade.findings import Finding, listed, refuse
from saccade.preflight import checks, contents
from saccade.setup.compose import Request, compose
from saccade.training import datasets


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


@pytest.mark.spec(6)
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
    verdicts = [next(contents.copies(one, data)) for one in (few, many)]
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
            f"{said} of a typical image" in finding.message.replace("%", " %")
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


def test_training_raises_what_examine_lists(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"), **{"batch.global": 64})
    assert found(composed)["batch-larger-than-data"].severity == "error"
    with pytest.raises(ConfigError) as caught:
        trainer.train(composed, out=str(tmp_path / "run"), log=QUIET)
    assert caught.value.finding == "batch-larger-than-data"


@given(st.lists(st.text("abc", min_size=1), max_size=9), st.integers(0, 20))
def test_a_phrase_accounts_for_every_name(names: list[str], extra: int) -> None:
    phrase = listed(names, len(names) + extra)
    rest = max(len(names) - 4, 0) + extra
    assert phrase == ", ".join(names[:4]) + (f" and {rest} more" if rest else "")


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
