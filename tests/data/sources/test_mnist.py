"""MNIST: the four idx files in every spelling, and what a damaged one says."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from saccade.data.images import decode
from saccade.data.sources import open_source
from saccade.errors import DataError

Files = dict[str, bytes]
COUNTS = {"train": 40, "t10k": 20}


def pixels(split: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(COUNTS[split]).integers(0, 256, (COUNTS[split], 28, 28), np.uint8)


def labels(split: str) -> np.ndarray:  # type: ignore[type-arg]
    return (np.arange(COUNTS[split]) * 7 % 10).astype(np.uint8)


def idx(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return (
        bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    )


def tree(dot: str = "-", packed: bool = True) -> Files:
    files = {}
    for split in COUNTS:
        files[f"{split}-images{dot}idx3-ubyte"] = idx(pixels(split))
        files[f"{split}-labels{dot}idx1-ubyte"] = idx(labels(split))
    return {f"{name}.gz": gzip.compress(data) for name, data in files.items()} if packed else files


def folder(path: Path, files: Files) -> Path:
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
def test_every_spelling_is_the_same_dataset(tmp_path: Path, dot: str, packed: bool) -> None:
    source = open_source(folder(tmp_path / "mnist", tree(dot, packed)))
    assert not source.ignored and not source.notes
    for name, split in (("train", source.splits["train"]), ("t10k", source.splits["test"])):
        assert split.classes == tuple("0123456789") and len(split) == COUNTS[name]
        for i, file in enumerate(split.names):
            place = int(file.removesuffix(".pgm"))
            assert split.labels[i] == labels(name)[place]
            shown = decode.decode(split.read(i))
            assert shown.shape == (28, 28, 3) and np.array_equal(shown[..., 1], pixels(name)[place])
    plain = open_source(folder(tmp_path / "same", tree(packed=False)))
    assert {n: s.fingerprint for n, s in plain.splits.items()} == {
        n: s.fingerprint for n, s in source.splits.items()
    }


def test_a_folder_that_says_fashion_has_the_names_of_clothes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "fashion_mnist.zip", "w") as archive:
        for name, data in tree().items():
            archive.writestr(name, data)
    places = (
        folder(tmp_path / "Fashion-MNIST", tree()),
        folder(tmp_path / "a" / "FashionMNIST" / "raw", tree()),
        tmp_path / "a",
        tmp_path / "fashion_mnist.zip",
    )
    for place in places:
        split = open_source(place).splits["train"]
        number = int(split.names[0].removesuffix(".pgm"))
        assert (
            split.classes[0] == "Ankle boot"
            and labels("train")[number] == 9
            and "T-shirt-top" in split.classes
        )
    assert open_source(folder(tmp_path / "digits", tree())).splits["train"].classes[9] == "9"


def test_plain_files_beside_the_packed_ones_are_no_second_set(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path / "MNIST" / "raw", tree() | tree(packed=False)).parent)
    assert len(source.splits["train"]) == 40


def test_a_cut_or_foreign_file_is_named(tmp_path: Path) -> None:
    image, label = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    plain, whole = tree(packed=False), gzip.compress(idx(pixels("train")))
    huge = bytes((0, 0, 8, 3)) + b"\xff" * 12
    damaged = {
        f"{image}: the header declares 31360 bytes, but there are 31359": plain
        | {image: plain[image][:-1]},
        f"{image}: the header declares 31360 bytes, but there are 31361": plain
        | {image: plain[image] + b"x"},
        f"{image}: the header declares 4294967295 x": plain | {image: huge},
        f"{image}: it does not begin like": plain | {image: plain[label]},
        f"{image}: it does not begin": plain | {image: b"\0\0"},
        f"{image}.gz: the compressed data is truncated": tree() | {f"{image}.gz": whole[:-100]},
        f"{image}.gz: .* more than the header": tree() | {f"{image}.gz": whole + b"more"},
        f"{image}.gz: it cannot be decompressed": tree()
        | {f"{image}.gz": whole[:5000] + b"\xff" * 9 + whole[5009:]},
        f"{image}.gz: the header declares .* bytes": tree() | {f"{image}.gz": gzip.compress(huge)},
        "'train' have 39 labels": plain | {label: idx(labels("train")[1:])},
        "has label 10, but there are 10 classes": plain | {label: idx(labels("train") + 1)},
        f"are missing: {label}": {name: data for name, data in plain.items() if name != label},
    }
    for number, (what, files) in enumerate(damaged.items()):
        with pytest.raises(DataError, match=what):
            open_source(folder(tmp_path / str(number), files))


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    bomb = gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)) + bytes(50_000_000))
    with pytest.raises(DataError, match="more than the header declares"):
        open_source(folder(tmp_path / "mnist", tree() | {"train-images-idx3-ubyte.gz": bomb}))
