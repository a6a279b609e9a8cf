"""FAULTS A3, E4: prepare is killed anywhere, started twice, cut off from power.

The same command ends the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saccade import rng
from saccade.data.prepare import MANIFEST

NUM_IMAGES = 300
STAGES = 2 * NUM_IMAGES + 1
POINTS = [*range(2), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 20))]
VICTIM = """
import os, sys
from saccade import files
from saccade.cli import main as cli
left, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))
def stage(_name):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)
files.stage = stage
cli.main()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "set"
    for i in range(NUM_IMAGES):
        path = folder / ("val" if i % 5 == 0 else "train") / f"class{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"image {i} ".encode() * (i + 1))
    return folder


@pytest.fixture(scope="module")
def clean(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("clean") / "out"
    assert finish(start(source, out)) == 0
    return read(out)


def start(
    source: Path, out: Path, stage: int = 0, number: int = signal.SIGKILL
) -> subprocess.Popen[str]:
    """Start ``saccade prepare``; at the given stage it sends itself a signal."""
    command = [
        sys.executable,
        "-c",
        VICTIM,
        str(stage),
        str(int(number)),
        "prepare",
        str(source),
        str(out),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str], words: str = "") -> int:
    _, text = process.communicate(timeout=60)
    assert words in text and "Traceback" not in text
    return process.returncode


def read(out: Path) -> dict[str, bytes]:
    """Read everything except the lock."""
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    return {name: data for name, data in found.items() if name != ".lock"}


@pytest.mark.parametrize("seed", POINTS)
@pytest.mark.spec(2)
@pytest.mark.fault("A3", "E4")
def test_killed_at_a_random_point_the_same_command_ends_identical(
    seed: int, source: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    point = 1 + int(rng.uniform(rng.key(seed, 4021), 1)[0] * STAGES)
    out = tmp_path / "out"
    assert finish(start(source, out, point)) == -signal.SIGKILL, f"it ended before stage {point}"
    left = {
        name: data for name, data in read(out).items() if ".part-" not in name and name != MANIFEST
    }
    assert left.items() <= clean.items(), "a file under its final name is not whole"
    assert json.loads((out / MANIFEST).read_text())["splits"]["train"]["state"] == "begun"
    assert finish(start(source, out)) == 0
    assert read(out) == clean, f"killed at stage {point}"


def test_killed_again_and_again_on_the_way_it_ends_identical(
    source: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(3):
        assert finish(start(source, out, STAGES // 4)) == -signal.SIGKILL
    assert 3 * STAGES // 8 - 9 < len(read(out)) < NUM_IMAGES, (
        "an attempt did not go on where the last one was"
    )
    assert finish(start(source, out)) == 0
    assert read(out) == clean


def test_files_that_a_power_cut_left_torn_are_written_again(
    source: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert finish(start(source, out, STAGES - 1)) == -signal.SIGKILL
    torn = sorted(out.rglob("*.jpg"))[::40]
    for i, path in enumerate(torn):
        os.truncate(path, 0 if i % 2 else path.stat().st_size // 2)
    assert finish(start(source, out)) == 0
    assert read(out) == clean


@pytest.mark.fault("E4")
def test_two_at_once_the_second_is_refused_and_a_dead_one_holds_no_lock(
    source: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = start(source, out, STAGES // 2, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 60
        while os.waitpid(first.pid, os.WNOHANG | os.WUNTRACED)[0] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = read(out)
        assert (
            finish(start(source, out), f"another process (pid {first.pid}) is using this folder")
            == 78
        )
        assert read(out) == before
    finally:
        first.kill()
    finish(first)
    assert finish(start(source, out)) == 0
    assert read(out) == clean


def test_a_disk_that_fills_up_leaves_whole_files_and_the_same_command_goes_on(
    source: Path, clean: dict[str, bytes], tmp_path: Path
) -> None:
    import resource

    out = tmp_path / "out"
    command = [sys.executable, "-m", "saccade", "prepare", str(source), str(out)]
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)),
    )
    assert full.returncode == 74 and "cannot write" in full.stderr
    left = read(out)
    assert left.pop(MANIFEST) and left and left.items() <= clean.items()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert read(out) == clean


def test_control_without_renaming_a_torn_file_would_be_seen(source: Path, tmp_path: Path) -> None:
    """The check of the kill test has a way to fail: a victim that writes in place leaves a file
    that is not whole.
    """
    careless = VICTIM.replace(
        "files.stage = stage",
        "files.stage = stage\n"
        "def place(aside, final, data):\n"
        "    final.parent.mkdir(parents=True, exist_ok=True)\n"
        "    with open(final, 'wb') as file:\n"
        "        file.write(data[:len(data) // 2]); file.flush(); stage('half'); "
        "file.write(data[len(data) // 2:])\n"
        "files.place = place",
    )
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        careless,
        "40",
        str(int(signal.SIGKILL)),
        "prepare",
        str(source),
        str(out),
    ]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    sizes = {path.relative_to(out): path.stat().st_size for path in out.rglob("*.jpg")}
    assert any(size != (source / path).stat().st_size for path, size in sizes.items())
