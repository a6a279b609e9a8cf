"""Broken copies of the product: each one breaks one promise, and the named test must turn red.

``breaks.yaml`` lists them. That every break still fits the source is checked by ``make test``; that
every named test is green on the product and red on the broken copy takes minutes and is checked by
``make test-mutants``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LIMIT_S = 600


@dataclass(frozen=True)
class Break:
    """One promise, the place that keeps it, what stands there and what is put instead, and the
    test that sees it.
    """

    promise: str
    file: str
    find: str
    put: str
    test: str


BREAKS = [
    Break(**entry)
    for entry in yaml.safe_load(Path(__file__).with_name("breaks.yaml").read_text("utf-8"))
]
each_break = pytest.mark.parametrize("broken", BREAKS, ids=[b.promise for b in BREAKS])


def broken_copy(broken: Break, folder: Path) -> Path:
    """Copy the package, break one line of the copy, and return the folder to import it from."""
    package = Path(
        shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    )
    place = package / Path(broken.file).relative_to("src")
    text = place.read_text("utf-8").replace(broken.find, broken.put)
    compile(text, str(place), "exec")  # a copy that does not even start would prove nothing
    place.write_text(text, "utf-8")
    return package


def run_test(name: str, package: Path) -> subprocess.CompletedProcess[str]:
    """Run one test, of the long shelf or not, against a copy of the package, until it fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", name]
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )


@each_break
def test_every_break_fits_the_source_and_names_a_test(broken: Break) -> None:
    source = (ROOT / broken.file).read_text("utf-8")
    assert source.count(broken.find) == 1, "the text to break must stand there exactly once"
    assert broken.put != broken.find

    file, _, name = broken.test.partition("::")
    function = name.partition("[")[0]
    assert f"def {function}(" in (ROOT / file).read_text("utf-8"), "the test does not exist"


@pytest.mark.mutants
def test_the_named_tests_are_green_on_the_product() -> None:
    names = sorted({b.test for b in BREAKS})
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.mutants
@each_break
def test_a_broken_promise_turns_its_test_red(broken: Break, tmp_path: Path) -> None:
    done = run_test(broken.test, broken_copy(broken, tmp_path / "src"))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, (
        done.stdout[-3000:] + done.stderr[-2000:]
    )
