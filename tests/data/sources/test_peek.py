"""Files that are images by their first bytes, whatever they are called."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from console import run_here
from containers import jpeg_file, make_folder, make_tar, make_zip
from saccade.data.audit import verify
from saccade.data.prepare import prepare
from saccade.data.sources import open_source
from saccade.data.sources.peek import images_below, peek
from saccade.log import Log

QUIET = Log(quiet=True)
NAMES = ("a.jfif", "b.jpe", "c", "d.JPG_large", "e.0", "f.jpg?w=300", "g.JFIF", "h.image")
TREE = {
    f"{split}/{kind}/{name}": jpeg_file(i + 20 * (split == "val"))
    for split in ("train", "val")
    for kind in ("cat", "dog")
    for i, name in enumerate(NAMES)
}
OTHERS = {
    "train/cat/BMW notes": b"BMW is a car",
    "train/cat/P5": b"P5: fifth",
    "train/cat/readme": b"text",
    "train/dog/empty": b"",
    "train/dog/x.txt": jpeg_file(3),
}


def picture(kind: str) -> bytes:
    """Return a small image in a format of Pillow."""
    out = io.BytesIO()
    Image.new("RGB", (9, 8), (200, 30, 60)).save(out, kind)
    return out.getvalue()


def test_images_without_a_usual_ending_are_read_from_every_container(tmp_path: Path) -> None:
    containers = (
        make_folder(tmp_path / "f", TREE | OTHERS),
        make_tar(tmp_path / "t.tar", TREE | OTHERS),
        make_zip(tmp_path / "z.zip", TREE | OTHERS),
    )
    for path in (*containers, *containers):  # the second time from the index that is kept
        source = open_source(path)
        assert {name: len(split) for name, split in source.splits.items()} == {
            "train": 16,
            "val": 16,
        }
        assert source.ignored == {
            "not an image by its name (no suffix)": 4,
            "not an image by its name (.txt)": 1,
        }
        assert not verify.verify(source, QUIET).failed


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_every_format_that_is_read_is_recognised(kind: str) -> None:
    assert peek(["x", "y.bin", "z.txt"], lambda _place: picture(kind)[:32]) == {0, 1}


def test_prediction_finds_the_same_files(tmp_path: Path) -> None:
    make_folder(tmp_path, TREE | OTHERS | {"train/.hidden.jpg": jpeg_file(1), "x.png": b""})
    assert images_below(tmp_path) == sorted(tmp_path / name for name in [*TREE, "x.png"])


def test_only_names_that_say_nothing_are_opened() -> None:
    names = [
        f"{i}.{end}" for i in range(5) for end in ("txt", "xml", "JSON", "jpg", "mat", "csv")
    ] + ["a/x", "b.odd"]
    asked: list[int] = []
    assert peek(names, lambda place: asked.append(place) or b"") == frozenset()  # type: ignore[func-returns-value]
    assert [names[place] for place in asked] == ["a/x", "b.odd"]


def test_a_tree_of_such_files_can_be_prepared_and_prepared_again(tmp_path: Path) -> None:
    source = open_source(make_tar(tmp_path / "x.tar", TREE))
    assert prepare(source, tmp_path / "out", QUIET)["written"] == 32
    assert prepare(source, tmp_path / "out", QUIET)["written"] == 0
    back = open_source(tmp_path / "out")
    assert [s.fingerprint for s in back.splits.values()] == [
        s.fingerprint for s in source.splits.values()
    ]


def test_a_class_folder_whose_files_are_all_left_out_is_an_error(tmp_path: Path) -> None:
    tree = {name: data for name, data in TREE.items() if "dog" not in name}
    tree |= {
        f"{split}/dog/{i}.heic": b"\0\0\0\x18ftypheic"
        for split in ("train", "val")
        for i in range(3)
    }
    tree |= {"train/eel/1.npy": b"\x93NUMPY", "train/fox/1.jpg.gz": b"\x1f\x8b"}
    tree |= {
        f"{split}/cow/{i}.jpg": jpeg_file(i + (40 if split == "val" else 60))
        for split in ("train", "val")
        for i in range(4)
    }
    tree |= {"train/notes/about.txt": b"no class"}
    folder = make_folder(tmp_path / "x", tree)
    for verb in ("check", "train"):
        done = run_here(
            verb,
            "--data",
            str(folder),
            *(["--out", str(tmp_path / "run")] if verb == "train" else []),
        )
        assert done.status == 65 and ": dog, eel, fox" in done.stderr, done.stderr
    done = run_here("verify", str(folder))
    assert (
        done.status == 65
        and "class-left-out in train" in done.stdout
        and ": dog, eel, fox\n" in done.stdout
    )
