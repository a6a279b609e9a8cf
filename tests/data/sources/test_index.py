"""The kept index: an archive is parsed once, and never believed when it changed."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from containers import tar_bytes
from saccade import cache, files
from saccade.data.archives import stamps
from saccade.data.sources import Source, archive, open_source
from saccade.data.sources import index as module

Tree = dict[str, bytes]

TREE: Tree = {
    f"pets/{split}/{name}/{i}{'é' * (i % 2)}.jpg": bytes([i]) * (40 + i)
    for split in ("train", "val")
    for name in ("Ähre", "cat")
    for i in range(4)
} | {"pets/train/empty/note.txt": b"", "pets/.git/x": b"", "pets/cover.jpg": b"x"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def zip_bytes(tree: Tree) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, data) in enumerate(tree.items()):
            archive.writestr(name, data, zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED)
    return out.getvalue()


def nested_bytes(tree: Tree) -> bytes:
    images = {name.removeprefix("pets/"): data for name, data in tree.items()}
    inner = {
        split: tar_bytes({k.partition("/")[2]: v for k, v in images.items() if k.startswith(split)})
        for split in ("train", "val")
    }
    return tar_bytes({f"{split}.tar": data for split, data in inner.items()})


WRITERS: dict[str, Callable[[Tree], bytes]] = {
    "tar": tar_bytes,
    "nested.tar": nested_bytes,
    "zip": zip_bytes,
}


@pytest.fixture(autouse=True)
def settled_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe the clock of the file system to the nanosecond, but where the tests are about
    that.
    """
    if "just_now" not in request.node.name:
        monkeypatch.setattr(stamps, "SETTLED_S", 0.0)


def settled(path: Path, data: bytes | None = None, age_s: float = 3600) -> Path:
    """Write a file that was last changed long ago."""
    if data is not None:
        path.write_bytes(data)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def seen(source: Source) -> object:
    """Everything that a source says."""
    splits = {
        name: (
            split.fingerprint,
            replace(split).fingerprint,
            split.classes,
            split.empty_classes,
            split.folder,
            list(split.names),
            split.labels.tolist(),
            split.sizes.tolist(),
            [bytes(split.read(i)) for i in range(len(split))],
            split.describe(0),
        )
        for name, split in source.splits.items()
    }
    return (
        splits,
        source.name,
        source.where,
        dict(source.ignored),
        source.ignored_names,
        source.notes,
    )


def index_folder() -> Path:
    (folder,) = (cache.folder() / "index").iterdir()
    return folder


@pytest.mark.parametrize("kind", WRITERS)
def test_the_second_start_sees_the_same(tmp_path: Path, kind: str) -> None:
    path = settled(tmp_path / f"pets.{kind}", WRITERS[kind](TREE))
    first = seen(open_source(path))
    before = (index_folder() / "manifest.json").stat().st_mtime_ns
    assert seen(open_source(path)) == first
    assert (index_folder() / "manifest.json").stat().st_mtime_ns == before


def test_the_second_start_does_not_read_the_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    first = seen(open_source(path))

    def read_headers(*_: object) -> Any:
        raise AssertionError("the headers are read")

    monkeypatch.setattr(archive, "index_tar", read_headers)
    assert seen(open_source(path)) == first
    shutil.copy(path, tmp_path / "copy.tar")
    with pytest.raises(AssertionError):
        open_source(tmp_path / "copy.tar")


@pytest.mark.parametrize("kind", ["tar", "zip", "tar.gz"])
def test_contents_exchanged_under_the_same_size_time_and_inode_are_seen(
    tmp_path: Path, kind: str
) -> None:
    """Only the ctime tells, which no program can set back."""
    pack = {
        "tar": tar_bytes,
        "zip": zip_bytes,
        "tar.gz": lambda tree: gzip.compress(tar_bytes(tree), 0),
    }[kind]
    other = {
        name.replace("cat", "cow"): bytes(255 - value for value in data)
        for name, data in TREE.items()
    }
    path = settled(tmp_path / f"pets.{kind}", pack(TREE))
    facts, data = path.stat(), pack(other)
    assert len(data) == facts.st_size and "cat" in open_source(path).splits["train"].classes
    time.sleep(0.02)  # longer than a tick of the file system's clock
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ino,
    )
    split = open_source(path).splits["train"]
    assert "cow" in split.classes and "cat" not in split.classes
    assert bytes(split.read(0)) == next(
        data for name, data in sorted(other.items()) if "train/cow" in name
    )


