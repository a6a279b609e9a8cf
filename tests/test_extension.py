"""One more of each kind is added to a copy of the package, in the files that CONTRIBUTING names.

A recipe that uses all of them is trained there, by a process of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"

Edit = str | Callable[[str], str]
"""The text of a new file, or what an existing file becomes."""


def before(anchor: str, addition: str) -> Callable[[str], str]:
    """Insert a text before the one place where ``anchor`` stands."""

    def edit(text: str) -> str:
        assert text.count(anchor) == 1, f"{anchor!r} stands {text.count(anchor)} times"
        return text.replace(anchor, addition + anchor)

    return edit


def appended_to_purposes(text: str) -> str:
    """Give ``Purpose`` one more member, with the next number."""
    members = re.findall(r"^    [A-Z_]+ = (\d+)$", text, flags=re.M)
    last = f" = {members[-1]}\n"
    assert text.count(last) == 1
    return text.replace(last, f"{last}    INVERT = {int(members[-1]) + 1}\n")


SIGN_SGD = '''"""SignSGD: every weight moves by the rate. *Source:* Bernstein et al. 2018."""

from __future__ import annotations

from typing import Any

import torch


class SignSgd(torch.optim.Optimizer):
    """Momentum whose sign alone counts."""

    def __init__(self, groups: Any, lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    velocity = self.state[param]["momentum_buffer"]
                    velocity.lerp_(param.grad, 1 - group["momentum"])
                    param.sub_(velocity.sign(), alpha=group["lr"])
'''

INVERT = '''"""Inverting: some images become their negatives."""

from __future__ import annotations

from PIL import ImageOps
from PIL.Image import Image as Picture

from saccade.config.schema import AugmentSection
from saccade.data.augment.augmentation import ImageAugmentation, Views
from saccade.rng import Purpose


class Invert(ImageAugmentation):
    """Some images become their negatives."""

    switches = ("invert",)

    def __init__(self, section: AugmentSection, views: Views) -> None:
        """Draw which."""
        self._draws = views.uniform(Purpose.INVERT, 1)[:, 0] < section.invert

    def apply(self, image: Picture, place: int) -> Picture:
        """Invert an image, or return it as it is."""
        return ImageOps.invert(image) if self._draws[place] else image
'''

STRIPES = '''"""Stripes: a built-in set of 64 images of 16 px, across or down."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from saccade.data.sources.split import Source, assemble

NAME = "stripes"


def open_stripes() -> Source:
    """Return the splits train (48) and val (16)."""
    paths, records = [], []
    for number in range(64):
        split, kind = "train" if number < 48 else "val", ("across", "down")[number % 2]
        pixels = np.zeros((16, 16), np.uint8)
        pixels[number % 3 :: 3] = 255 - number
        paths.append(f"{split}/{kind}/{number:02d}.pgm")
        turned = pixels if kind == "across" else pixels.T
        records.append(b"P5\\n16 16\\n255\\n" + turned.tobytes())
    sizes = np.array([len(record) for record in records], np.int64)
    return assemble(Path(NAME), paths, sizes, (), records.__getitem__, Counter(), stamp=NAME)
