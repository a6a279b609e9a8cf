"""Every block of Python that the documentation shows really runs, on small data under the names
that it uses.
"""

from __future__ import annotations

import doctest
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from containers import make_folder, make_zip
from saccade.evaluation.classifier import Classifier, Recipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```[ \t]*$", re.M | re.S)
SHOWN = 5
"""So many blocks there are at least; fewer, and this file looks at the wrong places."""


def shown(pages: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield (page and line, code) of every block of Python."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            yield f"{page.name}:{text.count(chr(10), 0, match.start()) + 2}", match[1]


BLOCKS = dict(
    shown([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))])
)


def photo(number: int) -> bytes:
    """Return a PNG file of 20 x 16 pixels, no two alike; even numbers are dark, odd ones bright."""
    pixels = np.random.default_rng(number).integers(0, 128, (16, 20, 3), np.uint8) + np.uint8(
        number % 2 * 127
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def run(code: str, names: dict[str, Any], place: str) -> None:
    """Run a block; where it shows a dialogue, its answers must be the ones that are shown."""
    if ">>>" not in code:
        exec(compile(code, place, "exec"), names)
        return
    dialogue = doctest.DocTestParser().get_doctest(code, names, place, place, 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(dialogue, out=said.append)
    assert not said, "".join(said)


class MyNetwork(nn.Module):
    """What a reader would hand over: nothing of ours in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Lay out the files that the pages speak of, and return the names that they take as given."""
    monkeypatch.chdir(tmp_path)
    kinds = {
        f"{'dog' if number % 2 else 'cat'}/{number}.png": photo(number) for number in range(20)
    }
    make_zip(tmp_path / "photos.zip", kinds)
    halves = {
        f"{'train' if n % 4 < 2 else 'val'}/{name}": data
        for n, (name, data) in enumerate(kinds.items())
    }
    make_folder(tmp_path / "photos", halves)
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "cat.jpg")

    model = saccade.create_model("resnet20", num_classes=2, image_size=32)
    torch.save(model.state_dict(), tmp_path / "checkpoint.pth")
    means = (0.5, 0.5, 0.5)
    trained = Classifier(model, Recipe("resnet20", ("cat", "dog"), 32, 1.0, means, means, "ignore"))
    folder = tmp_path / "runs" / "resnet50-photos-1a2b3c4d"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(trained.to_bytes())
    given = {"saccade": saccade, "torch": torch, "MyNetwork": MyNetwork, "model": model}
    return given | {"state_dict": model.state_dict()}


@pytest.mark.parametrize("place", BLOCKS)
@pytest.mark.spec("A20")
def test_a_block_of_python_runs(
    place: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run(BLOCKS[place], names, place)
    assert len(BLOCKS) >= SHOWN


def test_control_a_wrong_block_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "```python\nimport saccade\nsaccade.train(hold_out=0.1)\n```\n```python\n>>> 1 + "
        "1\n3\n\n```\n"
    )
    for place, code in shown([page]):
        with pytest.raises((saccade.SaccadeError, AssertionError)):
            run(code, {}, place)