def test_a_changed_archive_is_indexed_again(tmp_path: Path) -> None:
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    facts = path.stat()
    assert len(open_source(path).splits["train"]) == 8
    fewer = {name: data for name, data in TREE.items() if name != "pets/train/cat/0.jpg"}
    fewer["pets/train/dog/0.jpg"] = b"new"
    data = tar_bytes(fewer)
    assert len(data) == facts.st_size
    settled(path, data, age_s=1800)  # same path, inode and size
    assert open_source(path).splits["train"].classes == ("cat", "dog", "Ähre")
    other = settled(tmp_path / "other.tar", tar_bytes(TREE), age_s=1800)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)  # same path, size and time of change
    assert open_source(path).splits["train"].classes == ("cat", "Ähre")
    assert index_folder().is_dir()


def test_an_archive_that_changed_just_now_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "pets.tar").write_bytes(tar_bytes(TREE))
    open_source(tmp_path / "pets.tar")
    assert not (cache.folder() / "index").exists()


def test_the_copy_of_a_compressed_tar_is_indexed_once(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(TREE)))
    first = seen(open_source(path))
    assert seen(open_source(path)) == first == seen(open_source(path))
    assert index_folder().is_dir()


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "one bit": flipped,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]) and None,
    "emptied": lambda file: file.write_bytes(b"") and None,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_index_is_ignored_and_written_again(tmp_path: Path, harm: str) -> None:
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    first = seen(open_source(path))
    names = sorted(file.name for file in index_folder().iterdir())
    assert {"index.json", "manifest.json", "names.txt", "offsets.i8", "train-labels.i8"} < set(
        names
    )
    for name in names:
        HARMS[harm](index_folder() / name)
        assert seen(open_source(path)) == first
        files.verify_folder(index_folder())
        assert sorted(file.name for file in index_folder().iterdir()) == names


def test_an_index_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    first = seen(open_source(path))
    for version in ("FORMAT", "INDEX_VERSION"):
        monkeypatch.setattr(module, version, 99)
        assert seen(open_source(path)) == first
        assert 99 in files.read_json(index_folder() / "index.json")["identity"]


def test_without_a_cache_folder_everything_works(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    assert seen(open_source(path)) == seen(open_source(path))


def test_validation_labels_are_read_anew(tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(4)]
    path = settled(
        tmp_path / "ILSVRC2012_img_val.tar", tar_bytes({f"{name}.JPEG": b"x" for name in names})
    )
    for labels in ("0011", "1001"):
        rows = [
            f"{name},n0000000{label} 1 2 3 4" for name, label in zip(names, labels, strict=True)
        ]
        (tmp_path / "LOC_val_solution.csv").write_text(
            "\n".join(["ImageId,PredictionString", *rows])
        )
        split = open_source(path).splits["val"]
        wanted = sorted(
            (f"n0000000{label}", f"{name}.JPEG") for name, label in zip(names, labels, strict=True)
        )
        assert [
            (split.classes[k], name) for k, name in zip(split.labels, split.names, strict=True)
        ] == wanted


def test_parts_of_a_kept_split_have_their_own_fingerprints(tmp_path: Path) -> None:
    path = settled(tmp_path / "pets.tar", tar_bytes(TREE))
    for _ in range(2):
        split = open_source(path).splits["train"]
        prints = {split.fingerprint, split.subset(np.arange(3), "x").fingerprint}
        prints.add(split.with_classes(("cat", "dog", "Ähre")).fingerprint)
        assert len(prints) == 3 and replace(split, name="other").fingerprint == split.fingerprint
