"""CIFAR: every official form of the same images is the same dataset, and nothing in a pickle can
run.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade import recipes
from saccade.data.images import decode
from saccade.data.sources import Split, open_source
from saccade.data.sources.pickled import plain_values
from saccade.errors import DataError
from saccade.setup.default_recipe import typical_side

Files = dict[str, bytes]

CLASSES = {
    10: ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    100: tuple(f"thing_{number:02d}" for number in range(100)),
}
PER_BATCH = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def python2(value: Any, order: str = "C") -> bytes:
    """Write a value as ``cPickle`` of Python 2 did with protocol 2: strings are byte strings."""

    def write(item: Any) -> bytes:
        match item:
            case dict():
                return b"}q\1(" + b"".join(write(k) + write(v) for k, v in item.items()) + b"u"
            case list():
                return b"]r\2\1\0\0(" + b"".join(map(write, item)) + b"e"
            case bool():
                return b"\x88" if item else b"\x89"
            case int():
                return b"K" + bytes([item]) if item < 256 else b"M" + struct.pack("<H", item)
            case bytes():
                head = (
                    b"U" + bytes([len(item)])
                    if len(item) < 256
                    else b"T" + struct.pack("<I", len(item))
                )
                return head + item + b"q\3"
            case np.ndarray():
                kind = b"cnumpy\ndtype\nq\4U\2u1K\0K\1\x87Rq\5"
                kind += b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
                new = b"cnumpy.core.multiarray\n_reconstruct\n"
                new += b"q\6cnumpy\nndarray\nq\7K\0\x85U\1b\x87Rq\x08"
                shape = b"".join(write(n) for n in item.shape) + b"\x86"
                flag = write(order == "F")
                return new + b"(K\1" + shape + kind + flag + write(item.tobytes(order)) + b"tb"
        raise TypeError(item)

    return b"\x80\2" + write(value) + b"."


class Set:
    """A small set in the place of CIFAR-10 or CIFAR-100: pixels (batches, n, 3072) and labels
    (batches, n).
    """

    def __init__(self, num_classes: int) -> None:
        rng = np.random.default_rng(num_classes)
        self.classes = CLASSES[num_classes]
        self.num_batches = 5 if num_classes == 10 else 1
        self.pixels = rng.integers(0, 256, (self.num_batches + 1, PER_BATCH, 3072), np.uint8)
        self.labels = rng.integers(0, num_classes, (self.num_batches + 1, PER_BATCH))
        self.labels[:, :11] = rng.permuted(
            np.tile(np.r_[0:10, num_classes - 1], (self.num_batches + 1, 1)), axis=1
        )
        names = (
            [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
            if num_classes == 10
            else ["train", "test"]
        )
        self.names = names

    def python(self, order: str = "C") -> Files:
        if self.num_batches == 5:
            extra, key, meta = {}, b"labels", ("batches.meta", b"label_names")
        else:
            extra, key, meta = (
                {b"coarse_labels": [1] * PER_BATCH},
                b"fine_labels",
                ("meta", b"fine_label_names"),
            )
        tree = {}
        for name, pixels, labels in zip(self.names, self.pixels, self.labels, strict=True):
            filenames = [f"{name}_{i}.png".encode() for i in range(PER_BATCH)]
            batch = {
                b"batch_label": b"a batch",
                key: labels.tolist(),
                b"data": pixels,
                b"filenames": filenames,
            }
            tree[name] = python2(batch | extra, order)
        tree[meta[0]] = python2(
            {b"num_vis": 3072, meta[1]: [name.encode() for name in self.classes]}
        )
        return tree

    def binary(self) -> Files:
        coarse = b"" if self.num_batches == 5 else b"\7"
        tree = {
            f"{name}.bin": b"".join(
                coarse + bytes([k]) + x.tobytes() for x, k in zip(pixels, labels, strict=True)
            )
            for name, pixels, labels in zip(self.names, self.pixels, self.labels, strict=True)
        }
        meta = "batches.meta.txt" if self.num_batches == 5 else "fine_label_names.txt"
        return tree | {meta: ("\n".join(self.classes) + "\n\n").encode()}

    def expected(self, split: str) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
        chosen = slice(0, -1) if split == "train" else slice(-1, None)
        pixels, labels = self.pixels[chosen].reshape(-1, 3072), self.labels[chosen].reshape(-1)
        return {
            (self.classes[k], f"{i:05d}.ppm"): x.reshape(3, 32, 32).transpose(1, 2, 0)
            for i, (x, k) in enumerate(zip(pixels, labels, strict=True))
        }


def folder(path: Path, tree: Files) -> Path:
    path.mkdir(parents=True)
    for name, data in tree.items():
        (path / name).write_bytes(data)
    return path


def tar_gz(path: Path, top: str, tree: Files) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in (tree | {"readme.html": b"<html>"}).items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(out.getvalue(), 1))
    return path


def zipped(path: Path, tree: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return path


CONTAINERS: dict[str, Callable[[Path, Set], Path]] = {
    "python archive": lambda p, s: tar_gz(p / "cifar-python.tar.gz", "cifar-py", s.python()),
    "binary archive": lambda p, s: tar_gz(p / "cifar-binary.tar.gz", "cifar-bin", s.binary()),
    "python folder": lambda p, s: folder(p / "cifar-py", s.python()),
    "python folder, columns first": lambda p, s: folder(p / "cifar-py", s.python("F")),
    "binary folder": lambda p, s: folder(p / "cifar-bin", s.binary()),
    "folder around the folder": lambda p, s: folder(p / "data" / "cifar-py", s.python()).parent,
    "zip": lambda p, s: zipped(p / "cifar.zip", s.python()),
}


def shown(split: Split) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    return {
        (split.classes[k], name): decode.decode(split.read(i))
        for i, (k, name) in enumerate(zip(split.labels, split.names, strict=True))
    }


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_official_form_is_the_same_dataset(
    tmp_path: Path, kind: str, num_classes: int
) -> None:
    small = Set(num_classes)
    source = open_source(CONTAINERS[kind](tmp_path, small))
    assert list(source.splits) == ["test", "train"] and not source.ignored and not source.notes
    same = open_source(folder(tmp_path / "same", small.binary()))
    for name, split in source.splits.items():
        expected = small.expected(name)
        assert len(split) == len(expected) and set(split.classes) == {key[0] for key in expected}
        assert list(
            zip((split.classes[k] for k in split.labels), split.names, strict=True)
        ) == sorted(expected)
        for key, pixels in shown(split).items():
            assert np.array_equal(pixels, expected[key])
        assert all(len(split.read(i)) == size for i, size in enumerate(split.sizes))
        assert split.fingerprint == same.splits[name].fingerprint
    assert recipes.default_for(source.name, 50_000, typical_side(source)) == "cifar10"
    assert recipes.default_for(source.name, 5_000, typical_side(source)) == "small-images"


def test_the_writer_of_these_tests_writes_what_pickle_reads() -> None:
    pixels = np.arange(6144, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    value = {b"data": pixels, b"labels": [3, 300], b"name": b"x" * 300}
    for order in "CF":
        for read in (lambda data: pickle.loads(data, encoding="bytes"), plain_values):
            found = read(python2(value, order))
            assert np.array_equal(found[b"data"], pixels) and found[b"labels"] == [3, 300]
            assert bytes(found[b"name"]) == b"x" * 300


@pytest.mark.fault("F1")
def test_a_pickle_cannot_run_anything(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    evil = pickle.dumps(Evil(), protocol=2)
    pickle.loads(evil)
    assert canary.is_dir(), "the control: this pickle really runs"
    canary.rmdir()
    attacks = (evil, pickle.dumps(os.system, protocol=2), b"\x80\2cbuiltins\nexec\nU\x010\x85R.")
    for number, attack in enumerate(attacks):
        tree = Set(10).python() | {"data_batch_3": attack}
        with pytest.raises(
            DataError, match=r"data_batch_3: it tries to use .*no code was run"
        ) as caught:
            open_source(folder(tmp_path / f"cifar-{number}", tree))
        assert caught.value.status == 65 and not canary.exists()


BATCH = Set(10).python()["data_batch_1"]


@given(st.integers(0, len(BATCH) - 1), st.binary(min_size=0, max_size=4))
def test_a_damaged_pickle_is_refused_or_read_but_never_breaks(place: int, change: bytes) -> None:
    for damaged in (BATCH[:place], BATCH[:place] + change + BATCH[place + len(change) :]):
        try:
            assert isinstance(plain_values(damaged), dict)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "ends too early"),
        (b"\x80\4K\0.", "protocol 2"),
        (b"\x80\2K\0.", "not contain a dictionary"),
        (b"\x80\2}q", "ends too early"),
        (b"\x80\2h\7.", "damaged"),
        (b"\x80\2T\xff\xff\xff\xffx.", "ends too early"),
        (b"\x80\2(((u.", "damaged"),
        (b"\x80\2cnumpy\nndarray\n(tR.", "not an array of bytes"),
        (b"\x80\2P1\n.", "'P'"),
    ],
)
def test_what_is_no_batch_is_refused_with_the_reason(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        plain_values(data)


def changed(tree: Files, name: str, **values: Any) -> Files:
    batch = pickle.loads(tree[name], encoding="bytes")
    return tree | {name: python2(batch | {key.encode(): value for key, value in values.items()})}


def test_damage_names_the_file(tmp_path: Path) -> None:
    small, large = Set(10), Set(100)
    trees = {
        "data_batch_2 has|are missing: data_batch_2": {
            k: v for k, v in small.python().items() if k != "data_batch_2"
        },
        "data_batch_4.bin: .* not a whole number of records": small.binary()
        | {"data_batch_4.bin": small.binary()["data_batch_4.bin"][:-1]},
        "test_batch.bin: 0 bytes": small.binary() | {"test_batch.bin": b""},
        "'train' have 1 labels": changed(small.python(), "data_batch_1", labels=[1]),
        "has label 10, but there are 10": changed(
            small.python(), "test_batch", labels=[10] * PER_BATCH
        ),
        "data_batch_5: 'labels' is not a list of int": changed(
            small.python(), "data_batch_5", labels=[b"1"] * PER_BATCH
        ),
        "data_batch_5: 'data' is not an array": changed(
            small.python(), "data_batch_5", data=np.zeros((12, 30), np.uint8)
        ),
        "used as folder names": changed(
            small.python(), "batches.meta", label_names=[b"../up"] * 10
        ),
        "train: the file ends too early": large.python()
        | {"train": large.python()["train"][:-1000]},
        "meta: 'fine_label_names' is not a list": large.python()
        | {"meta": python2({b"label_names": [b"a"]})},
    }
    for number, (what, tree) in enumerate(trees.items()):
        with pytest.raises(DataError, match=what):
            open_source(folder(tmp_path / str(number), tree))


def test_two_sets_in_one_folder_are_not_chosen_between(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "cifar-10-batches-py", Set(10).python())
    folder(tmp_path / "data" / "cifar-100-python", Set(100).python())
    with pytest.raises(DataError, match="more than one data set") as caught:
        open_source(tmp_path / "data")
    assert "'cifar-100-python'" in caught.value.where


@pytest.mark.full
@pytest.mark.spec(7)
def test_the_command_line_trains_on_the_archive(tmp_path: Path) -> None:
    tar_gz(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", Set(10).python())
    command = [
        sys.executable,
        "-m",
        "saccade",
        "train",
        "resnet8",
        "--data",
        "cifar-10-python.tar.gz",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--epochs", "2step"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (
        "recipe small-images" in done.stderr and "60 training images, 12 in 'test'" in done.stderr
    )
    assert json.loads(done.stdout)["n"] == 12


def test_a_folder_with_images_is_a_folder_of_images(tmp_path: Path) -> None:
    place = folder(tmp_path / "data", Set(10).python())
    for split in ("train", "val"):
        folder(place / split / "cat", {"a.ppm": b"P6\n1 1\n255\nabc"})
    assert open_source(place).splits["train"].classes == ("cat",)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    place = folder(tmp_path / "cifar", Set(10).python())
    os.truncate(place / "data_batch_1", 300_000_000)  # sparse: takes no space
    with pytest.raises(DataError, match="data_batch_1 has 300000000 bytes, more than"):
        open_source(place)
