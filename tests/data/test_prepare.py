"""Prepare: the same dataset as a tree of files, nothing foreign touched, nothing outside the
target.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from containers import make_folder as make
from saccade.data.images import decode
from saccade.data.prepare import MANIFEST, prepare, refuse_case_clashes, refuse_names
from saccade.data.sources import Source, Split, open_source
from saccade.errors import ConfigError, DataError, DiskError, UsageError
from saccade.log import Log

Tree = dict[str, bytes]
QUIET = Log(quiet=True)
SET: Tree = {
    f"{split}/{label}/{'deep/' if i == 2 else ''}{i}.{'JPEG' if i % 2 else 'png'}": (
        f"{split}{label}{i}".encode() * i
    )
    for split in ("train", "val")
    for label in ("cat", "Ähre", "n02 dog")
    for i in range(1, 5)
}


def read(folder: Path) -> Tree:
    """Read all files of a tree except the lock and the manifest.

    Links are read as what they point to.
    """
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {name: data for name, data in found.items() if name not in (".lock", MANIFEST)}


def packed(form: str, folder: Path) -> Path:
    if form == "folder":
        return folder
    return Path(shutil.make_archive(str(folder), {"tar.gz": "gztar"}.get(form, form), folder))


def source_of(names: dict[str, bytes], split: str = "train", label: str = "cat") -> Source:
    """Build a source by hand, with names that no reader of ours would let through."""
    paths, data = tuple(names), tuple(names.values())
    sizes = np.array([len(one) for one in data], np.int64)
    labels = np.zeros(len(paths), np.int64)
    one = Split(split, (label,), paths, sizes, labels, data.__getitem__, "handmade", split)
    return Source("handmade", "handmade", {split: one})


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "zip"])
@pytest.mark.spec(2)
def test_the_tree_is_the_same_dataset_as_its_source(form: str, tmp_path: Path) -> None:
    source = open_source(packed(form, make(tmp_path / "photos", SET)))
    done = prepare(source, tmp_path / "out", QUIET)
    assert done == {
        "target": str(tmp_path / "out"),
        "splits": {"train": 12, "val": 12},
        "written": 24,
    }
    assert read(tmp_path / "out") == SET
    tree = open_source(tmp_path / "out").splits
    for name, split in source.splits.items():
        assert tree[name].fingerprint == split.fingerprint
    facts = json.loads((tmp_path / "out" / MANIFEST).read_text())["splits"]["val"]
    assert facts == {
        "state": "complete",
        "source": source.where,
        "source_fingerprint": source.splits["val"].fingerprint,
        "images": 12,
        "classes": 3,
    }


def test_class_folders_without_a_split_lie_directly_in_the_target(tmp_path: Path) -> None:
    tree = {
        name.removeprefix("val/"): data for name, data in SET.items() if name.startswith("val/")
    }
    source = open_source(
        make(tmp_path / "photos", {f"top/{name}": data for name, data in tree.items()})
    )
    prepare(source, tmp_path / "out", QUIET)
    assert read(tmp_path / "out") == tree
    assert (
        open_source(tmp_path / "out").splits["all"].fingerprint == source.splits["all"].fingerprint
    )


@pytest.mark.spec(2)
def test_the_source_is_not_changed_and_the_second_run_writes_nothing(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", SET)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    prepare(open_source(source), tmp_path / "out", QUIET)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before and read(
        source
    ) == SET
    written = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "out").rglob("*.*")
        if path.name != ".lock"
    }
    assert prepare(open_source(source), tmp_path / "out", QUIET)["written"] == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list((tmp_path / "out").glob("*.part-*"))


def test_only_what_is_missing_is_written_again(tmp_path: Path) -> None:
    source, out = open_source(make(tmp_path / "photos", SET)), tmp_path / "out"
    prepare(source, out, QUIET)
    for name in sorted(SET)[::5]:
        (out / name).unlink()
    assert prepare(source, out, QUIET)["written"] == 5
    assert read(out) == SET


@pytest.mark.spec(2)
def test_two_archives_can_fill_one_tree(tmp_path: Path) -> None:
    for split in ("train", "val"):
        tree = {name: data for name, data in SET.items() if name.startswith(split)}
        prepare(
            open_source(packed("tar", make(tmp_path / f"{split}-images", tree))),
            tmp_path / "out",
            QUIET,
        )
    assert read(tmp_path / "out") == SET
    assert set(json.loads((tmp_path / "out" / MANIFEST).read_text())["splits"]) == {"train", "val"}


def test_portable_maps_become_png_with_the_same_pixels(tmp_path: Path) -> None:
    colour = b"P6 5 4 255\n" + bytes(range(60))
    maps = {
        "train/a/gray.PGM": b"P5 2 2 255\n\1\2\3\4",
        "train/a/text.pgm": b"P2 2 1 255\n7 9\n",
        "train/b/c.ppm": colour,
    }
    for source in (open_source("digits"), open_source(make(tmp_path / "maps", maps))):
        out = tmp_path / f"out-{source.name}"
        prepare(source, out, QUIET)
        assert prepare(source, out, QUIET)["written"] == 0
        tree = open_source(out)
        for name, split in source.splits.items():
            assert tree.splits[name].names == tuple(f"{one[:-4]}.png" for one in split.names)
            for i in range(len(split)):
                data = bytes(tree.splits[name].read(i))
                assert data.startswith(b"\x89PNG") and (data[25] == 0) == (
                    bytes(split.read(i)[:2]) != b"P6"
                )
                assert np.array_equal(decode.decode(data), decode.decode(split.read(i)))


def test_a_png_that_another_zlib_packed_is_the_same_file(tmp_path: Path) -> None:
    source = open_source(make(tmp_path / "maps", {"train/a/x.pgm": b"P5 9 9 255\n" + bytes(81)}))
    prepare(source, tmp_path / "out", QUIET)
    path = tmp_path / "out" / "train" / "a" / "x.png"
    with Image.open(path) as image:
        image.save(path, "PNG", compress_level=0)
    assert prepare(source, tmp_path / "out", QUIET)["written"] == 0
    Image.new("L", (9, 9), 3).save(path)
    with pytest.raises(DataError, match="other contents"):
        prepare(source, tmp_path / "out", QUIET)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P5 2 2 255\n\1", "cannot be read: truncated"),
        (b"P6 1 1 65535\nabcdef", "16 bits would lose half"),
    ],
)
def test_a_map_that_cannot_be_kept_is_refused_by_name(
    data: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        prepare(
            open_source(make(tmp_path / "maps", {"train/a/x.ppm": data})), tmp_path / "out", QUIET
        )
    assert caught.value.where == "train/a/x.ppm in maps"


# what is foreign


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (
            {"train/cat/1.JPEG": b"another one, longer"},
            "'train/cat/1.JPEG' already exists with other contents",
        ),
        ({"train/cat/1.JPEG": b"trainCat1"}, "other contents"),  # of the same size
        (
            {"train/cat/more.jpg": b"x"},
            "'train/cat/more.jpg' is an image from another source",
        ),
        (
            {"val/zebra/deep/1.png": b"x"},
            "'val/zebra/deep/1.png' is an image from another source",
        ),
        ({MANIFEST: b"[]"}, "damaged or from another program"),
        ({MANIFEST: b'{"splits": {"train": {}}}'}, "damaged or from another program"),
    ],
)
def test_what_is_there_is_never_overwritten(foreign: Tree, words: str, tmp_path: Path) -> None:
    source, out = open_source(make(tmp_path / "photos", SET)), make(tmp_path / "out", foreign)
    for _ in range(2):
        with pytest.raises(DataError, match=words):
            prepare(source, out, QUIET)
        assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
            ".lock",
            *foreign,
        }
        assert all((out / name).read_bytes() == data for name, data in foreign.items())


def test_a_file_that_was_changed_after_the_end_is_not_repaired_silently(tmp_path: Path) -> None:
    source, out = open_source(make(tmp_path / "photos", SET)), tmp_path / "out"
    prepare(source, out, QUIET)
    (out / "val/cat/1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="already exists with other contents"):
        prepare(source, out, QUIET)


def test_equal_files_and_foreign_texts_are_left_alone(tmp_path: Path) -> None:
    foreign = {
        "train/cat/1.JPEG": SET["train/cat/1.JPEG"],
        "train/cat/notes.txt": b"mine",
        "README": b"mine",
    }
    out = make(tmp_path / "out", foreign)
    before = (out / "train/cat/1.JPEG").stat().st_mtime_ns
    assert prepare(open_source(make(tmp_path / "photos", SET)), out, QUIET)["written"] == 23
    assert read(out) == SET | foreign
    assert (out / "train/cat/1.JPEG").stat().st_mtime_ns == before


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("link", ["train", "train/cat", "train/cat/deep", "train/cat/1.JPEG"])
def test_nothing_is_written_through_a_link(link: str, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", {"file": b"theirs"})
    out = tmp_path / "out"
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(outside / "file" if link.endswith("JPEG") else outside)
    with pytest.raises(DataError, match=f"'{link}' is a link"):
        prepare(open_source(make(tmp_path / "photos", SET)), out, QUIET)
    assert read(outside) == {"file": b"theirs"}


# hostile names


@pytest.mark.parametrize(
    "source",
    [
        *(
            source_of({name: b"x", "ok.jpg": b"y"})
            for name in (
                "../x.jpg",
                "a/../../../x.jpg",
                "/x.jpg",
                "..\\x.jpg",
                "a//x.jpg",
                "./x.jpg",
                "\0.jpg",
                "a\n.jpg",
                "",
                ".hidden.jpg",
                ".saccade.part-1/x.jpg",
                "y" * 256 + ".jpg",
                "ä" * 127 + ".jpg",
                "x.txt",
                "x",
                "\ud800.jpg",
            )
        ),
        *(
            source_of({"x.jpg": b"x"}, label=label)
            for label in ("..", ".", "", "/tmp", "a/../..", ".git", "val/a")
        ),
        *(
            source_of({"x.jpg": b"x"}, split=split)
            for split in ("..", "/tmp", "", "other", "train/..")
        ),
        source_of({"x.pgm": b"P5 1 1 255\n\1", "x.png": b"x"}),
    ],
    ids=lambda source: repr(next(iter(source.splits.values())).names)[:30],
)
@pytest.mark.fault("E2")
def test_a_name_that_could_escape_or_get_lost_is_refused_before_anything_is_written(
    source: Source, tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError):
        prepare(source, tmp_path / "inner" / "out", QUIET)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


@given(st.lists(st.text(st.sampled_from("ab./\\ :C\0\n"), max_size=12), max_size=3))
@pytest.mark.spec(2)
def test_no_accepted_path_leaves_the_target(paths: list[str]) -> None:
    root = os.path.join(os.sep, "somewhere", "target")
    try:
        refuse_names(paths, windows=True)
    except DataError:
        return
    for path in paths:
        assert os.path.normpath(os.path.join(root, path)).startswith(root + os.sep)
        assert "\\" not in path and ":" not in path


@pytest.mark.parametrize(
    "path", ["a/CON", "a/nul.jpg", "a/Com1.x.png", "a/x.jpg.", "a /x.jpg", "a/x?.jpg", "C:x.jpg"]
)
def test_names_that_windows_cannot_hold_are_refused_there_only(path: str) -> None:
    refuse_names([path, "a/console.jpg"], windows=False)
    with pytest.raises(DataError, match="Windows"):
        refuse_names(["a/console.jpg", path], windows=True)


def test_names_that_differ_in_case_are_found_at_every_depth() -> None:
    refuse_case_clashes(["a/x.jpg", "a/y.jpg", "b/x.jpg"])
    for clash in (
        ["a/x.jpg", "a/X.jpg"],
        ["Cat/x.jpg", "cat/y.jpg"],
        ["a/D/1.jpg", "a/d/2.jpg"],
        ["ß/a", "SS/a"],
    ):
        with pytest.raises(DataError, match="are the same name"):
            refuse_case_clashes(clash)


def test_names_that_differ_in_case_stay_apart_where_the_disk_can(tmp_path: Path) -> None:
    clash = {"train/Cat/x.jpg": b"1", "train/cat/x.jpg": b"2", "train/cat/X.jpg": b"3"}
    out = tmp_path / "out"
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        many = source_of({"x.jpg": b"2", "X.jpg": b"3"})
        with pytest.raises(DataError, match="are the same name"):
            prepare(many, out, QUIET)
    else:
        prepare(open_source(make(tmp_path / "photos", clash)), out, QUIET)
        assert read(out) == clash


# the surroundings


def test_a_disk_that_is_too_small_is_refused_before_the_first_file(tmp_path: Path) -> None:
    source = source_of({"x.jpg": b"x"})
    source.splits["train"].sizes[0] = 1 << 60
    with pytest.raises(DiskError, match="are free") as caught:
        prepare(source, tmp_path / "out", QUIET)
    assert caught.value.status == 74 and read(tmp_path / "out") == {}


def test_a_target_inside_the_source_is_refused(tmp_path: Path) -> None:
    source = open_source(make(tmp_path / "photos", SET))
    for target in (
        tmp_path / "photos",
        tmp_path / "photos" / "new",
        tmp_path / "x" / ".." / "photos" / "train",
    ):
        with pytest.raises(UsageError, match="inside the source"):
            prepare(source, target, QUIET)
    assert read(tmp_path / "photos") == SET


def test_a_target_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(DiskError, match="cannot write"):
        prepare(open_source("digits"), tmp_path / "out", QUIET)
    (tmp_path / "out2" / "train").mkdir(parents=True)
    (tmp_path / "out2" / "train" / "0").write_bytes(b"mine")
    with pytest.raises(DiskError, match="cannot write"):
        prepare(open_source("digits"), tmp_path / "out2", QUIET)
    assert (tmp_path / "out2" / "train" / "0").read_bytes() == b"mine"


def test_an_image_that_cannot_be_read_stops_with_its_name_and_the_rest_can_go_on(
    tmp_path: Path,
) -> None:
    source = open_source(make(tmp_path / "photos", SET))
    (tmp_path / "photos" / "train/cat/3.JPEG").write_bytes(b"changed meanwhile")
    with pytest.raises(DataError, match="bytes when the folder was indexed"):
        prepare(source, tmp_path / "out", QUIET)
    (tmp_path / "photos" / "train/cat/3.JPEG").write_bytes(SET["train/cat/3.JPEG"])
    prepare(source, tmp_path / "out", QUIET)
    assert read(tmp_path / "out") == SET


def test_the_lock_is_held_by_a_living_process_only(tmp_path: Path) -> None:
    from saccade import files

    source, out = open_source("digits"), tmp_path / "out"
    with files.locked(out), pytest.raises(ConfigError, match="another process") as caught:
        prepare(source, out, QUIET)
    assert caught.value.status == 78
    make(out, {".lock": b"999999"})
    assert prepare(source, out, QUIET)["written"] == 1797


def test_a_tree_that_somebody_changes_meanwhile_is_not_called_complete(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from saccade import files

    source, out = open_source(make(tmp_path / "photos", SET)), tmp_path / "out"
    change = {"settled": lambda: (out / "val/cat/1.JPEG").unlink()}
    monkeypatch.setattr(files, "stage", lambda name: change.pop(name, lambda: None)())
    with pytest.raises(DataError, match="differs from 'val' in the source"):
        prepare(source, out, QUIET)
    assert json.loads((out / MANIFEST).read_text())["splits"]["val"]["state"] == "begun"
    assert prepare(source, out, QUIET)["written"] == 1
    assert read(out) == SET


def digest(folder: Path) -> str:
    return hashlib.sha256(repr(sorted(read(folder).items())).encode()).hexdigest()


def test_a_tree_made_of_a_tree_is_the_same(tmp_path: Path) -> None:
    prepare(open_source("digits"), tmp_path / "one", QUIET)
    prepare(open_source(tmp_path / "one"), tmp_path / "two", QUIET)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_manifest_says_begun_until_the_disk_has_everything(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from saccade import files

    states = {}
    manifest = tmp_path / "out" / MANIFEST

    def look(stage: str) -> None:
        states[stage] = json.loads(manifest.read_text())["splits"]["test"]["state"]

    monkeypatch.setattr(files, "stage", look)
    prepare(open_source("digits"), tmp_path / "out", QUIET)
    assert states == {"written aside": "begun", "placed": "begun", "settled": "begun"}
    assert json.loads(manifest.read_text())["splits"]["test"]["state"] == "complete"
