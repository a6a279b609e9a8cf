"""The targets of the Makefile run the commands that they promise, with paths from variables and
without sudo.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import console

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

NETWORKS = [
    "alexnet1",
    "alexnet2",
    "vgg16",
    "vgg19",
    "inception1",
    "resnet34",
    "resnet50",
    "mobilenet1",
    "alexnet-v2-200ep",
]
"""What the Makefile of deep-vision can train, and a recipe."""


def dry(*words: str) -> list[str]:
    """Return the lines that ``make`` would run, after an installation."""
    old = ["-o", ".venv/.installed", "-o", ".venv/.installed-dev"]
    done = subprocess.run(
        ["make", "-n", *old, *words],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.spec(48)
@pytest.mark.parametrize("verb", ["train", "resume"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_target_trains_what_it_is_called_after(verb: str, network: str, tmp_path: Path) -> None:
    (line,) = dry(f"{verb}_{network}", "DATA=digits", "ARGS=--epochs 1step")
    program, *arguments = shlex.split(line)
    assert program.endswith("saccade") and arguments[:4] == ["train", network, "--data", "digits"]
    done = console.run_here(*arguments, "--dry-run", "--json", cwd=tmp_path)
    assert done.status == 0, done.stderr


@pytest.mark.spec(48)
def test_no_target_asks_for_rights_or_knows_a_place_of_its_author() -> None:
    for target in ("install", "create", "test", "format", "check", "clean"):
        said = "\n".join(dry(target))
        assert "sudo" not in said and "nohup" not in said and "/home/" not in said
    assert any("pytest" in line for line in dry("test"))
    assert any(
        "saccade report runs/x --notebook" in line.replace('"', "")
        for line in dry("visualize", "RUN=runs/x")
    )


@pytest.mark.spec(48)
def test_a_target_that_lacks_a_variable_says_which() -> None:
    done = subprocess.run(
        ["make", "-o", ".venv/.installed", "visualize"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "make visualize RUN=runs/..." in done.stderr
