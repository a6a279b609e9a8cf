"""Features of any network: what its head receives, so that the head makes its logits of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models import create_model
from saccade.models.parts.embedding import embed, head_name

FOREIGN = {
    "timm:resnet10t": "fc",
    "timm:tf_efficientnet_lite0": "classifier",
    "timm:mobilenetv3_small_050": "classifier",
    "timm:convnext_atto": "head.fc",
    "timm:vit_tiny_patch16_224": "head",
    "torchvision:squeezenet1_1": "classifier.1",
    "torchvision:mobilenet_v3_small": "classifier.3",
    "torchvision:shufflenet_v2_x0_5": "fc",
}


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def logits_of(head: nn.Module, features: Tensor) -> Tensor:
    if isinstance(head, nn.Conv2d):
        return head(features[:, :, None, None]).flatten(1)
    return head(features)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_head_of_another_librarys_network_makes_its_logits_of_the_features(name: str) -> None:
    library = name.partition(":")[0]
    pytest.importorskip(library)
    network = create_model(name, num_classes=5, image_size=64).eval()
    assert head_name(network) == FOREIGN[name]
    with torch.no_grad():
        features = embed(network, images(64))
        logits = logits_of(network.get_submodule(FOREIGN[name]), features)
        # SqueezeNet cuts the answers of each place off at nought before it averages them
        if "squeezenet" not in name:
            torch.testing.assert_close(logits, network(images(64)))


@pytest.mark.parametrize("name", ["resnet8", "airbench94", "mobilenet_v3_small", "vit_ti_16"])
def test_our_networks_give_what_their_head_sees(name: str) -> None:
    network = create_model(name, num_classes=5, image_size=32).eval()
    with torch.no_grad():
        features = embed(network, images(32))
        logits = logits_of(network.get_submodule(head_name(network)), features)
        torch.testing.assert_close(logits, network(images(32)))


class Strange(nn.Module):
    """A network whose head is written first, and called last."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.answer = nn.Linear(6, 4)
        self.body = nn.Conv2d(3, 6, 1)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(x).flatten(2).mT
        return self.answer(tokens.mean(1)) if self.pooled else self.answer(tokens).mean(1)


@pytest.mark.parametrize("pooled", [True, False])
def test_an_own_network_gives_what_its_last_linear_layer_receives(pooled: bool) -> None:
    network = Strange(pooled)
    features = embed(network, images(8))
    assert head_name(network) == "answer" and features.shape == (2, 6)
    torch.testing.assert_close(network.answer(features), network(images(8)))
    assert not network.answer._forward_pre_hooks


def test_a_network_without_a_head_answers_with_its_features() -> None:
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert head_name(body) == ""
    assert torch.equal(embed(body, images(8)), body(images(8)))
    timm = pytest.importorskip("timm")
    headless = timm.create_model("resnet10t", num_classes=0).eval()
    assert head_name(headless) == "" and embed(headless, images(64)).shape == (2, 512)


def test_a_head_that_is_never_called_is_said() -> None:
    class Aside(Strange):
        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).mean((2, 3))

    with pytest.raises(ConfigError, match="'answer' is not used"):
        embed(Aside(pooled=True), images(8))
