"""What is around the code agrees with it: the versions that CI runs, forms, the changelog."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from source_tree import ROOT

from saccade import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [
    match[1] for c in PROJECT["classifiers"] if (match := re.fullmatch(r".*Python :: (3\.\d+)", c))
]


def read(name: str) -> Any:
    """Read a YAML file of the repository."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("job", ["test", "wheel"])
def test_ci_runs_on_every_system_and_python_that_is_claimed(job: str) -> None:
    matrix = read(".github/workflows/tests.yml")["jobs"][job]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert matrix["system"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_hooks_are_local_and_fetch_nothing() -> None:
    hooks = read(".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_forms_ask_for_the_version_and_have_names_of_their_own() -> None:
    forms = [read(f".github/ISSUE_TEMPLATE/{name}.yml") for name in ("bug", "wish")]
    fields = [field["id"] for field in forms[0]["body"] if "id" in field]
    assert {"command", "output", "facts", "version"} <= set(fields)
    assert len(fields) == len(set(fields))
    assert all(form["name"] and form["description"] for form in forms)


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    assert newest is not None and newest[1] == __version__


def test_the_citation_is_complete() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "type", "license"} <= set(citation)
