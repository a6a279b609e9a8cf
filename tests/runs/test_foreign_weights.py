"""Weights that others trained, scored and asked: their pixels, their classes, nothing random."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from console import run_here
from saccade.data.sources import ilsvrc
from saccade.errors import CheckpointError, SaccadeError, UsageError
from saccade.models import create_model

SHARED = Path(__file__).parents[3] / "shared" / "data"
WNIDS = ("n01440764", "n02085782", "n03028079")
COLOURS = ((230, 20, 20), (20, 230, 20), (20, 20, 230))


class Painter(nn.Module):
    """A network that knows red, green and blue images, and answers with ImageNet's classes."""

    def __init__(self, width: int = 1000) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).mean((2, 3))  # type: ignore[no-any-return]


def painter(width: int = 1000) -> Painter:
    """Return one whose answer is right for images of the colours: the channel is the class."""
    network = Painter(width)
    places = [ilsvrc.wnids().index(wnid) for wnid in WNIDS] if width == 1000 else range(3)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.zero_()
        for channel, place in enumerate(places):
            network.fc.weight[place, channel] = 9.0
    return network


def pictures(root: Path, folders: tuple[str, ...], names: tuple[str, ...] = ("", "", "")) -> Path:
    for folder, name, colour in zip(folders, names, COLOURS, strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            pixels = np.full((12, 12 + i, 3), colour, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{name or folder}_{i}.png")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"state_dict": painter().state_dict()}, tmp_path / "painter.pth")
    return tmp_path / "painter.pth"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (WNIDS, ("", "", "")),
        (("tench", "Japanese spaniel", "church"), ("", "", "")),
        (("TENCH", "japanese_spaniel", "Church"), ("", "", "")),
        (tuple(f"{w}_{i}" for i, w in enumerate(WNIDS)), ("", "", "")),
        (("photos",) * 3, tuple(f"{w}_some_name" for w in WNIDS)),
    ],
)
@pytest.mark.spec(30)
def test_imagenets_classes_are_known_by_wnid_and_by_name(
    folders: tuple[str, ...], names: tuple[str, ...], weights: Path, tmp_path: Path
) -> None:
    data = pictures(tmp_path / "set", folders, names)
    result = saccade.evaluate(weights, data, module=Painter(), image_size=8)
    assert result.top1 == 1.0 and result.n == 6 and result.logits.shape == (6, 1000)


def test_mean_deviation_and_order_of_colours_are_those_that_are_said(
    weights: Path, tmp_path: Path
) -> None:
    data = pictures(tmp_path / "set", WNIDS)
    blue_first = saccade.evaluate(weights, data, module=Painter(), image_size=8, bgr=True)
    assert blue_first.top1 == pytest.approx(1 / 3)  # green stays where it is
    # the judge is arithmetic: the network is linear
    result = saccade.evaluate(weights, data, module=Painter(), image_size=8, mean=0.25, std="0.5")
    expected = 9 * (20 / 255 - 0.25) / 0.5
    assert float(result.logits[0, ilsvrc.wnids().index(WNIDS[1])]) == pytest.approx(expected, 1e-5)

    classifier = saccade.load(weights, Painter(), bgr=True, mean=0.25, std=0.5, image_size=8)
    stored = tmp_path / "model.safetensors"
    stored.write_bytes(classifier.to_bytes())
    again = saccade.load(stored, Painter())
    assert again.recipe == classifier.recipe and again.recipe.channels == "bgr"
    told = [next(saccade.predict(c, data / WNIDS[0])).label for c in (classifier, again)]
    assert told == [WNIDS[2]] * 2


def test_the_line_about_the_weights_says_which_pixels_they_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "set", WNIDS)
    # safetensors can say what its weights were trained with
    own = {"mean": "0.25 0.25 0.25", "std": "0.5 0.5 0.5"}
    file = tmp_path / "painter.safetensors"
    file.write_bytes(safetensors.torch.save(dict(painter().state_dict()), metadata=own))

    def said(**pixels: Any) -> str:
        saccade.evaluate(file, data, module=Painter(), image_size=8, **pixels)
        return capsys.readouterr().err

    followed = said()
    assert "mean 0.25 0.25 0.25" in followed and "images with" not in followed
    other = said(mean=0.1, bgr=True)
    assert "images with mean 0.1 0.1 0.1, std 0.5 0.5 0.5 in BGR order; 8 px" in other
    assert "were trained with mean 0.25 0.25 0.25, but now get images with 0.1 0.1 0.1" in other
    assert "were trained with std" not in other