'''

TINY = '''"""Tiny: one convolution and a head."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options, register


class Tiny(Network):
    """One convolution and a head."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(options.in_channels, 8, 3, padding=1)
        self.levels = (Level(8, 1),)
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.fc = nn.Linear(8, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map of images (B, 3, H, W)."""
        return [self.conv1(x).relu()]

    def embed(self, x: Tensor) -> Tensor:
        """Return the mean of the map, (B, 8)."""
        return self.features(x)[0].mean((2, 3))


register("tiny", Tiny, family="tiny", source="a test", image_size=16, smallest=8)
'''

RECIPE = """about: Everything that a test adds.
epochs: 2ep
model: {name: tiny}
data: {train: stripes, image_size: 16, eval_crop: 1.0}
batch: {global: 8, cell: 8}
optimizer: {name: sign-sgd, lr: 0.01 per 8}
augment: {crop: padded, flip: 0.0, pad: 0.0, invert: 0.5}
"""

VERB = '''"""``saccade size``: how many images a set has."""

from __future__ import annotations

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show


@app.command(epilog="Example: saccade size digits")
def size(data: str, json_out: options.Json = False) -> None:
    """Count the images of a set."""
    with explained(json_out):
        from saccade.data.sources import open_source

        counts = {name: len(split) for name, split in open_source(data).splits.items()}
        print_json(counts) if json_out else show(str(counts))
'''

ADDITIONS: dict[str, dict[str, Edit]] = {
    "an optimiser": {
        "optim/sign_sgd.py": SIGN_SGD,
        "optim/methods.py": lambda text: before(
            "\n\n@dataclass(frozen=True, slots=True)\nclass Settings",
            "from saccade.optim.sign_sgd import SignSgd\n",
        )(
            before(
                '    "muon": Method(',
                '    "sign-sgd": Method(\n        "SignSGD",\n'
                "        lambda groups, s: SignSgd(groups, s.lr, s.momentum),\n"
                '        "sqrt",\n        MOMENTUM,\n    ),\n',
            )(text)
        ),
    },
    "an augmentation": {
        "data/augment/invert.py": INVERT,
        "data/augment/chain.py": lambda text: before(
            "from saccade.data.augment.mix import",
            "from saccade.data.augment.invert import Invert\n",
        )(before("    Erase,\n    Cutout,\n", "    Invert,\n")(text)),
        "config/augment.py": before(
            "    erase: float =", '    invert: float = _results(0.0, "chance of inverting")\n'
        ),
        "rng.py": appended_to_purposes,
    },
    "a source": {
        "data/sources/stripes.py": STRIPES,
        "data/sources/__init__.py": lambda text: before(
            "from saccade.errors import DataError\n",
            "from saccade.data.sources.stripes import open_stripes\n",
        )(
            before(
                "    path = Path(spec).expanduser()\n    known =",
                '    if spec == "stripes":\n        return open_stripes()\n',
            )(text)
        ),
    },
    "a model family": {
        "models/tiny.py": TINY,
        "models/__init__.py": before(
            "from saccade.models import vgg as vgg\n", "from saccade.models import tiny as tiny\n"
        ),
    },
    "a recipe": {"recipes/everything.yaml": RECIPE},
    "a verb": {
        "cli/size.py": VERB,
        "cli/main.py": before("\n# isort: on\n", "from saccade.cli import size as size\n"),
    },
}

DRIVER = """
import sys
from saccade.cli import main
for words in (["train", "everything", "--out", "run", "--json"], ["size", "stripes", "--json"]):
    sys.argv = ["saccade", *words]
    try:
        main.main()
    except SystemExit as end:
        assert end.code == 0, (words, end.code)

import numpy as np, torch
from saccade.config.layers import Layers
from saccade.data.loader import batches
from saccade.data.readers import Readers
from saccade.data.sources import open_source
from saccade.training.datasets import training_order, training_view

def seen(chance):
    layers = Layers()
    layers.add_file(__import__("saccade.recipes", fromlist=["find"]).find("everything").path)
    layers.set(f"augment.invert={chance}")
    config, split = layers.resolve(), open_source("stripes").splits["train"]
    view = training_view(config, split, training_order(config, 48), 6)
    readers = Readers(2)
    pixels = [batch.images.clone() for batch in batches(view, readers, 8, 0, 6)]
    readers.close()
    return view.decoded is not None, torch.cat(pixels)

(held, plain), (_, always), (free, some) = seen(0), seen(1), seen(0.5)
assert held and not free, "images that are held decoded are not inverted one by one"
assert torch.equal(always, 255 - plain)
turned = (some != plain).flatten(1).any(1)
assert 8 < int(turned.sum()) < 40 and torch.equal(some[turned], always[turned])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more of each kind, in which everything was run."""
    folder = tmp_path_factory.mktemp("extension")
    package = folder / "src" / "saccade"
    shutil.copytree(ROOT / "src" / "saccade", package, ignore=shutil.ignore_patterns("__pycache__"))
    for files in ADDITIONS.values():
        for name, edit in files.items():
            path = package / name
            assert path.exists() != isinstance(edit, str), f"{name} is new, or is changed"
            path.write_text(edit if isinstance(edit, str) else edit(path.read_text()))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env={"PYTHONPATH": str(package.parent), "PATH": "", "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said").write_text(done.stdout)
    return folder


def test_one_more_of_each_kind_works_when_only_the_named_files_are_touched(place: Path) -> None:
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "done" and facts["learning_rate"] == "0.01 = 0.01 x sqrt(8/8) (sqrt)"
    assert json.loads((place / "said").read_text().splitlines()[-1]) == {"train": 48, "val": 16}
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert config["optimizer"]["name"] == "sign-sgd" and config["model"]["name"] == "tiny"
    switches = [name for name in config["augment"] if name in ("gray", "invert", "erase", "mixup")]
    assert switches == ["gray", "invert", "erase", "mixup"], "settings keep the order"


def test_contributing_names_these_files() -> None:
    page = PAGE.read_text()
    for kind, files in ADDITIONS.items():
        (row,) = re.findall(rf"^\| {kind} \| ([^|]*) \|", page, flags=re.M)
        named = set(re.findall(r"`([\w/<>.]+)`", row))
        new = [name for name, edit in files.items() if isinstance(edit, str)]
        touched = {name for name in files if name not in new}
        touched |= {re.sub(r"\w+(\.\w+)$", r"<name>\1", name) for name in new}
        assert named == touched, kind
