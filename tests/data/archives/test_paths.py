"""A million names in little memory behave like a tuple of strings.

Names that are no UTF-8 are names, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import jpeg_file, make_folder, rows
from saccade.data.archives.paths import Names, clean_name, decoded
from saccade.data.prepare import prepare
from saccade.data.sources import open_source
from saccade.errors import DataError
from saccade.log import Log

TEXTS = st.lists(st.text("aäß漢𝄞/. ", max_size=9), max_size=30)


@given(TEXTS, st.data())
def test_names_are_the_strings_they_were_made_of(texts: list[str], data: st.DataObject) -> None:
    names = Names.of(texts)
    assert list(names) == texts and names == texts and len(names) == len(texts)
    assert [names[i] for i in range(-len(texts), len(texts))] == texts + texts
    start, stop = data.draw(st.integers(-40, 40)), data.draw(st.integers(-40, 40))
    assert list(names[start:stop]) == texts[start:stop]
    places = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)) if texts else []
    assert names.take(np.array(places, np.int64)) == [texts[i] for i in places]
    assert all(text in names for text in texts) and "x" not in names


def test_names_differ_in_length_order_and_content() -> None:
    names = Names.of(["a", "b"])
    assert names != ["a"] and names != ["b", "a"] and names != ["a", "c"] and names != 3
    with pytest.raises(IndexError):
        names[2]


def test_a_hundred_thousand_names_take_no_memory_but_their_text_and_places() -> None:
    texts = [f"n01440764_{i}.JPEG" for i in range(100_000)]
    tracemalloc.start()
    names = Names.of(texts)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 1.1 * (sum(map(len, texts)) + 16 * len(texts)) and names[99_999] == texts[-1]


def test_names_that_are_no_utf_8_are_read_part_by_part(tmp_path: Path) -> None:
    assert decoded("é/ü.jpg".encode()) == "é/ü.jpg"
    assert decoded("é/".encode() + "ü.jpg".encode("latin-1")) == "é/ü.jpg"
    assert (
        clean_name(os.fsdecode("Ähre/".encode() + b"IMG_\xe9t\xe9 \x80.jpg"))
        == "Ähre/IMG_été €.jpg"
    )
    assert decoded(b"\x81.jpg") == "\x81.jpg"  # no letter of cp1252
    with pytest.raises(ValueError, match="not Unicode"):
        clean_name("\ud800.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_one_name_that_is_no_utf_8_blocks_no_set(tmp_path: Path) -> None:
    tree = {
        f"{split}/{kind}/1.jpg": jpeg_file(i)
        for i, split in enumerate(("train", "val"))
        for kind in ("Ähre", "dog")
    }
    folder = make_folder(tmp_path / "x", tree)
    odd = os.fsencode(folder / "train" / "Ähre") + "/café.jpg".encode("latin-1")
    Path(os.fsdecode(odd)).write_bytes(jpeg_file(7))
    wanted = open_source(make_folder(tmp_path / "y", tree | {"train/Ähre/café.jpg": jpeg_file(7)}))
    subprocess.run(["tar", "-cf", str(tmp_path / "x.tar"), "-C", str(folder), "."], check=True)
    for source in (open_source(folder), open_source(tmp_path / "x.tar")):
        assert rows(source) == rows(wanted)
        assert source.splits["train"].fingerprint == wanted.splits["train"].fingerprint
    prepare(open_source(folder), tmp_path / "out", Log(quiet=True))
    assert rows(open_source(tmp_path / "out")) == rows(wanted)
    os.truncate(odd, 9)
    source = open_source(folder)
    Path(os.fsdecode(odd)).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        [source.splits["train"].read(i) for i in range(3)]
    str(caught.value).encode()  # it can be printed anywhere
