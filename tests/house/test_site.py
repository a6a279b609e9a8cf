"""The documentation is a site: every page is reached by its navigation, every link leads somewhere,
and reading it needs no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from source_tree import ROOT

DOCS = ROOT / "docs"
SETTINGS = ROOT / "mkdocs.yml"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself, and the attribute that says from where."""


def entries(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for one in nav.values():
            yield from entries(one)
    else:
        for one in nav:
            yield from entries(one)


def build(root: Path) -> subprocess.CompletedProcess[str]:
    """Build the site below a folder that holds ``mkdocs.yml`` and ``docs``."""
    pytest.importorskip("mkdocs")
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build"],
        cwd=root,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the documentation, which tests may break one after the other."""
    root = tmp_path_factory.mktemp("site")
    shutil.copy(SETTINGS, root)
    shutil.copytree(DOCS, root / "docs")
    return root


@pytest.fixture(scope="module")
def site(copy: Path) -> Path:
    """Return the folder of the built site."""
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "build" / "site"


class Fetched(HTMLParser):
    """Collects what a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag == "link" and of.get("rel") in {"prev", "next", "canonical"}:
            return
        self.places.append(of.get(LOADED.get(tag, "")) or "")


def foreign(page: str) -> list[str]:
    """Return what a page fetches from elsewhere."""
    reader = Fetched()
    reader.feed(page)
    return [place for place in reader.places if re.match(r"(\w+:)?//", place)]


def test_every_page_is_in_the_navigation() -> None:
    listed = list(entries(yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages)


def test_the_site_needs_no_network_when_it_is_read(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [place for page in pages for place in foreign(page.read_text(encoding="utf-8"))] == []

    styles = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(['\"]?(\w+:)?//", sheet) for sheet in styles)


def test_blocks_of_code_are_blocks_on_the_site_too(site: Path) -> None:
    code = re.compile(r"<(pre|code|script)\b.*?</\1>", re.S)
    for page in site.rglob("*.html"):
        assert "```" not in code.sub("", page.read_text(encoding="utf-8")), page.name


def test_control_a_broken_link_stops_the_build(site: Path, copy: Path) -> None:
    page = copy / "docs" / "index.md"
    links = ["[a](nowhere.md)", "[a](data.md#nowhere)", "![a](images/nowhere.png)"]
    page.write_text(page.read_text(encoding="utf-8") + "\n".join(["", *links]), encoding="utf-8")
    done = build(copy)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert all(link[link.index("(") + 1 : -1] in said for link in links), said


def test_control_what_comes_from_elsewhere_is_seen() -> None:
    assert foreign('<a href="https://a.b/c"></a><img src="x.png"><script src="//a.b/c.js">') == [
        "//a.b/c.js"
    ]
