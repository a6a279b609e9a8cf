"""FAULTS H1 and H2: little memory, few open files; each ends with a named cause, or works."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from console import Done
from saccade.errors import ConfigError
from saccade.preflight.out_of_memory import building
from saccade.setup.compose import Request, preview

LIMIT_S = 120


def limited(kind: int, most: int, cwd: Path, *arguments: str) -> Done:
    """Run ``saccade train`` in a process that may have so much of something."""
    command = [sys.executable, "-m", "saccade", "train", *arguments]
    begin: Callable[[], None] = lambda: resource.setrlimit(kind, (most, most))  # noqa: E731
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, preexec_fn=begin
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to these limits")
@pytest.mark.parametrize("model", ["vgg16", "resnet50"])
@pytest.mark.fault("H2")
def test_too_little_memory_is_named_and_nothing_is_left_behind(model: str, tmp_path: Path) -> None:
    flags = (
        "photos-small",
        model,
        "--image-size",
        "224",
        "--batch-size",
        "512",
        "--set",
        "batch.cell=512",
    )
    done = limited(
        resource.RLIMIT_AS, 4_000_000_000, tmp_path, *flags, "--epochs", "2step", "--out", "run"
    )
    assert (done.status, "[out-of-memory]" in done.stderr) == (78, True), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to these limits")
@pytest.mark.parametrize(("most", "statuses"), [(64, (0,)), (12, (74, 78))])
@pytest.mark.fault("H2")
def test_few_open_files_are_enough_or_are_named(
    most: int, statuses: tuple[int, ...], tmp_path: Path
) -> None:
    done = limited(resource.RLIMIT_NOFILE, most, tmp_path, "--epochs", "6step", "--out", "run")
    assert done.status in statuses, done.stderr
    if done.status:
        assert "Too many open files" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")],
)
@pytest.mark.fault("H1")
def test_memory_that_ends_while_the_network_is_made_is_a_finding(error: Exception) -> None:
    config = preview(Request(["resnet8"]))
    with (
        pytest.raises(ConfigError, match="resnet8 and its optimiser do not fit") as caught,
        building(config),
    ):
        raise error
    assert caught.value.finding == "out-of-memory"
    with pytest.raises(ZeroDivisionError), building(preview(Request())):
        raise ZeroDivisionError
