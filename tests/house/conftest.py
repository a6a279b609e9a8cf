"""The source is parsed once for all rules, and not kept for the other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import source_tree


@pytest.fixture(scope="package", autouse=True)
def forgotten() -> Iterator[None]:
    yield
    source_tree.saccade.cache_clear()
    source_tree.ours.cache_clear()
