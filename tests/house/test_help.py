"""Help is complete, and instant because nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

from saccade.cli.main import app

VERBS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEAVY = ("torch", "numpy", "matplotlib", "PIL")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "saccade", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert {"saccade", "typer"} <= imported, "importtime speaks another language than this test"
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    answer = CliRunner().invoke(app, [verb, "--help"])
    assert answer.exit_code == 0
    assert f"Example: saccade {verb}" in answer.output


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_option_of_every_verb_says_what_it_does(verb: str) -> None:
    silent = [p.name for p in VERBS[verb].params if not getattr(p, "help", None)]
    assert not silent
