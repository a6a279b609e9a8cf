"""The page on licences names every package that comes with Saccade."""

from __future__ import annotations

import re
import sys

import pytest
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "docs" / "tools"))
import licences

ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (.+) \| ([a-z, ]+) \|$", re.MULTILINE)


def written() -> dict[str, tuple[str, str]]:
    """Read the table of the page."""
    return {n: (kind, groups) for n, kind, groups in ROW.findall(licences.PAGE.read_text())}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need other packages")
def test_every_pinned_package_is_on_the_page_with_its_licence() -> None:
    page = written()
    # what is not pinned may say something else in its next version
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    rows = {name: row for name, row in licences.rows().items() if name in pinned}
    assert len(rows) > 50
    missing = {name: row for name, row in rows.items() if page.get(name) != row}
    assert not missing, f"run `make licences`: {missing}"


def test_what_users_get_has_no_licence_that_binds_their_own_work() -> None:
    bound = {n: kind for n, (kind, _) in written().items() if re.search(r"\bA?GPL", kind)}
    assert not bound


def test_no_package_is_without_a_licence() -> None:
    nameless = {name for name, (kind, _) in written().items() if kind == "not named"}
    assert nameless <= {"cuda-toolkit"}, nameless  # names NVIDIA's packages, and holds nothing


def test_the_page_names_all_data_in_the_package() -> None:
    text = licences.PAGE.read_text()
    kinds = {".gz", ".txt", ".csv", ".npz", ".safetensors", ".png", ".jpg"}
    ours = {"foreign_options.txt"}
    package = ROOT / "src" / "saccade"
    data = [p for p in package.rglob("*") if p.suffix in kinds and p.name not in ours]
    assert data and all(p.relative_to(package.parent).as_posix() in text for p in data)
