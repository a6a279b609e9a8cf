"""ShuffleNet V2: published sizes and torchvision's logits."""

from __future__ import annotations

import pytest
import torch
import torchvision
from mobile_parity import parity

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model
from saccade.models.parts.cost import cost

TABLE = {
    "shufflenet_v2_x0_5": (1_366_792, 0.0405),
    "shufflenet_v2_x1_0": (2_278_604, 0.1449),
    "shufflenet_v2_x1_5": (3_503_624, 0.2958),
    "shufflenet_v2_x2_0": (7_393_996, 0.5833),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(20)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-4)
    assert counts.last_map == (7, 7)


@pytest.mark.models
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TABLE)
def test_logits_equal_torchvision_with_the_same_weights(name: str, training: bool) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=7)
    assert parity(name, theirs, "torchvision", training=training) == 0


@pytest.mark.spec(9)
def test_names_of_other_systems_resolve() -> None:
    for spelling in ("shufflenetv2_x1p0", "ShuffleNetV2_x1", "shufflenet_v2_x1_0"):
        assert find(spelling).name == "shufflenet_v2_x1_0"
    assert find("shufflenetv2_x1p5").name == "shufflenet_v2_x1_5"
    assert find("shufflenetv2_xp5").name == "shufflenet_v2_x0_5"


@pytest.mark.parametrize(("size", "stride"), [(16, 1), (32, 1), (64, 2), (96, 2)])
def test_levels_are_those_of_the_maps_and_channels_last_survives(size: int, stride: int) -> None:
    model = create_model("shufflenet_v2_x0_5", num_classes=2, image_size=size).to(
        memory_format=torch.channels_last
    )
    with torch.no_grad():
        maps = model.features(torch.randn(2, 3, size, size).to(memory_format=torch.channels_last))
    assert [m.shape[1] for m in maps] == [level.channels for level in model.levels]
    assert [m.shape[2] for m in maps] == [size // level.stride for level in model.levels]
    assert model.levels[0].stride == stride and maps[-1].shape[2] >= 2
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


def test_drop_path_without_a_shortcut_is_refused() -> None:
    with pytest.raises(ConfigError, match="no residual branches"):
        create_model("shufflenet_v2_x0_5", num_classes=2, drop_path=0.1)
