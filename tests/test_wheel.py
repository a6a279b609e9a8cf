"""The wheel that is published: it is built here, and its contents are compared with the source."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import saccade

ROOT = Path(__file__).parents[1]
INFO = f"saccade_train-{saccade.__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Read what the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())


def names(wheel: Path) -> set[str]:
    """Return the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_the_whole_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "saccade").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = names(wheel)
    assert {name for name in found if not name.startswith(f"{INFO}/")} == package
    # what is no module is what a build forgets
    for part in ("recipes/digits.yaml", "recipes/receipts/digits.json", "report/page.css"):
        assert f"saccade/{part}" in found


def test_the_wheel_has_the_licences_of_all_that_is_in_it(wheel: Path) -> None:
    texts = {"LICENSE", "NOTICE", "LICENSES/torchvision-BSD-3-Clause.txt"}
    assert {f"{INFO}/licenses/{name}" for name in texts} <= names(wheel)
    with zipfile.ZipFile(wheel) as archive:
        notice = archive.read(f"{INFO}/licenses/NOTICE").decode()
    for name in ("digits.csv.gz", "imagenet_classes.txt"):
        assert name in notice


@pytest.mark.spec(49)
def test_the_wheel_names_project_version_and_command(wheel: Path, metadata: Message) -> None:
    assert wheel.name == f"saccade_train-{saccade.__version__}-py3-none-any.whl"
    assert metadata["Name"] == "saccade-train"
    assert metadata["Version"] == saccade.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    with zipfile.ZipFile(wheel) as archive:
        commands = archive.read(f"{INFO}/entry_points.txt").decode()
    assert commands.split("\n")[:2] == ["[console_scripts]", "saccade = saccade.__main__:start"]


def test_the_size_of_the_wheel_is_the_one_on_the_page(wheel: Path) -> None:
    page = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    stated = re.search(r"The wheel is ([\d.]+) MB", page)
    assert stated is not None
    assert wheel.stat().st_size / 1e6 == pytest.approx(float(stated[1]), abs=0.1)


@pytest.mark.spec(49)
def test_everything_but_the_extras_is_installed_by_name_alone(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"dev", "onnx", "timm", "track"} <= extras
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    for optional in ("timm", "onnx", "tensorboard", "pytest"):
        assert not [line for line in needed if line.startswith(optional)]


def test_the_version_is_written_in_one_file() -> None:
    places = [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *(ROOT / "src").rglob("*.py")]
    holding = [
        path.name
        for path in places
        if path.is_file() and saccade.__version__ in path.read_text(encoding="utf-8")
    ]
    assert holding == ["_version.py"]
