"""Residual networks: torchvision's logits and sizes, a sane start, no dead parameter."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model, names
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import DropPath, drop_path_rates

TABLE = {
    "resnet18": (11_689_512, 1.8141),
    "resnet34": (21_797_672, 3.6638),
    "resnet50": (25_557_032, 4.0892),
    "resnet101": (44_549_160, 7.8014),
    "resnet152": (60_192_808, 11.5136),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(13, 17)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)
    assert counts.last_map == (7, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.spec(13)
def test_logits_equal_torchvision_with_the_same_weights(name: str, training: bool) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=7)
    torch.manual_seed(0)
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(
                tensor.data, 0.2, 0.6
            ) if tensor.dim() < 2 else nn.init.kaiming_normal_(tensor.data)
    ours = create_model(name, num_classes=7, image_size=224)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.train(training)(images)
        got = ours.train(training)(images)
    assert torch.equal(got, expected)
    for name_, buffer in ours.named_buffers():
        assert torch.equal(buffer, dict(theirs.named_buffers())[name_])


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("resnet50", 32), ("resnet8", 8), ("resnet20_x2", 32)]
)
def test_the_first_loss_is_that_of_guessing(name: str, size: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(16, 3, size, size)
    for classes in (10, 1000):
        model = create_model(name, num_classes=classes, image_size=size, seed=1)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(images), torch.arange(16) % classes)
        assert abs(float(loss) / math.log(classes) - 1) < 0.1


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("resnet50", 32), ("resnet8", 8)])
def test_backward_reaches_every_parameter(name: str, size: int) -> None:
    model = create_model(name, num_classes=3, image_size=size)
    # zero scales would hide the branch behind them in the first step
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    nn.functional.cross_entropy(
        model(torch.randn(4, 3, size, size)), torch.tensor([0, 1, 2, 0])
    ).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_weights_are_a_function_of_the_seed_alone() -> None:
    first = create_model("resnet8", num_classes=10, seed=3).state_dict()
    torch.manual_seed(99)
    again = create_model("resnet8", num_classes=10, seed=3).state_dict()
    other = create_model("resnet8", num_classes=10, seed=4).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    weight = create_model("resnet18", num_classes=10).get_parameter("layer4.1.conv2.weight")
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


@pytest.mark.parametrize(
    ("size", "last"), [(24, 6), (32, 8), (47, 12), (48, 3), (64, 4), (95, 6), (96, 3), (128, 4)]
)
def test_small_images_keep_a_map_worth_looking_at(size: int, last: int) -> None:
    assert cost(meta_model("resnet18", num_classes=10, image_size=size), size).last_map == (
        last,
        last,
    )


def test_stages_give_maps_at_falling_resolution() -> None:
    model = create_model("resnet50", num_classes=10, image_size=128)
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 128, 128))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 32, 32),
        (512, 16, 16),
        (1024, 8, 8),
        (2048, 4, 4),
    ]


@pytest.mark.spec(9)
def test_names_resolve_whatever_their_case_and_a_near_miss_is_suggested() -> None:
    assert find("ResNet-50").name == "resnet50" == find("RESNET50_X1").name
    with pytest.raises(ConfigError, match="resnet50"):
        find("resent50")
    assert names("resnet8*") == ["resnet8", "resnet8_x2", "resnet8_x4"]


def test_another_activation_changes_no_weight() -> None:
    plain, smooth = (
        create_model(name, num_classes=4, image_size=32)
        for name in ("resnet50_d", "resnet50_d_silu")
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), smooth.state_dict().values(), strict=True)
    )
    kinds = {type(m) for m in smooth.modules()}
    assert nn.SiLU in kinds and nn.ReLU not in kinds
    assert plain.state_dict().keys() == smooth.state_dict().keys()


def test_drop_path_skips_whole_samples_and_only_in_training() -> None:
    layer = DropPath(0.5)
    layer.keep = torch.tensor([0.0, 2.0])
    x = torch.ones(2, 3, 4, 4)
    assert layer(x)[0].eq(0).all() and layer(x)[1].eq(2).all()
    assert torch.equal(layer.eval()(x), x)
    assert drop_path_rates(0.2, 3) == pytest.approx([0, 0.1, 0.2])
