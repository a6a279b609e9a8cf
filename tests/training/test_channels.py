"""The order of colours: a network that sees blue first is trained, judged and asked so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from console import run_here
from saccade import files
from saccade.data.augment.mix import normalise

COLOURS = ((200, 60, 20), (20, 90, 210))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same pictures twice: as they are, and with red and blue exchanged in the files."""
    roots = tmp_path_factory.mktemp("red"), tmp_path_factory.mktemp("blue")
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in zip("ab", COLOURS, strict=True):
            for i in range(count):
                noise = np.random.default_rng([count, i, *colour]).integers(-60, 61, (16, 16, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                for root, image in zip(roots, (pixels, pixels[..., ::-1]), strict=True):
                    folder = root / "photos" / split / name
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{i}.png")
    return roots[0] / "photos", roots[1] / "photos"


def trained(data: Path, out: Path, **flags: Any) -> saccade.Outcome:
    # nothing here looks at a colour by its place: cropped, mirrored, normalised
    settings: dict[str, Any] = {"model": "resnet8", "image_size": 16, "batch_size": 12}
    settings |= {"epochs": "3step", "precision": "fp32", "devices": "cpu", "quiet": True}
    return saccade.train("photos-small", data=data, out=out, **settings | flags)


@pytest.mark.spec(8)
def test_blue_first_is_the_same_as_files_with_the_colours_exchanged(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    """The judge is the order itself, written into the files: every bit of the run is the same."""
    theirs = trained(sets[0], tmp_path / "bgr", bgr=True, mean="0.2,0.4,0.6", std="0.1,0.2,0.3")
    same = trained(sets[1], tmp_path / "rgb", mean="0.6,0.4,0.2", std="0.3,0.2,0.1")
    plain = trained(sets[0], tmp_path / "plain", mean="0.2,0.4,0.6", std="0.1,0.2,0.3")

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return dict(saccade.load(folder).network.state_dict())

    ours, others = weights(theirs.folder), weights(same.folder)
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert theirs.result["loss"] == same.result["loss"]
    assert not torch.equal(ours["conv1.weight"], weights(plain.folder)["conv1.weight"])

    # what is judged again, asked and shown goes the same way
    again = saccade.evaluate(theirs.folder)
    assert again.loss == pytest.approx(theirs.result["loss"], abs=1e-6)
    places = [sorted((data / "val").rglob("*.png")) for data in sets]
    told = [
        [p.top for p in saccade.predict(run.folder, files_)]
        for run, files_ in zip((theirs, same), places, strict=True)
    ]
    assert told[0] == told[1]
    assert saccade.load(theirs.folder).recipe.channels == "bgr"


def test_the_contact_sheet_shows_true_colours(sets: tuple[Path, Path], tmp_path: Path) -> None:
    shown = []
    for name, more in (("rgb", ()), ("bgr", ("--set", "data.channels=bgr"))):
        out = tmp_path / f"{name}.png"
        words = ("show-augment", "photos-small", "--data", str(sets[0]), "--out", str(out))
        done = run_here(*words, "--set", "data.image_size=16", *more)
        assert done.status == 0, done.stderr
        with Image.open(out) as picture:
            shown.append(np.asarray(picture.convert("RGB"), np.int16))
    assert np.abs(shown[0] - shown[1]).max() <= 1


@pytest.mark.spec(8)
def test_the_mean_stays_that_of_red_green_and_blue() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    plain, turned = normalise(images, mean, std), normalise(images, mean, std, "bgr")
    assert torch.equal(turned, plain.flip(1))
    assert turned.is_contiguous(memory_format=torch.channels_last)


def test_a_resumed_run_keeps_the_order(sets: tuple[Path, Path], tmp_path: Path) -> None:
    trained(sets[0], tmp_path / "run", bgr=True)
    config = files.read_json(tmp_path / "run" / "run.json")
    assert config["status"] == "done"
    words = ("train", "photos-small", "--model", "resnet8", "--data", str(sets[0]))
    words += ("--image-size", "16", "--batch-size", "12", "--epochs", "3step")
    words += ("--precision", "fp32", "--devices", "cpu", "--out", str(tmp_path / "run"))
    assert run_here(*words, "--bgr").status == 0
    refused = run_here(*words)
    assert refused.status == 78 and "data.channels" in refused.stderr
