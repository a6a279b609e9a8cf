"""The documentation is a site: every page is reached by its navigation, every link leads somewhere,
and reading it needs no network.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from source_tree import ROOT

import saccade
from saccade import errors
from saccade.cli.main import app

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
    reference().write(root / "docs" / "reference", skip={"models"})
    (root / "docs" / "reference" / "models.md").write_text("# All models\n")
    return root


@pytest.fixture(scope="module")
def site(copy: Path) -> Path:
    """Return the folder of the built site."""
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "build" / "site"


@cache
def reference() -> Any:
    """Return the script that makes pages from the code."""
    tools = str(DOCS / "tools")
    sys.path.insert(0, tools)
    try:
        return importlib.import_module("reference")
    finally:
        sys.path.remove(tools)


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
    pages |= {f"reference/{name}.md" for name in reference().PAGES}
    assert sorted(listed) == sorted(pages)


def dead_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file of the repository, as a Git host shows it."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    made = DOCS / "reference"
    return [
        one
        for one in links
        if "://" not in one
        and (not (page.parent / one).exists() or made in (page.parent / one).resolve().parents)
    ]


def test_links_lead_somewhere_without_a_build(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    kept = [page for page in pages if DOCS / "reference" not in page.parents]
    assert not {page.name: dead for page in kept if (dead := dead_links(page))}
    broken = tmp_path / "page.md"
    broken.write_text("[all](reference/findings.md) and [one](page.md#here)")
    assert dead_links(broken) == ["reference/findings.md"]


def test_preflight_has_a_row_for_every_finding_of_the_code_and_no_other() -> None:
    known = set(reference().found.findings())
    assert len(known) > 60
    assert set(reference().causes()) == known


def test_questions_are_about_findings_that_exist() -> None:
    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    asked = re.findall(r"^### ([a-z]+(?:-[a-z]+)*)$", page, re.M)
    assert len(asked) > 25
    assert set(asked) <= set(reference().found.findings())


def test_every_exit_status_of_an_error_is_in_its_table() -> None:
    page = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    listed = set(map(int, re.findall(r"^\| (\d+) \|", page, re.M)))
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and hasattr(k, "status")]
    assert listed == {0, *(kind.status for kind in kinds)}


def test_the_reference_has_every_verb_option_and_function(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app)
    for name, verb in group.commands.items():
        assert f'id="saccade-{name}"' in commands
        for one in verb.params:
            assert one.hidden or one.opts[0] in commands or one.name.upper() in commands

    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert set(saccade.__all__) == {"__version__", *saccade._HOMES}
    assert all(f'id="{name.lower()}"' in python for name in saccade.__all__ if name[0] != "_")


@pytest.mark.models
def test_the_reference_has_every_model() -> None:
    page = reference().models()
    assert all(f"| `{name}` |" in page for name in saccade.list_models())


def test_control_words_of_a_finding_are_found(tmp_path: Path) -> None:
    tree = ast.parse(
        "def helper(kind, what):\n"
        "    text = f'{what} is bad: '\n"
        "    text += 'really'\n"
        "    return Finding(kind, 'error', text, fix='stop', status=65)\n"
        "def user():\n"
        "    return helper('too-bad', 'the image')\n"
        "def other():\n"
        "    raise DataError(f'no {image}', fix='go', finding='none-here')\n"
    )
    said = [
        (s.id, s.severity, s.message, s.fix, s.status) for s in reference().found.of_module(tree)
    ]
    assert said == [
        ("too-bad", "error", "… is bad: really", "stop", 65),
        ("none-here", "error", "no …", "go", 65),
    ]


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


def test_notebooks_are_pages_with_their_code_and_the_file_itself(site: Path) -> None:
    notebooks = list((DOCS / "notebooks").glob("*.ipynb"))
    overview = (site / "notebooks.html").read_text(encoding="utf-8")
    for notebook in notebooks:
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert f'href="notebooks/{notebook.stem}.html"' in overview
        assert f'href="{notebook.name}"' in page and "import" in page and "saccade" in page
        assert (site / "notebooks" / notebook.name).read_bytes() == notebook.read_bytes()
    assert len(notebooks) == 3


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
