"""What a model costs: published counts, what training really keeps, and stages that add up, all
without memory.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saccade.models import create_model, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.stages import stages


def on_meta(name: str, side: int) -> nn.Module:
    return meta_model(name, num_classes=1000, image_size=side)


class Attention(nn.Module):
    """One block of 64 tokens, with or without a learned mask."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.qkv = nn.Linear(32, 96)
        self.mask = nn.Parameter(torch.zeros(64, 64)) if learned else None
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.patch(x).flatten(2).mT).chunk(3, -1)
        return self.fc(
            F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask).mean(1)
        )


class Layers(nn.Module):
    """Everything that has a stand-in, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.GroupNorm(2, 8)
        )
        self.norm = nn.LayerNorm(8)
        self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(3))
        self.table = nn.Parameter(torch.zeros(5))
        self.aux = nn.Linear(7, 7)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).movedim(1, -1)).movedim(-1, 1)
        for block in self.body:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "side", "params", "giga"),
    [
        ("torchvision:vit_b_16", 224, 86_567_656, 17.5638),
        ("torchvision:swin_b", 224, 87_768_224, 15.431),
        ("torchvision:mobilenet_v2", 224, 3_504_872, 0.3008),
        ("torchvision:googlenet", 224, 13_004_888, 1.4984),
    ],
)
@pytest.mark.spec(21)
def test_published_counts_with_the_products_of_attention(
    name: str, side: int, params: int, giga: float
) -> None:
    counts = cost(on_meta(name, side), side)
    assert counts.params == params and counts.macs / 1e9 == pytest.approx(giga, abs=1e-4)


@pytest.mark.parametrize(
    "model", [Layers(), Attention(False), Attention(True)], ids=["layers", "attention", "mask"]
)
def test_stand_ins_change_no_count(model: nn.Module) -> None:
    shadow = model.to("meta")
    counts = cost(shadow, 32)
    with FlopCounterMode(display=False) as counter:
        shadow.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    assert counts.macs == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet8", 32),
        ("resnet18_d_blur", 64),
        ("resnet50_d_silu", 64),
        pytest.param("torchvision:mobilenet_v2", 64, marks=pytest.mark.models),
        pytest.param("torchvision:swin_t", 64, marks=pytest.mark.models),
        pytest.param("timm:test_vit", 160, marks=pytest.mark.models),
        pytest.param("timm:test_efficientnet", 64, marks=pytest.mark.models),
    ],
)
def test_the_memory_of_training_is_what_autograd_really_keeps(name: str, side: int) -> None:
    batch, kept = 4, {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    model = create_model(name, num_classes=10, image_size=side, drop_path=None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        answer = model.train()(torch.zeros(batch, 3, side, side))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    real = sum(size for place, size in kept.items() if place not in own) / batch
    guess = cost(meta_model(name, num_classes=10, image_size=side), side).kept_bytes
    assert answer.requires_grad and 0.94 < guess / real < 1.07


def test_a_model_is_left_as_it_was() -> None:
    model = on_meta("resnet8", 32)
    model.train()
    model.layer1.eval()
    cost(model, 32)
    stages(model, 32)
    assert model.training and not any(
        m._forward_hooks or m._forward_pre_hooks for m in model.modules()
    )
    with pytest.raises(RuntimeError):
        cost(model, 0)
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_stages_are_the_papers() -> None:
    found = stages(on_meta("resnet50", 224), 224)
    assert [(s.name, s.shape, s.blocks) for s in found] == [
        ("conv1", (64, 112, 112), 0),
        ("maxpool", (64, 56, 56), 0),
        ("layer1", (256, 56, 56), 3),
        ("layer2", (512, 28, 28), 4),
        ("layer3", (1024, 14, 14), 6),
        ("layer4", (2048, 7, 7), 3),
        ("avgpool", (2048, 1, 1), 0),
        ("fc", (1000,), 0),
    ]


def test_a_flat_list_is_grouped_and_a_dominant_part_taken_apart() -> None:
    names = {s.name: s for s in stages(on_meta("torchvision:mobilenet_v2", 224), 224)}
    assert names["features.7-10"].blocks == 4 and names["features.7-10"].shape == (64, 14, 14)
    found = stages(on_meta("torchvision:vit_b_16", 224), 224)
    blocks = next(s for s in found if s.name == "encoder.layers")
    assert blocks.blocks == 12 and blocks.shape == (197, 768)
    assert {"class_token", "encoder.pos_embedding", "conv_proj"} <= {s.name for s in found}


def test_what_never_runs_is_a_line_of_its_own() -> None:
    found = {s.name: s for s in stages(Layers().to("meta"), 32)}
    assert found["aux"].shape == () and found["aux"].params == 56
    assert found["table"].params == 5 and found["body"].blocks == 3
    assert found["stem.0"].params == 8 * 28 + 16 + 16, (
        "the norms belong to the convolution before them"
    )


@pytest.mark.parametrize(
    "name", ["resnet20", "torchvision:googlenet", "torchvision:vit_b_32", "timm:test_maxvit"]
)
def test_stages_add_up_to_the_whole(name: str) -> None:
    model = on_meta(name, 224)
    counts, found = cost(model, 224), stages(model, 224)
    assert (
        sum(s.params for s in found) == counts.params and sum(s.macs for s in found) == counts.macs
    )
    assert len({s.name for s in found}) == len(found)
