"""CIFAR by one command: networks of the five projects see 32 pixels with small strides, by
themselves or by the options of edgeai-torchvision once these are spelt as here.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

import console
from saccade.evaluation.classifier import Classifier

NETWORKS = ("mobilenetv2_tv_x1", "regnetx800mf_x1", "resnet18_x1")
THEIRS = "--img_resize 32 --img_crop 32 --rand_scale 0.5 1.0 --strides 1 1 1 2 2"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with CIFAR-10's binary files, ten images in each."""
    place = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    place.mkdir()
    shades = range(6)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, shade in zip(names, shades, strict=True):
        records = [bytes([k]) + bytes([20 * k + shade, k]) * 1536 for k in range(10)]
        (place / f"{name}.bin").write_bytes(b"".join(records))
    (place / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    return place


@pytest.mark.spec(7, "A9")
@pytest.mark.full
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_trains_on_cifar_with_small_strides(
    network: str, cifar: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    short = ("--epochs", "2step", "--batch-size", "16", "--out", str(run), "--json")
    done = console.run_here("train", network, "--data", str(cifar), *short)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 10
    recipe = Classifier.load(run).recipe
    assert recipe.image_size == 32 and len(recipe.classes) == 10
    size = ("--image-size", "32", "--classes", "10", "--json")
    (counted,) = json.loads(console.run_here("models", network, *size).stdout)
    assert counted["last_map"] == "8x8", "and not the single place that the usual strides leave"


@pytest.mark.spec(7)
def test_the_options_of_edgeai_torchvision_become_a_command_that_settles(
    cifar: Path, tmp_path: Path
) -> None:
    options = shlex.split(THEIRS)
    asked = console.run_here("train", "resnet18_x1", "--data_path", str(cifar), *options)
    assert asked.status == 2
    advice = shlex.split(asked.stderr.partition("do:")[2])
    assert advice[:3] == ["saccade", "train", "resnet18_x1"]
    done = console.run_here(*advice[1:], "--dry-run", cwd=tmp_path)
    settled = yaml.safe_load(done.stdout)
    assert settled["model"]["strides"] == [1, 1, 1, 2, 2] and settled["data"]["image_size"] == 32
    assert settled["augment"]["crop_area"] == [0.5, 1.0] and settled["data"]["eval_crop"] == 1
