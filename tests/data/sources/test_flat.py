"""Flat folders: the class is in the file name, or in a table."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import Tree, jpeg_file, make_folder, make_tar, make_zip, rows
from saccade.data.sources import hold_out, open_source, train_split, validation_split
from saccade.data.sources.listing import SideFile
from saccade.errors import DataError
from saccade.runs.scoring import find_split
from saccade.setup.compose import Request, compose
from saccade.setup.flags import flag_settings
from saccade.training import datasets

WNIDS = ("n01440764", "n02102040")
SYNSETS = b"n02102040 English springer\nn01440764 tench, Tinca tinca\nn03000684 chain saw\n"
ARRANGED: Tree = {
    f"{split}/{wnid}/{name}.JPEG": jpeg_file(3 * i + k)
    for k, wnid in enumerate(WNIDS)
    for i in range(3)
    for split, name in (("train", f"{wnid}_{i}"), ("val", f"ILSVRC2012_val_{3 * k + i:08d}"))
}


def flattened(ending: str) -> Tree:
    tree = {}
    for name, data in ARRANGED.items():
        split, wnid, file = name.split("/")
        tree[f"{split}{ending}/{file if split == 'train' else f'{wnid}_{file}'}"] = data
    return tree


FLAT = flattened("_flatten")


def refused(path: Path, labels: Path | str = "") -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(path, labels)
    return caught.value


@pytest.mark.spec(5)
def test_a_flattened_tree_is_the_arranged_one(tmp_path: Path) -> None:
    arranged = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    named = FLAT | {"synsets.txt": SYNSETS}
    for number, path in enumerate(
        (
            make_folder(tmp_path / "plain", FLAT),
            make_folder(tmp_path / "named", named),
            make_folder(tmp_path / "short", flattened("") | {"synsets.txt": SYNSETS}),
            make_tar(
                tmp_path / "x.tar",
                {f"dataset/{name}": data for name, data in reversed(named.items())},
            ),
            make_zip(tmp_path / "x.zip", named | {"__MACOSX/train_flatten/._a_b.JPEG": b""}),
        )
    ):
        source = open_source(path)
        assert rows(source) == rows(arranged), path
        assert [s.fingerprint for s in source.splits.values()] == [
            s.fingerprint for s in arranged.splits.values()
        ]
        assert source.class_titles.get("n01440764", "") == ("tench, Tinca tinca" if number else "")
    for split in ("train", "val"):
        alone = open_source(tmp_path / "named" / f"{split}_flatten")
        assert (
            rows(alone) == [row for row in rows(arranged) if row[0] == split] and alone.class_titles
        )


def test_class_folders_go_before_a_flattened_copy_of_them(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "both", ARRANGED | FLAT))
    assert rows(source) == rows(open_source(make_folder(tmp_path / "arranged", ARRANGED)))
    assert source.ignored["image beside the split folders"] == len(FLAT)


def test_flat_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bad = FLAT | {"train_flatten/1.JPEG": b"x", "train_flatten/_2.JPEG": b"x"}
    error = refused(make_folder(tmp_path / "a", bad))
    assert "2 images without a class" in error.what and "train_flatten/1.JPEG" in error.what
    error = refused(make_folder(tmp_path / "b", FLAT | {"synsets.txt": SYNSETS[:25]}))
    assert "1 class in file names but not in synsets.txt: n01440764" in error.what


@pytest.mark.spec(5)
def test_flat_split_folders_count_only_with_wordnet_ids_and_synsets(tmp_path: Path) -> None:
    short = flattened("")
    for number, tree in enumerate(
        (short, short | {"synsets.txt": SYNSETS, "train/x.jpg": b"", "val/x.jpg": b""})
    ):
        error = refused(make_folder(tmp_path / str(number), tree))
        assert (
            "'train', 'val' contain images without class folders" in error.what
            and "--labels" in error.fix
        )


# tables

PHOTOS: Tree = {f"{folder}{i}.jpg": jpeg_file(i) for folder in ("", "deep/") for i in range(4)}
LABELS = {name: ("cat", "dog/wolf")[i % 2] for i, name in enumerate(PHOTOS)}


def table(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    ["path,label", "File,Class", "filename,ignored,label", "label,image", "\ufefffile,label"],
)
def test_a_table_labels_images_in_any_container(tmp_path: Path, header: str) -> None:
    columns = header.removeprefix("\ufeff").lower().split(",")
    cells = [
        ",".join(
            label if c in ("label", "class") else "?" if c == "ignored" else name for c in columns
        )
        for name, label in reversed(LABELS.items())
    ]
    labels = table(tmp_path / "labels.csv", header, *cells, cells[0])
    wanted = sorted(("all", label, name, PHOTOS[name]) for name, label in LABELS.items())
    for path in (
        make_folder(tmp_path / "p", PHOTOS),
        make_tar(tmp_path / "p.tar", PHOTOS),
        make_zip(tmp_path / "p.zip", PHOTOS),
    ):
        source = open_source(path, labels)
        assert rows(source) == wanted and not source.notes and not source.ignored
    train, held = hold_out(train_split(source), 0.25, seed=0)
    assert (len(train), len(held), held.classes) == (6, 2, ("cat", "dog/wolf"))


def test_paths_may_start_with_the_name_of_the_folder_and_the_table_may_lie_in_it(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path / "photos", PHOTOS)
    labels = table(
        folder / "labels.csv",
        "path,label",
        *(f"./photos/{name},{label}" for name, label in LABELS.items()),
    )
    source = open_source(folder, str(labels))
    assert len(rows(source)) == 8 and dict(source.ignored) == {}


def test_a_split_column_makes_splits(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", PHOTOS)
    lines = [
        f"{name},{label},{('Train', 'train', 'val', 'test')[i % 4]}"
        for i, (name, label) in enumerate(LABELS.items())
    ]
    source = open_source(folder, table(tmp_path / "x.csv", "path,label,split", *lines))
    assert {name: len(split) for name, split in source.splits.items()} == {
        "test": 2,
        "train": 4,
        "val": 2,
    }
    chosen = validation_split(source)
    assert chosen is not None and [chosen.classes[label] for label in chosen.labels] == [
        "cat",
        "cat",
    ]
    empty = table(
        tmp_path / "y.csv",
        "path,label,split",
        *(f"{name},{label}," for name, label in LABELS.items()),
    )
    assert list(open_source(folder, empty).splits) == ["all"]


def test_images_without_a_row_are_counted_and_said(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", PHOTOS | {"notes.txt": b"", ".x.jpg": b""})
    source = open_source(folder, table(tmp_path / "x.csv", "path,label", "0.jpg,cat", "1.jpg,dog"))
    assert source.notes == ("6 images without a row, the first: 2.jpg, 3.jpg, deep/0.jpg",)
    assert source.ignored["image without a row in the table"] == 6 and source.ignored_names[:2] == (
        "2.jpg",
        "3.jpg",
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["name,label", "0.jpg,cat"],
            ["no column named path or file or image or filename; found: name, label"],
        ),
        (["path,kind", "0.jpg,cat"], ["no column named label or class; found: path, kind"]),
        (["path;label", "0.jpg;cat"], ["found: path;label", "commas"]),
        (["path,label"], ["the table has no rows"]),
        (
            ["path,label", "0.jpg,cat", "8.jpg,cat", "9.jpg,cat"],
            ["2 rows naming a file that does not exist: 8.jpg"],
        ),
        (
            ["path,label", "0.jpg,cat", "1.jpg,cat", "0.jpg,dog"],
            ["1 file in rows with different labels", "0.jpg"],
        ),
        (
            ["path,label,split", "0.jpg,cat,val", "0.jpg,cat,train"],
            ["1 file in rows with different labels or splits"],
        ),
        (
            ["path,label,split", "0.jpg,cat,val", "1.jpg,cat,"],
            ["1 row without a split, but others have one: 1.jpg"],
        ),
        (["path,label,split", "0.jpg,cat,extra"], ["'extra' is not a split", "line 2"]),
        (["path,label", "0.jpg,"], ["'' is not a valid class name", "line 2"]),
        (["path,label", "0.jpg,cat", "../0.jpg,cat"], ["'..'", "line 3"]),
        (["path,label", "0.jpg"], ["only 1 cells", "line 2"]),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, lines: list[str], words: list[str]
) -> None:
    said = str(
        refused(make_folder(tmp_path / "photos", PHOTOS), table(tmp_path / "labels.csv", *lines))
    )
    assert all(word in said for word in [*words, "labels.csv"]), said


def test_a_table_needs_something_to_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'digits' already has labels"):
        open_source("digits", table(tmp_path / "x.csv", "path,label"))
    assert (
        "cannot be read"
        in refused(make_folder(tmp_path / "photos", PHOTOS), tmp_path / "none.csv").what
    )


def test_what_lies_beside_an_archive_is_read_again_when_it_changes(tmp_path: Path) -> None:
    def aged(path: Path, seconds: int) -> Path:
        os.utime(path, (10**9 + seconds,) * 2)  # long enough ago for the index to be kept
        return path

    photos, flat = (
        aged(make_tar(tmp_path / "p.tar", PHOTOS), 0),
        aged(make_tar(tmp_path / "f.tar", FLAT), 0),
    )
    for seconds, name in enumerate(("cat", "cat", "dog", "elk")):
        labels = aged(table(tmp_path / "x.csv", "path,label", f"0.jpg,{name}"), seconds)
        assert open_source(photos, labels).splits["all"].classes == (name,)
    assert [dict(open_source(flat).class_titles) for _ in range(2)] == [{}, {}]
    synsets = tmp_path / "synsets.txt"
    synsets.write_bytes(SYNSETS)
    aged(synsets, 0)
    assert [open_source(flat).class_titles["n02102040"] for _ in range(2)] == [
        "English springer"
    ] * 2


def test_the_table_of_a_request_reaches_the_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", PHOTOS)
    labels = table(
        tmp_path / "labels.csv",
        "path,label",
        *(f"{name},{label}" for name, label in LABELS.items()),
    )
    flags = flag_settings(data=folder, labels=labels, holdout=0.25, image_size=16)
    composed = compose(Request(["photos-small", "resnet8"], flags))
    data = datasets.open_data(composed.config, composed.source)
    assert (len(data.train), len(data.val), data.val.classes) == (6, 2, ("cat", "dog/wolf"))
    assert len(find_split(str(folder), "all", str(labels))) == 8


CELLS = (
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff"), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_table_written_by_a_program_is_read_back(pairs: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([("path", "label"), *pairs])
    found = SideFile("x.csv", out.getvalue()).columns(["path"], ["class", "label"], ["split", ""])
    assert [tuple(cells) for _, cells in found] == [(*pair, "") for pair in pairs]


# labels that would become classes by mistake

ODD = {
    "a bar": (["cat", "cat|animal", "dog"], "cat|animal"),
    "a bar alone": (["cat|tabby", "dog"], "cat|tabby"),
    "a semicolon": (["cat;dog", "cat", "dog"], "cat;dog"),
    "a comma": (["cat, dog", "cat", "dog"], "cat, dog"),
    "a list": (["['cat', 'dog']", "['cat']", "['dog']"], "['cat', 'dog']"),
    "quotes": (["'cat'", "cat", "dog"], "''cat'', 'cat'"),
    "a full stop": (["cat.", "cat", "dog"], "'cat', 'cat.'"),
    "a dash": (["cat", "-", "dog"], "'-'"),
    "a blank": (["cat dog", "cat", "dog"], "cat dog"),
    "a word behind several": (["cat", "cat animal", "dog", "dog animal"], "cat animal"),
    "nan": (["cat", "dog", "NaN"], "NaN"),
    "none of Python": (["cat", "dog", "None"], "None"),
    "a spreadsheet's error": (["cat", "dog", "#N/A"], "#N/A"),
    "case": (["Cat", "cat", "dog"], "'Cat', 'cat'"),
    "spaces": (["golden retriever", "golden  retriever", "dog"], "golden  retriever"),
    "hyphens": (["golden-retriever", "golden_retriever", "dog"], "golden_retriever"),
    "numbers": (["1", "1.0", "2"], "'1', '1.0'"),
}


@pytest.mark.parametrize("case", ODD)
def test_labels_that_would_be_classes_by_mistake_are_asked_about(tmp_path: Path, case: str) -> None:
    labels, named = ODD[case]
    folder = make_folder(tmp_path / "x", {f"{i}.jpg": b"x" for i in range(len(labels))})
    lines = [f'{i}.jpg,"{label}"' for i, label in enumerate(labels)]
    with pytest.raises(DataError, match=re.escape(named)) as caught:
        open_source(folder, table(tmp_path / "x.csv", "path,label", *lines))
    assert caught.value.finding == "labels-unclear" and caught.value.status == 65


def test_ordinary_labels_are_not_asked_about(tmp_path: Path) -> None:
    labels = [
        "bear",
        "polar bear",
        "brown bear",
        "A",
        "a",
        "none",
        "no cat",
        "cat",
        "dog, small",
        "nano",
        "1",
        "10",
        "rock & roll",
        "AC/DC",
    ]
    folder = make_folder(tmp_path / "x", {f"{i}.jpg": b"x" for i in range(len(labels))})
    lines = [f'{i}.jpg,"{label}"' for i, label in enumerate(labels)]
    source = open_source(folder, table(tmp_path / "x.csv", "path,label", *lines))
    assert source.splits["all"].classes == tuple(sorted(labels))


def test_tables_of_other_programs_are_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", {"a/0.jpg": b"x", "a/1.jpg": b"x"})
    for number, lines in enumerate(
        (
            (",path,label", "0,a/0.jpg,cat", "1,a/1.jpg,dog"),  # pandas writes its index, too
            ("file_name,label", "a/0.jpg,cat", "a/1.jpg,dog"),
            ("path,label", ".\\a\\0.jpg,cat", "x\\a\\1.jpg,dog"),
        )
    ):
        source = open_source(folder, table(tmp_path / f"{number}.csv", *lines))
        assert [(split.name, split.classes) for split in source.splits.values()] == [
            ("all", ("cat", "dog"))
        ]
    source = open_source(
        folder,
        table(
            tmp_path / "s.csv", "path,label,split", "a/0.jpg,cat,Training", "a/1.jpg,cat,testing "
        ),
    )
    assert list(source.splits) == ["test", "train"]
