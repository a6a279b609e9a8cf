"""Checkpoints of self-supervised trainers, under the names that their authors gave: the encoder is
taken, the rest is named.

The dictionaries are made here from published facts: which tables, which prefixes, which further
tensors. *Source:* the repositories facebookresearch/mae, microsoft/SimMIM, facebookresearch/dino,
facebookresearch/moco-v3, lightly-ai/lightly, lightly-ai/lightly-train and vturrisi/solo-learn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.models import Report, create_model, foreign_state, load_weights
from saccade.models.weights.fitting import fit
from saccade.models.weights.readings import heads_of

State = dict[str, Tensor]


def filled(state: Mapping[str, Tensor], value: float) -> State:
    """Return tensors that are told apart by their values; integers stay."""
    return {
        name: torch.full(t.shape, value) if t.is_floating_point() else t
        for name, t in state.items()
    }


def without(state: Mapping[str, Tensor], *heads: str) -> State:
    return {n: t for n, t in state.items() if n.partition(".")[0] not in heads}


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{n}": t for n, t in state.items()}


def rows(*names: str) -> State:
    return {name: torch.ones(3, 3) for name in names}


def all_are(model: nn.Module, value: float) -> bool:
    """Tell whether every parameter but the head has one value."""
    head = heads_of(model)[0]
    return all(
        bool((p == value).all()) for n, p in model.named_parameters() if not n.startswith(head)
    )


@pytest.fixture(scope="module")
def vit() -> State:
    """A ViT without its head, under timm's names, which the four repositories of ViTs use."""
    network = create_model("vit_ti_16", num_classes=10, image_size=32)
    return without(foreign_state(network, "timm"), "head")


@pytest.fixture(scope="module")
def resnet() -> State:
    return without(create_model("resnet18", num_classes=10).state_dict(), "fc")


def mae(vit: State, _resnet: State) -> dict[str, Any]:
    decoder = rows("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_pred.weight")
    blocks = {n: t for n, t in vit.items() if n.startswith("blocks.")}
    return {"model": filled(vit, 1.0) | decoder | prefixed("decoder_", filled(blocks, 9.0))}


def dino(vit: State, _resnet: State) -> dict[str, Any]:
    projector = rows("mlp.0.weight", "last_layer.weight_g", "last_layer.weight_v")
    return {
        "student": prefixed("module.backbone.", filled(vit, 2.0))
        | prefixed("module.head.", projector),
        "teacher": prefixed("backbone.", filled(vit, 1.0)) | prefixed("head.", projector),
        "dino_loss": {"center": torch.zeros(1, 8)},
        "epoch": 99,
    }


def moco_v3_vit(vit: State, _resnet: State) -> dict[str, Any]:
    projector = rows("head.0.weight", "head.1.weight", "head.3.weight")
    table = prefixed("module.base_encoder.", filled(vit, 1.0) | projector)
    table |= prefixed("module.momentum_encoder.", filled(vit, 2.0) | projector)
    return {"arch": "vit_small", "state_dict": table | rows("module.predictor.0.weight")}


def moco_v3_resnet(_vit: State, resnet: State) -> dict[str, Any]:
    projector = rows("fc.0.weight", "fc.1.weight", "fc.3.weight")
    table = prefixed("module.momentum_encoder.", filled(resnet, 2.0) | projector)
    table |= prefixed("module.base_encoder.", filled(resnet, 1.0) | projector)
    return {"arch": "resnet50", "state_dict": table | rows("module.predictor.0.weight")}


def lightly(_vit: State, resnet: State) -> dict[str, Any]:
    # nn.Sequential(*list(resnet.children())[:-1]): convolution, norm, ReLU, pool, four stages
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    table = {
        f"backbone.{places[n.partition('.')[0]]}.{n.partition('.')[2]}": t
        for n, t in filled(resnet, 1.0).items()
    }
    return {"state_dict": table | rows("projection_head.layers.0.weight"), "epoch": 3}


def lightly_vit(vit: State, _resnet: State) -> dict[str, Any]:
    # lightly's MaskedVisionTransformerTIMM keeps timm's network as its `vit`
    table = prefixed("student_backbone.vit.", filled(vit, 2.0))
    table |= prefixed("teacher_backbone.vit.", filled(vit, 1.0))
    return {"state_dict": table | rows("student_head.layers.0.weight")}


def lightly_train(_vit: State, resnet: State) -> dict[str, Any]:
    table = prefixed("student_embedding_model.wrapped_model._features.", filled(resnet, 2.0))
    table |= prefixed("teacher_embedding_model.wrapped_model._features.", filled(resnet, 1.0))
    return {"state_dict": table | rows("student_projection_head.layers.0.weight")}


def solo_learn(_vit: State, resnet: State) -> dict[str, Any]:
    table = prefixed("backbone.", filled(resnet, 1.0))
    table |= prefixed("momentum_backbone.", filled(resnet, 2.0))
    return {"state_dict": table | rows("projector.0.weight", "momentum_projector.0.weight")}


