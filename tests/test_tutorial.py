"""The tutorial can be followed to the letter: its commands succeed, one after the other, in a new
folder with twenty photographs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
WEIGHTS = "timm:tf_efficientnet_lite0"
ELSEWHERE = ("make ", "pip ")
"""What is installed already where tests run."""


def steps() -> list[str]:
    """Return the commands of the tutorial, with weights from a file in place of a download."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    local = [
        line.replace(f"probe {WEIGHTS}", f"probe weights.safetensors --model {WEIGHTS}").replace(
            f"--init {WEIGHTS}", f"{WEIGHTS} --init weights.safetensors"
        )
        for line in lines
    ]
    return [line for line in local if not line.startswith(ELSEWHERE)]


def photograph(kind: int, number: int) -> Image.Image:
    """Return an image of 160 x 120 pixels; the two kinds are lit from different sides."""
    light = np.linspace(0, 160, 160)[:: 1 - 2 * kind][None, :, None]
    noise = np.random.default_rng([kind, number]).integers(0, 90, (120, 160, 3))
    return Image.fromarray((light + noise).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with what the reader has: twenty photographs, one more, and weights."""
    timm = pytest.importorskip("timm")
    work = tmp_path / "work"
    for kind, name in enumerate(("cat", "dog")):
        (work / "photos" / name).mkdir(parents=True)
        for number in range(10):
            photograph(kind, number).save(work / "photos" / name / f"IMG_{number}.jpg", quality=90)
    photograph(0, 99).save(work / "new-cat.jpg", quality=90)
    network = timm.create_model(WEIGHTS.removeprefix("timm:"))
    save_file(network.state_dict(), work / "weights.safetensors")
    return work


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
def test_the_tutorial_can_be_followed(folder: Path) -> None:
    shim = folder.parent / "bin" / "saccade"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m saccade "$@"\n')
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}
    assert len(steps()) >= 7
    for step in steps():
        done = subprocess.run(
            step, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"

    for made in ("first/report.html", "second/report.html", "second/export/model.onnx"):
        assert (folder / "runs" / made).is_file(), made
