"""The loss before the first step where a run starts from weights: heads, and what is refused."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_sets import QUIET, asked, built, errors, make_set, rehearse
from torch import Tensor, nn

import saccade
from saccade.findings import Finding
from saccade.models import create_model
from saccade.setup.initial_weights import initialise
from saccade.training.run import Run


class Stranger(nn.Module):
    """A network of the user's own, with a head that answers loudly."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.top = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, width)
        nn.init.uniform_(self.top.weight, -9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def started(tmp_path: Path, weights: dict[str, Tensor], module: Any, **flags: Any) -> Run:
    torch.save(weights, tmp_path / "weights.pth")
    composed = asked(
        make_set(tmp_path / "set"), **{"model.init": str(tmp_path / "weights.pth")} | flags
    )
    run = built(composed, tmp_path / "run", module)
    initialise(run, QUIET)
    return run


@pytest.mark.parametrize("name", ["resnet8", "timm:test_resnet", "torchvision:squeezenet1_1", ""])
def test_every_head_that_weights_do_not_give_starts_at_zero(name: str, tmp_path: Path) -> None:
    # timm's head begins as a uniform draw as wide as +-0.7, which costs 24 points in a short run
    side = {"data.image_size": 64} if name else {}
    theirs = create_model(name, num_classes=7, image_size=64) if name else Stranger(7)
    flags = {"model.name": name} | side if name else {}
    run = started(tmp_path, theirs.state_dict(), None if name else Stranger(), **flags)
    findings = rehearse(run)
    assert "loss-at-start" not in findings and run.history.init["head"] == "zero"

    run.state.model.eval()
    with torch.no_grad():
        answer = run.state.model(torch.randn(4, 3, 64, 64))
    assert answer.shape == (4, 2) and not answer.any()


def test_a_file_without_a_head_leaves_it_at_zero_too(tmp_path: Path) -> None:
    theirs = {n: t for n, t in Stranger().state_dict().items() if not n.startswith("top.")}
    run = started(tmp_path, theirs, Stranger())
    assert run.history.init["head"] == "zero" and errors(rehearse(run)) == {}
    assert not run.state.model.get_parameter("top.weight").any()


class Doubled(Stranger):
    """A network whose last layer is not the head: what answers is drawn, and as wide."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)
        self.last = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 9


def test_a_head_that_cannot_be_found_is_an_error(tmp_path: Path) -> None:
    theirs = {n: t for n, t in Doubled().state_dict().items() if not n.startswith(("top", "last"))}
    run = started(tmp_path, theirs, Doubled())
    found = rehearse_all(run)
    assert found["loss-at-start"].status == 76
    assert "set its weights to zero" in found["loss-at-start"].fix


def test_a_probe_that_is_too_sure_of_itself_is_a_warning(tmp_path: Path) -> None:
    run = started(tmp_path, Stranger(7).state_dict(), Stranger())
    with torch.no_grad():
        run.state.model.get_parameter("top.bias").copy_(torch.tensor([9.0, 0.0]))
    run.history.init["head"] = "probe"
    assert rehearse_all(run)["loss-at-start"].severity == "warning"


class Sure(nn.Module):
    """A trained head: class a is what is darker, or redder, class b the opposite."""

    def __init__(self, weights: tuple[float, float, float]) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([weights, weights]).view(2, 3, 1, 1))
            self.fc.weight[0].neg_()
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).mean((2, 3))  # type: ignore[no-any-return]


def painted(root: Path, a: tuple[int, int, int], b: tuple[int, int, int]) -> Path:
    """Two classes, each of images in one colour and a little noise."""
    for split, count in (("train", 6), ("val", 2)):
        for name, colour in (("a", a), ("b", b)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng([i, count, *colour]).integers(-9, 10, (24, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                out = io.BytesIO()
                Image.fromarray(pixels).save(out, "PNG")
                (folder / f"{i}.png").write_bytes(out.getvalue())
    return root


def rehearse_all(run: Run) -> dict[str, Finding]:
    """Return the findings of the trial, those that refuse the run included."""
    from saccade.errors import SaccadeError

    try:
        return rehearse(run)
    except SaccadeError as error:
        return {found.id: found for found in [Finding.of(error)]}


@pytest.mark.parametrize(
    ("colours", "head", "wrong", "advice"),
    [
        (
            ((20, 20, 20), (235, 235, 235)),
            (3.0, 3.0, 3.0),
            {"data.mean": (1.5, 1.5, 1.5), "data.std": (0.5, 0.5, 0.5)},
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        (
            ((20, 120, 235), (235, 120, 20)),
            (-9.0, 0.0, 9.0),
            {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.5, 0.5, 0.5)},
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --bgr",
        ),
        (
            ((20, 20, 20), (235, 235, 235)),
            (-3.0, -3.0, -3.0),
            {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.25, 0.25, 0.25)},
            "--set finetune.head_start=anew",
        ),
    ],
)
def test_a_head_that_sees_other_pixels_is_refused_with_the_likely_cause(
    colours: Any, head: Any, wrong: dict[str, Any], advice: str, tmp_path: Path
) -> None:
    torch.save(Sure(head).state_dict(), tmp_path / "weights.pth")
    settings = {"model.init": str(tmp_path / "weights.pth"), "batch.global": 12} | wrong
    composed = asked(painted(tmp_path / "set", *colours), **settings)
    run = built(composed, tmp_path / "run", Sure((0, 0, 0)))
    initialise(run, QUIET)
    found = rehearse_all(run)["loss-at-start"]
    assert run.history.init["head"] == "loaded" and found.severity == "error"
    assert advice in found.fix and f"ln(2) = {math.log(2):.2f}" in found.message

    # the advice works when it is followed
    words = advice.split()
    followed: dict[str, Any] = {"finetune__head_start": "anew"}
    if "--mean" in words:
        followed = {"mean": words[1], "std": words[3], "bgr": "--bgr" in words}
    outcome = saccade.train(
        "photos-small",
        data=tmp_path / "set",
        image_size=24,
        batch_size=12,
        epochs="1step",
        model=Sure((0, 0, 0)),
        init=tmp_path / "weights.pth",
        out=tmp_path / "run",
        quiet=True,
        **followed,
    )
    assert outcome.settings["data"]["channels"] == ("bgr" if "--bgr" in words else "rgb")


def test_what_the_weights_themselves_say_is_the_first_cause_looked_for(tmp_path: Path) -> None:
    said = {"mean": "0.392 0.392 0.392", "std": "0.04 0.04 0.04"}
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(safetensors.torch.save(dict(Sure((3,) * 3).state_dict()), metadata=said))
    wrong = {"data.mean": (0.9, 0.9, 0.9), "data.std": (0.04, 0.04, 0.04)}
    settings = {"model.init": str(weights), "batch.global": 12} | wrong
    # nothing else tells these two shades apart
    composed = asked(painted(tmp_path / "set", (90, 90, 90), (110, 110, 110)), **settings)
    run = built(composed, tmp_path / "run", Sure((0, 0, 0)))
    initialise(run, QUIET)
    found = rehearse_all(run)["loss-at-start"]
    assert "as the weights were trained" in found.message
    assert found.fix == "--mean 0.392,0.392,0.392 --std 0.04,0.04,0.04"
