"""EfficientNet: published sizes and resolutions, torchvision's logits, the paper's
regularisation.
"""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from mobile_parity import parity
from torch import nn

from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import DropPath

TABLE = {
    "efficientnet_b0": (5_288_548, 224, 0.386),
    "efficientnet_b1": (7_794_184, 240, 0.687),
    "efficientnet_b2": (9_109_994, 260, 0.994),
    "efficientnet_b3": (12_233_232, 300, 1.827),
    "efficientnet_b4": (19_341_616, 380, 4.394),
    "efficientnet_b5": (30_389_784, 456, 10.266),
    "efficientnet_b6": (43_040_704, 528, 19.068),
    "efficientnet_b7": (66_347_960, 600, 37.746),
}


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(14)
def test_parameters_macs_and_resolution_are_the_published_ones(name: str) -> None:
    params, side, gmacs = TABLE[name]
    assert find(name).image_size == side
    counts = cost(meta_model(name, num_classes=1000), side)
    assert counts.params == params
    assert counts.macs / 1e9 == pytest.approx(gmacs, abs=1e-3)


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
def test_every_state_has_torchvisions_name_shape_and_norm(name: str) -> None:
    ours = meta_model(name, num_classes=7)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=7)
    names = ours.foreign_names("torchvision")
    got = {names[n]: t.shape for n, t in ours.state_dict().items()}
    assert got == {n: t.shape for n, t in theirs.state_dict().items()}
    pairs = zip(_norms(ours), _norms(theirs), strict=True)
    assert all((a.eps, a.momentum) == (b.eps, b.momentum) for a, b in pairs)
    assert ours.dropout.p == theirs.classifier[0].p


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2"])
@pytest.mark.spec(14)
def test_logits_equal_torchvision_with_the_same_weights(name: str, training: bool) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=7)
    assert parity(name, theirs, "torchvision", training=training) <= 1e-4


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
def test_logits_equal_timm_with_the_same_weights(training: bool) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("efficientnet_b0", num_classes=7)
    assert parity("efficientnet_b0", theirs, "timm", training=training) <= 1e-4


def test_timm_names_are_not_given_where_its_norms_differ() -> None:
    assert meta_model("efficientnet_b5", num_classes=2).foreign_names("timm") == {}


def test_the_first_loss_is_that_of_guessing() -> None:
    for classes in (10, 1000):
        model = create_model("efficientnet_b0", num_classes=classes, image_size=32, seed=1)
        torch.manual_seed(0)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
        assert abs(float(loss) / math.log(classes) - 1) < 0.1


def test_drop_path_rises_to_the_papers_and_can_be_set() -> None:
    model = meta_model("efficientnet_b0", num_classes=2)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert len(rates) == 9 and rates == sorted(rates) and 0.18 < rates[-1] < 0.2
    assert not [
        m
        for m in create_model(
            "efficientnet_b0", num_classes=2, image_size=8, drop_path=0.0
        ).modules()
        if isinstance(m, DropPath)
    ]


@pytest.mark.parametrize(("size", "last"), [(8, 2), (32, 8), (64, 4), (96, 3)])
def test_small_images_keep_a_map_worth_looking_at(size: int, last: int) -> None:
    assert cost(meta_model("efficientnet_b0", num_classes=10, image_size=size), size).last_map == (
        last,
        last,
    )


@pytest.mark.spec(9, 14)
def test_names_of_other_systems_resolve() -> None:
    assert find("EfficientNet-B3").name == find("EfficientNetB3").name == "efficientnet_b3"
