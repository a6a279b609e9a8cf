"""Splits: which one is which, parts of them, and classes by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import make_tar
from saccade.data.sources import Source, Split, hold_out, open_source, train_split, validation_split
from saccade.errors import ConfigError, DataError
from saccade.rng import Purpose


def tar_source(tmp_path: Path, *names: str) -> Source:
    return open_source(make_tar(tmp_path / "x.tar", dict.fromkeys(names, b"x")))


def test_the_validation_split_is_never_the_training_split(tmp_path: Path) -> None:
    order = ["Val", "validation", "valid", "TEST"]
    for first in range(5):
        source = tar_source(
            tmp_path, "train/a/1.jpg", *(f"{name}/a/1.jpg" for name in order[first:])
        )
        found = validation_split(source)
        assert (found.name if found else None) == (order[first] if first < 4 else None)
        assert train_split(source).name == "train"
    whole = tar_source(tmp_path, "a/1.jpg", "b/1.jpg")
    assert validation_split(whole) is None and train_split(whole).name == "all"
    assert validation_split(whole, named=True) is whole.splits["all"]  # --val CLASS_FOLDERS
    both = tar_source(tmp_path, "train/a/1.jpg", "b/1.jpg")
    assert validation_split(both, named=True) is None


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    source = tar_source(tmp_path, "val/a/1.jpg", "test/a/1.jpg")
    assert (found := validation_split(source, "Test")) is not None and found.name == "test"
    with pytest.raises(DataError, match="'valid'; found: test, val"):
        validation_split(source, "valid")
    with pytest.raises(DataError, match="no training split; found: test, val"):
        train_split(source)


def counted(counts: list[int]) -> Split:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{i}.jpg" for i in range(len(labels)))
    classes = tuple(f"{i:02d}" for i in range(len(counts)))
    return Split(
        "train", classes, names, np.arange(len(labels)), labels, lambda i: str(i).encode(), "x"
    )


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 99)
)
def test_a_held_out_share_is_stratified_and_exhaustive(
    counts: list[int], share: float, seed: int
) -> None:
    split = counted(counts)
    rest, held = hold_out(split, share, seed)
    assert sorted(rest.names + held.names) == sorted(split.names)
    assert (rest.name, held.name, rest.classes, held.classes) == (
        "train",
        "holdout",
        split.classes,
        split.classes,
    )
    for label, num in enumerate(counts):
        num_held = int((held.labels == label).sum())
        assert abs(num_held - share * num) <= 1 and (num_held >= 1 or num == 1) and num_held < num
    for side in (rest, held):
        assert [bytes(side.read(i)).decode() + ".jpg" for i in range(len(side))] == list(side.names)
        assert side.sizes.tolist() == [int(name[:-4]) for name in side.names]
        assert side.sizes.tolist() == sorted(side.sizes.tolist())


def test_what_is_held_out_depends_on_the_seed_and_the_purpose_alone() -> None:
    split = counted([50, 70])
    held = [hold_out(split, 0.2, seed)[1].names for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]
    _, mini = hold_out(split, 0.2, 1, Purpose.MINIVAL)
    assert mini.name == "minival" and mini.names != held[0]
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="fraction"):
            hold_out(split, share, 1)


def test_labels_follow_the_class_names_of_another_list() -> None:
    split = counted([2, 1, 3])
    assert split.with_classes(("02", "xx", "00", "01")).labels.tolist() == [2, 2, 3, 0, 0, 0]
    with pytest.raises(DataError, match="unknown classes in the split 'train': 01"):
        split.with_classes(("00", "02"))