@pytest.mark.parametrize(
    ("make", "name", "table", "unused"),
    [
        (mae, "vit_ti_16", "model", "mask_token"),
        (dino, "vit_ti_16", "teacher", "head.mlp.0.weight"),
        (moco_v3_vit, "vit_ti_16", "state_dict: module.base_encoder.*", "head.0.weight"),
        (moco_v3_resnet, "resnet18", "state_dict: module.base_encoder.*", "fc.0.weight"),
        (lightly, "resnet18", "state_dict", "projection_head.layers.0.weight"),
        (lightly_vit, "vit_ti_16", "state_dict: teacher_backbone.vit.*", "student_head"),
        (lightly_train, "resnet18", "state_dict: teacher", "student_projection_head"),
        (solo_learn, "resnet18", "state_dict: backbone.*", "projector.0.weight"),
    ],
)
def test_the_encoder_is_taken_and_the_rest_is_named(
    make: Any, name: str, table: str, unused: str, vit: State, resnet: State, tmp_path: Path
) -> None:
    torch.save(make(vit, resnet), tmp_path / "checkpoint.pth")
    model = create_model(name, num_classes=7, image_size=32, seed=5)
    report = load_weights(model, tmp_path / "checkpoint.pth")
    assert all_are(model, 1.0) and report.share == 1.0 and not report.misshaped
    assert report.fresh == ("fc.weight", "fc.bias") and report.table.startswith(table)
    assert any(unused in n for n in report.unused)
    # the other network of a pair is named once, not tensor by tensor
    assert len(report.summary) < 400 and ("not taken: " in report.summary) == bool(report.others)


def published_swin(model: nn.Module) -> State:
    """Return the names of microsoft/Swin-Transformer: a stage ends with the merging of patches."""
    found: State = {}
    for name, tensor in without(foreign_state(model, "timm"), "head").items():
        stage = re.match(r"layers\.(\d)\.downsample\.", name)
        found[name if not stage else f"layers.{int(stage[1]) - 1}{name[8:]}"] = tensor
    return found


def simmim(model: nn.Module) -> dict[str, Any]:
    """Return a checkpoint of SimMIM's pretraining: encoder, mask token, one convolution."""
    index = {"encoder.layers.0.blocks.0.attn.relative_position_index": torch.zeros(36, 36)}
    rest = rows("encoder.mask_token", "decoder.0.weight", "decoder.0.bias")
    return {"model": prefixed("encoder.", published_swin(model)) | rest | index, "epoch": 99}


@pytest.mark.spec(43)
def test_simmims_swin_at_192_px_starts_one_at_224_and_says_what_was_resized() -> None:
    source = create_model("swin_t_w6", num_classes=10, image_size=192, seed=1)
    model = create_model("swin_t", num_classes=7, image_size=224, seed=2)
    report = load_weights(model, simmim(source))
    assert report.share == 1.0 and not report.missing[2:] and report.dialect == "swin's authors"
    assert "12 x windows 6 -> 7, bicubic" in report.summary
    merging = "stages.4.reduction.weight"
    assert torch.equal(model.get_parameter(merging), source.get_parameter(merging))

    # there and back the tables stay what they were
    back = create_model("swin_t_w6", num_classes=7, image_size=192, seed=3)
    assert "12 x windows 7 -> 6, bicubic" in load_weights(back, model.state_dict()).summary
    smooth = "stages.1.0.attn.relative_position_bias_table"
    with torch.no_grad():
        places = torch.linspace(-1, 1, 11)
        table = (places[:, None] ** 2 + places[None] ** 2).view(121, 1).expand(121, 3)
        source.get_parameter(smooth).copy_(table)
    load_weights(model, simmim(source))
    load_weights(back, model.state_dict())
    error = (back.get_parameter(smooth).detach() - table).abs().max()
    assert float(error) < 0.05 * float(table.max())


@pytest.mark.models
def test_timms_swin_takes_the_names_of_its_authors_too() -> None:
    pytest.importorskip("timm")
    name = "timm:swin_tiny_patch4_window7_224"
    theirs = create_model(name, num_classes=10, image_size=224, seed=1)
    ours = create_model("swin_t", num_classes=10, image_size=224, seed=2)
    report: Report = load_weights(theirs, simmim(ours))
    assert report.share == 1.0 and report.dialect == "swin's authors"
    assert torch.equal(
        theirs.get_parameter("layers.2.downsample.reduction.weight"),
        ours.get_parameter("stages.4.reduction.weight"),
    )


def test_a_table_that_shrinks_is_smoothed_first() -> None:
    # of a checkerboard nothing is left but its mean; without smoothing single places survive
    board = (torch.arange(23)[:, None] + torch.arange(23)[None]) % 2 * 2.0 - 1
    theirs, ours = board.view(-1, 1).expand(-1, 3), torch.zeros(13 * 13, 3)
    found = fit("relative_position_bias_table", theirs, ours, is_first=False)
    assert found is not None and found[1] == "windows 12 -> 7, bicubic"
    assert float(found[0].view(13, 13, 3)[2:-2, 2:-2].abs().max()) < 0.1
