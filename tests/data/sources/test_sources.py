"""Sources: the same images in any container are the same dataset."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import random
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saccade import cache
from saccade.data.images import decode
from saccade.data.sources import open_source
from saccade.data.sources.layout import arrange
from saccade.errors import DataError

IMAGENETTE = Path(__file__).parents[4] / "shared" / "data" / "imagenette224.tar"

Tree = dict[str, bytes]


def jpeg_file(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((20 + seed, 16)).save(out, "JPEG")
    return out.getvalue()


CLASSES = ("n01", "n02 cat", "Ähre")
TREE: Tree = {
    f"{split}/{name}/{'deep/' if i == 2 else ''}{i}.{'JPEG' if i % 2 else 'jpg'}": jpeg_file(
        7 * i + len(split)
    )
    for split in ("train", "val")
    for name in CLASSES
    for i in range(5 if split == "train" else 2)
}


def expected_fingerprint(split: str) -> str:
    lines = "saccade index 1\n" + "".join(f"{name}\0\n" for name in CLASSES)
    for key in sorted(key for key in TREE if key.startswith(split)):
        _, folder, file = key.split("/", 2)
        lines += f"{folder}\0{file}\0{len(TREE[key])}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


FINGERPRINTS = {name: expected_fingerprint(name) for name in ("train", "val")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def make_folder(path: Path, tree: Tree) -> Path:
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tar_bytes(tree: Tree, prefix: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in tree.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_zip(path: Path, tree: Tree, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def shuffled(tree: Tree) -> Tree:
    names = list(tree)
    random.Random(3).shuffle(names)
    return {name: tree[name] for name in names}


def decomposed(tree: Tree) -> Tree:
    return {unicodedata.normalize("NFD", name): data for name, data in tree.items()}


CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda p: make_folder(p / "pets", TREE),
    "folder in a folder": lambda p: make_folder(p / "outer" / "pets", TREE).parent,
    "folder of NFD names": lambda p: make_folder(p / "pets", decomposed(TREE)),
    "tar": lambda p: written(p / "pets.tar", tar_bytes(TREE)),
    "shuffled tar": lambda p: written(p / "pets.tar", tar_bytes(shuffled(TREE))),
    "tar of a folder": lambda p: written(p / "pets.tar", tar_bytes(TREE, "pets/")),
    "tar of here": lambda p: written(p / "pets.tar", tar_bytes(TREE, "./")),
    "tar of NFD names": lambda p: written(p / "pets.tar", tar_bytes(decomposed(TREE))),
    "tar.gz": lambda p: written(p / "pets.tar.gz", gzip.compress(tar_bytes(TREE))),
    "tgz": lambda p: written(p / "pets.tgz", gzip.compress(tar_bytes(shuffled(TREE), "pets/"))),
    "tar.xz": lambda p: written(p / "pets.tar.xz", lzma.compress(tar_bytes(TREE))),
    "zip": lambda p: make_zip(p / "pets.zip", TREE),
    "stored zip": lambda p: make_zip(p / "pets.zip", shuffled(TREE), zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_of_a_tree_is_the_same_dataset(tmp_path: Path, kind: str) -> None:
    source = open_source(CONTAINERS[kind](tmp_path))
    assert list(source.splits) == ["train", "val"] and not source.ignored and not source.notes
    for name, split in source.splits.items():
        expected = sorted(
            (key.split("/")[1], "/".join(key.split("/")[2:]))
            for key in TREE
            if key.startswith(name)
        )
        assert split.classes == CLASSES and len(split) == len(expected)
        assert [
            (split.classes[label], file)
            for label, file in zip(split.labels, split.names, strict=True)
        ] == expected
        for i, (folder, file) in enumerate(expected):
            data = TREE[f"{name}/{folder}/{file}"]
            assert bytes(split.read(i)) == data and split.sizes[i] == len(data)
            assert split.describe(i) == f"{name}/{folder}/{file} in {Path(source.where).name}"
            assert np.array_equal(decode.decode(split.read(i)), decode.decode(data))
        assert split.fingerprint == FINGERPRINTS[name]


def test_the_fingerprint_changes_with_every_part_of_the_index(tmp_path: Path) -> None:
    def fingerprint(tree: Tree) -> str:
        return open_source(written(tmp_path / "x.tar", tar_bytes(tree))).splits["train"].fingerprint

    base = {"train/a/1.jpg": b"xy", "train/b/2.jpg": b"xy"}
    others: list[Tree] = [
        {"train/a/1.jpg": b"xyz", "train/b/2.jpg": b"xy"},
        {"train/a/1.jpg": b"xy", "train/b/3.jpg": b"xy"},
        {"train/a/1.jpg": b"xy", "train/c/2.jpg": b"xy"},
        {"train/a/1.jpg": b"xy", "train/a/2.jpg": b"xy"},
        {"train/a/1.jpg": b"xy"},
    ]
    assert len({fingerprint(tree) for tree in [base, *others]}) == 6
    beside = {
        "train/a/1.jpg": b"ab",
        "train/b/2.jpg": b"zz",
        "val/a/1.jpg": b"xy",
        "train/a/note.txt": b"",
    }
    assert fingerprint(beside) == fingerprint(base)


def test_many_threads_read_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("folder", "tar", "zip"):
        place = tmp_path / kind
        place.mkdir()
        split = open_source(CONTAINERS[kind](place)).splits["train"]
        wanted = [bytes(split.read(i)) for i in range(len(split))]
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda i, read=split.read: bytes(read(i)), list(range(len(split))) * 20)
            )
        assert found == wanted * 20


# layout

FOLDERS = st.sampled_from(["train", "val", "Test", "cat", "dog", ".git", "__MACOSX", "pets", "ü"])
FILES = st.sampled_from(["1.jpg", "2.PNG", "a.txt", "._1.jpg", "Thumbs.db", "x"])
PATHS = st.lists(
    st.builds(
        lambda folders, file: "/".join([*folders, file]), st.lists(FOLDERS, max_size=4), FILES
    ),
    max_size=25,
    unique=True,
)


def picture(paths: list[str], folders: list[str]) -> object:
    """Everything that a layout says, with names instead of places."""
    try:
        layout = arrange(paths, folders)
    except ValueError:
        return "refused"
    parts = {
        name: (
            p.folder,
            p.classes,
            p.empty_classes,
            p.names,
            p.labels.tolist(),
            [paths[i] for i in p.places],
        )
        for name, p in layout.parts.items()
    }
    return parts, dict(layout.ignored), layout.ignored_names, layout.notes


@given(PATHS, st.lists(FOLDERS, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_a_listing_plays_no_part(
    paths: list[str], folders: list[str], order: random.Random
) -> None:
    mixed, mixed_folders = order.sample(paths, len(paths)), order.sample(folders, len(folders))
    assert picture(paths, folders) == picture(mixed, mixed_folders)


@given(PATHS)
def test_every_file_is_either_indexed_once_or_counted(paths: list[str]) -> None:
    try:
        layout = arrange(paths)
    except ValueError:
        return
    places = [place for part in layout.parts.values() for place in part.places.tolist()]
    assert len(set(places)) == len(places)
    assert len(places) + sum(layout.ignored.values()) == len(paths)
    for part in layout.parts.values():
        rows = list(zip(part.labels.tolist(), part.names, strict=True))
        assert rows == sorted(rows) and set(part.labels.tolist()) == set(range(len(part.classes)))
        assert list(part.classes) == sorted(part.classes)
        for row, place in zip(rows, part.places.tolist(), strict=True):
            assert paths[place].endswith(
                "/".join([*filter(None, [part.folder]), part.classes[row[0]], row[1]])
            )


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["cat/1.jpg", "dog/1.jpg"], {"all": ["cat", "dog"]}),
        (["pets/cat/1.jpg", "pets/dog/1.jpg"], {"all": ["cat", "dog"]}),
        (["pets/cover.jpg", "pets/cat/1.jpg", "pets/dog/1.jpg"], {"all": ["cat", "dog"]}),
        (
            ["cover.jpg", "pets/train/cat/1.jpg", "pets/test/cat/1.jpg"],
            {"train": ["cat"], "test": ["cat"]},
        ),
        (["Train/cat/1.jpg", "Validation/cat/1.jpg"], {"Train": ["cat"], "Validation": ["cat"]}),
        (
            ["train/cat/a/1.jpg", "train/cat/b/1.jpg", "valid/dog/1.jpg"],
            {"train": ["cat"], "valid": ["dog"]},
        ),
        (
            ["train/train/1.jpg", "train/bus/1.jpg", "val/bus/1.jpg"],
            {"train": ["bus", "train"], "val": ["bus"]},
        ),
        (["train/cat/1.jpg", "extra/dog/1.jpg"], {"train": ["cat"]}),
        (["1.jpg", "2.jpg"], {}),
        ([], {}),
    ],
)
@pytest.mark.spec(6)
def test_splits_and_classes_of_a_tree(paths: list[str], splits: dict[str, list[str]]) -> None:
    assert {name: list(part.classes) for name, part in arrange(paths).parts.items()} == splits


@pytest.mark.parametrize(
    "paths",
    [
        ["train/cat/1.jpg", "Train/cat/2.jpg"],
        ["cat/train/1.jpg", "dog/train/1.jpg"],
        ["docs/figures/1.jpg", "data/train/cat/1.jpg"],
        ["train/train/cat/1.jpg", "train/val/cat/1.jpg"],
    ],
)
def test_an_ambiguous_tree_is_refused(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(DataError, match="split folder"):
        open_source(written(tmp_path / "x.tar", tar_bytes(dict.fromkeys(paths, b"x"))))


def test_what_is_not_a_labelled_image_is_counted_by_reason(tmp_path: Path) -> None:
    extra = {
        "train/n01/.DS_Store": b"",
        "train/n01/._1.jpg": b"",
        "__MACOSX/train/n01/1.jpg": b"",
        "train/n01/Thumbs.db": b"",
        ".git/x.jpg": b"",
        "train/n01/notes.txt": b"",
        "README": b"",
        "train/loose.jpg": b"x",
        "extra/n01/1.jpg": b"x",
    }
    for path in (
        make_folder(tmp_path / "pets", TREE | extra),
        written(tmp_path / "x.tar", tar_bytes(TREE | extra)),
    ):
        source = open_source(path)
        assert source.splits["train"].fingerprint == FINGERPRINTS["train"]
        assert dict(source.ignored) == {
            "hidden or system file": 5,
            "not an image by its name (.txt)": 1,
            "not an image by its name (no suffix)": 1,
            "image outside a class folder": 1,
            "image beside the split folders": 1,
        }
        assert source.ignored_names == (
            "README",
            "extra/n01/1.jpg",
            "train/loose.jpg",
            "train/n01/notes.txt",
        )


def test_class_folders_without_images_are_known_but_no_classes(tmp_path: Path) -> None:
    tree = TREE | {"train/n03/readme.txt": b"", "train/.hidden/x.jpg": b""}
    folder = make_folder(tmp_path / "pets", tree)
    (folder / "val" / "n04").mkdir()
    (folder / "test").mkdir()
    source = open_source(folder)
    assert source.splits["train"].empty_classes == ("n03",) and source.splits[
        "val"
    ].empty_classes == ("n04",)
    assert source.splits["train"].classes == CLASSES
    assert source.notes == ("the folder 'test' has no images in class folders",)
    with zipfile.ZipFile(make_zip(tmp_path / "x.zip", {"cat/1.jpg": b"x"}), "a") as archive:
        archive.mkdir("dog")
    assert open_source(tmp_path / "x.zip").splits["all"].empty_classes == ("dog",)


def test_a_set_without_labelled_images_is_refused_with_what_was_found(tmp_path: Path) -> None:
    for tree in ({"1.jpg": b"x", "2.jpg": b"x"}, {"cat/a.txt": b""}, {}):
        with pytest.raises(DataError, match="no images in class folders") as caught:
            open_source(written(tmp_path / "x.tar", tar_bytes(dict(tree))))
        assert "x.tar (found " in caught.value.where and "train/<class>" in caught.value.fix
    with pytest.raises(DataError, match="there is no data at"):
        open_source(tmp_path / "nowhere")


# folders


def test_a_file_that_changed_after_the_index_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", TREE)
    split = open_source(folder).splits["train"]
    victim = folder / "train" / "n01" / "0.jpg"
    for data in (victim.read_bytes() + b"x", victim.read_bytes()[:-1], b""):
        victim.write_bytes(data)
        with pytest.raises(DataError, match="when the folder was indexed") as caught:
            split.read(0)
        assert caught.value.where == str(victim)
    victim.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        split.read(0)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    real = make_folder(
        tmp_path / "real", {name.removeprefix("train/"): data for name, data in TREE.items()}
    )
    pets = tmp_path / "pets"
    (pets / "train").mkdir(parents=True)
    for name in CLASSES:
        (pets / "train" / name).symlink_to(real / name)
    (pets / "train" / "n01" / "around").symlink_to(pets / "train")
    (pets / "train" / "n01" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (pets / "train" / "n01" / "itself.jpg").symlink_to("itself.jpg")
    (pets / "val").symlink_to(real / "val")
    os.mkfifo(pets / "train" / "pipe.jpg")
    source = open_source(pets)
    assert {name: split.fingerprint for name, split in source.splits.items()} == FINGERPRINTS
    assert dict(source.ignored) == {
        "link to a folder around itself": 1,
        "broken link": 1,
        "symbolic link in a circle": 1,
        "neither a file nor a folder": 1,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_names_that_no_other_system_could_hold_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "cat"
    folder.mkdir(parents=True)
    (folder / "back\\slash.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="the name"):
        open_source(folder.parent)
    twice = make_folder(
        tmp_path / "twice", {"cat/é.jpg": b"x", unicodedata.normalize("NFD", "cat/é.jpg"): b"x"}
    )
    with pytest.raises(DataError, match="occurs 2 times"):
        open_source(twice)


# archives


def test_a_compressed_tar_is_decompressed_once_per_version(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar.xz", lzma.compress(tar_bytes(TREE)))
    open_source(path)
    (copy,) = cache.folder().glob("*.tar")
    before = copy.stat().st_mtime_ns
    open_source(path)
    assert copy.stat().st_mtime_ns == before
    changed = TREE | {"train/n01/new.jpg": b"x"}
    written(path, lzma.compress(tar_bytes(changed)))
    assert "new.jpg" in open_source(path).splits["train"].names
    assert len(list(cache.folder().glob("*.tar"))) == 2


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_damaged_compressed_tar_leaves_nothing_in_the_cache(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    data = pack(tar_bytes(TREE))
    middle = len(data) // 2
    bad_files = (data[:middle], data[:-3], data[:middle] + bytes(20) + data[middle + 20 :])
    for number, bad in enumerate(bad_files):
        path = written(tmp_path / f"{number}.tar.packed", bad)
        with pytest.raises(DataError, match="cannot be decompressed") as caught:
            open_source(path)
        assert caught.value.where == str(path)
    assert list(cache.folder().iterdir()) == []


def test_xz_files_of_several_streams_are_read_whole(tmp_path: Path) -> None:
    tar = tar_bytes(TREE)
    packed = lzma.compress(tar[:5000]) + bytes(8) + lzma.compress(tar[5000:])
    assert (
        open_source(written(tmp_path / "x.tar.xz", packed)).splits["train"].fingerprint
        == FINGERPRINTS["train"]
    )


def test_an_xz_header_cannot_ask_for_more_memory_than_the_limit(tmp_path: Path) -> None:
    # The dictionary size in the block header is raised to 4 GB; its checksum is put right.
    data = bytearray(lzma.compress(tar_bytes(TREE)))
    length = (data[12] + 1) * 4
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 40
    data[12 + length - 4 : 12 + length] = lzma_crc(data[12 : 12 + length - 4])
    with pytest.raises(DataError, match=r"(?i)memory"):
        open_source(written(tmp_path / "x.tar.xz", bytes(data)))


def lzma_crc(data: bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an archive at all" * 100, "this is a text"),
        (b"BZh91AY" + bytes(1000), "bzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), "zstd"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(written(tmp_path / "x.tar", data))


def test_a_damaged_tar_is_named_with_its_offset(tmp_path: Path) -> None:
    tar = tar_bytes(TREE)
    with pytest.raises(DataError, match="at byte") as caught:
        open_source(written(tmp_path / "pets.tar", tar[: len(tar) // 2]))
    assert caught.value.where == str(tmp_path / "pets.tar")
    packed = written(tmp_path / "pets.tgz", gzip.compress(tar[: len(tar) // 2]))
    with pytest.raises(DataError, match="at byte") as caught:
        open_source(packed)
    assert caught.value.where.startswith(str(packed)) and "decompressed into" in caught.value.where


@pytest.mark.skipif(not IMAGENETTE.exists(), reason="Imagenette is not beside the repository")
def test_imagenette_is_read_from_its_tar() -> None:
    source = open_source(IMAGENETTE)
    assert {name: (len(split), len(split.classes)) for name, split in source.splits.items()} == {
        "train": (9469, 10),
        "val": (1959, 10),
    }
    assert source.name == "imagenette224" and not source.ignored
    split = source.splits["val"]
    for i in range(0, len(split), 200):
        assert decode.decode(split.read(i)).shape[::-1][1:] == decode.size(split.read(i))
