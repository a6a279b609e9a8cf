"""A million names in little memory behave like a tuple of strings."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.data.names import Names

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
