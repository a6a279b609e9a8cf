"""Tables that give an image any number of labels: cells with a separator, or columns of 0 and 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from containers import make_folder, make_tar
from saccade.data.sources import Split, open_source
from saccade.data.sources.label_sets import are_sets, labels_in, written
from saccade.errors import DataError

TREE = {f"{name}.jpg": name.encode() for name in "abcd"}
SETS = {"a.jpg": ("cat", "dog"), "b.jpg": ("dog",), "c.jpg": (), "d.jpg": ("cat", "dog")}


def opened(tmp_path: Path, *lines: str) -> Split:
    """Return the one split of four files labelled by a table."""
    folder = make_folder(tmp_path / "x", TREE)
    table = tmp_path / "x.csv"
    table.write_text("\n".join(lines))
    return open_source(folder, str(table)).splits["all"]


def sets_of(split: Split) -> dict[str, tuple[str, ...]]:
    named = zip(split.names, split.labels.tolist(), strict=True)
    return {name: labels_in(split.classes[label]) for name, label in named}


TABLES = {
    "bars": ("path,labels", "a.jpg,cat|dog", "b.jpg,dog", "c.jpg,", "d.jpg,dog|cat"),
    "semicolons": ("path,tags", "a.jpg,cat; dog", "b.jpg,dog", "c.jpg,", "d.jpg,dog;cat"),
    "commas": ("path,labels", 'a.jpg,"cat, dog"', "b.jpg,dog", "c.jpg,", 'd.jpg,"dog,cat"'),
    "columns": ("path,cat,dog", "a.jpg,1,1", "b.jpg,0,1", "c.jpg,0,0", "d.jpg,1,1"),
    "an index": (",path,cat,dog", "0,a.jpg,1,1", "1,b.jpg,0,1", "2,c.jpg,0,0", "3,d.jpg,1.0,1.0"),
    "of Excel": (
        "path,cat,dog",
        "a.jpg,TRUE,TRUE",
        "b.jpg,FALSE,TRUE",
        "c.jpg,0,false",
        "d.jpg,1,1",
    ),
    "as written": (
        "path,label",
        'a.jpg,"{cat, dog}"',
        "b.jpg,{dog}",
        "c.jpg,{}",
        'd.jpg,"{cat, dog}"',
    ),
}


@pytest.mark.parametrize("form", TABLES)
def test_every_form_of_table_gives_the_same_labels_and_the_same_fingerprint(
    form: str, tmp_path: Path
) -> None:
    split = opened(tmp_path, *TABLES[form])
    assert sets_of(split) == SETS and are_sets(split.classes)
    assert split.classes == ("{cat, dog}", "{dog}", "{}")
    assert split.fingerprint == opened(tmp_path / "other", *TABLES["bars"]).fingerprint


def test_the_order_of_labels_in_a_cell_is_nothing_and_one_label_alone_is_still_a_set(
    tmp_path: Path,
) -> None:
    assert written(["dog", "cat", "dog"]) == written(["cat", "dog"]) == "{cat, dog}"
    split = opened(tmp_path, "path,labels", "a.jpg,cat", "b.jpg,dog", "c.jpg,dog", "d.jpg,cat")
    assert split.classes == ("{cat}", "{dog}")


def test_a_plain_table_stays_a_classification(tmp_path: Path) -> None:
    split = opened(tmp_path, "path,label", "a.jpg,cat", "b.jpg,dog", "c.jpg,dog", "d.jpg,cat")
    assert split.classes == ("cat", "dog") and not are_sets(split.classes)


REFUSED = {
    "two separators": (("path,labels", "a.jpg,cat|dog", 'b.jpg,"cat, dog"'), "'|' and by ','"),
    "a list of Python": (("path,labels", "a.jpg,\"['cat', 'dog']\""), "contains '"),
    "two spellings": (("path,labels", "a.jpg,Cat|dog", "b.jpg,cat"), "'Cat', 'cat'"),
    "no value": (("path,labels", "a.jpg,cat|dog", "b.jpg,NaN"), "NaN"),
    "commas without quotes": (("path,labels", "a.jpg,cat,dog", "b.jpg,dog"), "has 3 cells"),
    "yes": (("path,cat,dog", "a.jpg,yes,no", "b.jpg,no,yes"), "'cat' holds 'no'"),
    "no answer": (("path,cat,dog", "a.jpg,0,1", "b.jpg,NaN,1"), "'cat' holds 'nan'"),
    "a split of 0 and 1": (("path,cat,dog,is_valid", "a.jpg,1,0,0"), "'is_valid' does not have"),
    "a label twice": (("path,cat,Cat", "a.jpg,1,0"), "have the name 'cat'"),
    "an age": (("path,cat,dog,age", "a.jpg,1,0,34"), "'age' holds '34'"),
    "two rows": (("path,labels", "a.jpg,cat", "a.jpg,dog"), "different labels"),
    "blanks": (("path,labels", "a.jpg,cat dog", "b.jpg,cat", "c.jpg,dog"), "cat dog"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_be_read_in_two_ways_is_asked_about(case: str, tmp_path: Path) -> None:
    lines, said = REFUSED[case]
    with pytest.raises(DataError) as caught:
        opened(tmp_path, *lines)
    assert said in caught.value.what and caught.value.fix


def test_several_labels_in_the_column_for_one_are_told_about_the_other_column(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=r"several labels") as caught:
        opened(tmp_path, "path,label", "a.jpg,cat|dog", "b.jpg,dog")
    assert "name the column `labels`" in caught.value.fix


def test_an_archive_has_the_sets_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(TABLES["bars"]))
    tar = open_source(make_tar(tmp_path / "x.tar", TREE), str(tmp_path / "x.csv")).splits["all"]
    folder = opened(tmp_path, *TABLES["bars"])
    assert sets_of(tar) == SETS
    assert (tar.fingerprint, tar.labels.tolist()) == (folder.fingerprint, folder.labels.tolist())
    assert np.array_equal(tar.labels, folder.labels)
