"""Images without labels: flat, nested, beside others, in archives; what is left out."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.sources import Source, open_unlabelled
from saccade.errors import DataError


def drawn(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number * 20, 0, 0)).save(path)
    return root


def names_of(source: Source) -> list[str]:
    (split,) = source.splits.values()
    return list(split.names)


def in_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        tar.add(folder, folder.name)
    return folder.with_suffix(".tar")


def in_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as pack:
        for path in sorted(folder.rglob("*.png")):
            pack.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("packed", [lambda folder: folder, in_tar, in_zip])
def test_a_flat_folder_is_read_whole_and_the_same_in_an_archive(
    tmp_path: Path, packed: Callable[[Path], Path]
) -> None:
    folder = drawn(tmp_path / "photos", ["c.png", "a.png", "b.png"])
    (folder / "notes.txt").write_text("no image")
    source, labels = open_unlabelled(str(packed(folder)))
    assert labels == "none"
    assert names_of(source) == ["a.png", "b.png", "c.png"]
    (split,) = source.splits.values()
    assert split.classes == ("images",)
    assert split.fingerprint == open_unlabelled(str(folder))[0].splits[split.name].fingerprint


def test_class_folders_keep_their_labels(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ["cat/1.png", "dog/1.png"])
    source, labels = open_unlabelled(str(folder))
    assert labels == ""
    (split,) = source.splits.values()
    assert split.classes == ("cat", "dog")


def test_images_beside_class_folders_are_learned_from_too(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ["cat/1.png", "dog/1.png", "loose.png"])
    source, labels = open_unlabelled(str(folder))
    assert labels == "none"
    assert names_of(source) == ["cat/1.png", "dog/1.png", "loose.png"]


def test_a_folder_of_validation_images_is_not_learned_from(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ["train/a.png", "more/b.png", "val/c.png", "test/d.png"])
    source, _ = open_unlabelled(str(folder))
    assert {name: list(split.names) for name, split in source.splits.items()} == {
        "train": ["more/b.png", "train/a.png"],
        "val": ["val/c.png"],
        "test": ["test/d.png"],
    }


def test_a_folder_without_images_is_refused_in_the_words_of_its_own_fault(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data at"):
        open_unlabelled(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images to learn from"):
        open_unlabelled(str(tmp_path / "empty"))