def test_a_head_of_other_classes_is_said_in_words(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cats = pictures(tmp_path / "cats", ("cat", "dog", "cow"))
    with pytest.raises(CheckpointError) as caught:
        saccade.evaluate(weights, cats, module=Painter(), image_size=8)
    assert "has ImageNet's 1,000 classes, but the data has 3" in str(caught.value)
    assert "saccade train NAME --init" in caught.value.fix

    # as many as the data has: its order is the only one there is
    torch.save(painter(3).state_dict(), tmp_path / "three.pth")
    in_order = pictures(tmp_path / "order", ("a", "b", "c"))
    capsys.readouterr()
    result = saccade.evaluate(tmp_path / "three.pth", in_order, module=Painter(3), image_size=8)
    assert result.top1 == 1.0
    assert "their outputs are taken as a, b, c, in this order" in capsys.readouterr().err
    shutil.rmtree(in_order / "c")
    with pytest.raises(CheckpointError, match=r"has 3 classes, but the data has 2 \(a, b\)"):
        saccade.evaluate(tmp_path / "three.pth", in_order, module=Painter(3), image_size=8)


@pytest.mark.spec(30)
def test_nothing_random_is_scored(tmp_path: Path) -> None:
    state = create_model("resnet8", num_classes=10, seed=1).state_dict()
    data = ("--data", "digits", "--image-size", "16")

    def scored(tensors: dict[str, Tensor], *words: str) -> Any:
        torch.save(tensors, tmp_path / "w.pth")
        return run_here("eval", str(tmp_path / "w.pth"), *words, *data, "--json")

    done = scored(state, "--model", "resnet8")
    assert done.status == 0 and json.loads(done.stdout)["n"] == 360, done.stderr
    assert "tensors (100.0% of the weights)" in done.stderr

    headless = {n: t for n, t in state.items() if not n.startswith("fc.")}
    done = scored(headless, "--model", "resnet8")
    assert done.status == 66 and "these weights have no head" in done.stderr
    partly = {n: t for n, t in state.items() if not n.startswith("layer2.0.bn1.running")}
    done = scored(partly, "--model", "resnet8")
    assert done.status == 66 and "norms are missing: layer2.0.bn1.running_mean" in done.stderr
    assert "buffers included" in done.stderr
    done = scored(state, "--model", "resnet14")
    assert done.status == 66 and "would stay random" in done.stderr
    assert "resnet14 is not the network of these weights" in done.stderr
    damaged = state | {"conv1.weight": torch.full_like(state["conv1.weight"], torch.nan)}
    done = scored(damaged, "--model", "resnet8")
    assert done.status == 66 and f"where: {tmp_path / 'w.pth'}" in done.stderr
    done = scored(state)
    assert done.status == 66 and "--model" in done.stderr
    (tmp_path / "w.pth").unlink()
    done = run_here("eval", str(tmp_path / "w.pth"), "--model", "resnet8", *data)
    assert done.status == 66 and "there are no weights at this path" in done.stderr


def test_weights_of_ours_say_themselves_what_they_are(tmp_path: Path) -> None:
    outcome = saccade.train(
        "digits", model="resnet8", epochs="1step", out=tmp_path / "run", quiet=True
    )
    for keywords in ({"module": "resnet8"}, {"mean": 0.5}, {"bgr": True}, {"image_size": 8}):
        for weights in (outcome.folder, outcome.folder / "model.safetensors"):
            with pytest.raises(UsageError, match="already says"):
                saccade.evaluate(weights, **keywords)


@pytest.mark.spec(38)
def test_predict_takes_weights_of_others(weights: Path, tmp_path: Path) -> None:
    data = pictures(tmp_path / "set", WNIDS)
    answers = saccade.predict(weights, data, module=Painter(), image_size=8, top=1)
    assert [a.label for a in answers] == [w for w in WNIDS for _ in range(2)]

    state = create_model("resnet8", num_classes=7, seed=1).state_dict()
    torch.save(state, tmp_path / "seven.pth")
    picture = str(next((data / WNIDS[0]).iterdir()))
    done = run_here("predict", str(tmp_path / "seven.pth"), picture, "--model", "resnet8", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)[0]["top"][0]["class"].startswith("class ")
    done = run_here("predict", str(tmp_path / "seven.pth"), picture)
    assert done.status == 66 and "--model" in done.stderr


@pytest.mark.parametrize("remarks", [{}, {"format": "pt"}])
def test_a_wrong_name_of_a_network_is_answered(remarks: dict[str, str], tmp_path: Path) -> None:
    torch.save(painter().state_dict(), tmp_path / "w.pth")
    with pytest.raises(SaccadeError, match="there is no model 'resnet-fifty'"):
        saccade.load(tmp_path / "w.pth", "resnet-fifty")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "test_vit"])
def test_images_are_resized_and_cut_as_timm_does_it_for_these_weights(
    name: str, tmp_path: Path
) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    recipe = saccade.load(tmp_path / "w.pth", f"timm:{name}").recipe
    assert recipe.interpolation == timm.get_pretrained_cfg(name).interpolation

    photo = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    image = Image.fromarray(photo).resize((411, 302), Image.Resampling.BICUBIC)
    ours = recipe.framing.square(np.array(image), recipe.eval_side).numpy().astype(int)
    facts = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config({}, facts, use_test_size=True)
    *steps, _normalised = timm.data.create_transform(**config).transforms
    theirs: Any = image
    for step in steps:
        theirs = step(theirs)
    assert theirs.shape == ours.shape
    assert np.abs(theirs.numpy() * 255 - ours).max() < 2.01


@pytest.mark.models
@pytest.mark.spec(30)
def test_published_weights_have_their_published_accuracy() -> None:
    pytest.importorskip("timm")
    file = SHARED / "efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("the weights are not here")
    done = run_here(
        *("eval", str(file), "--model", "timm:tf_efficientnet_lite0"),
        *("--data", str(SHARED / "imagenet-samples.tar"), "--json"),
    )
    assert done.status == 0 and json.loads(done.stdout)["top1"] >= 0.87
