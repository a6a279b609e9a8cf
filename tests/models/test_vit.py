"""Vision transformers: the logits of torchvision and timm, published sizes, positions, small
images, learning.
"""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from trials import first_loss, gap, loss_after, randomised, transplanted

from saccade.errors import ConfigError
from saccade.models import create_model, find, meta_model
from saccade.models.parts.attention import resized
from saccade.models.parts.cost import cost
from saccade.models.parts.layers import initialise
from saccade.models.parts.network import Level, undecayed
from saccade.models.parts.registry import Options
from saccade.models.vit import Design, Patchify, VisionTransformer, waves

TABLE = {
    "vit_ti_16": (5_717_416, 1.2537),
    "vit_s_16": (22_050_664, 4.5989),
    "vit_s_32": (22_878_952, 1.1429),
    "vit_b_16": (86_567_656, 17.5638),
    "vit_b_32": (88_224_232, 4.4092),
    "vit_l_16": (304_326_632, 61.5547),
    "vit_l_32": (306_535_400, 15.3775),
    "vit_base_16": (86_533_864, 17.5638),
    "vit_s_16_mean_sincos": (21_974_632, 4.5740),
}


@pytest.mark.models
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spec(19)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    counts = cost(meta_model(name, num_classes=1000, image_size=224), 224)
    assert counts.params == TABLE[name][0]
    assert counts.macs / 1e9 == pytest.approx(TABLE[name][1], abs=1e-3)


@pytest.mark.models
@pytest.mark.parametrize(("name", "patch"), [("vit_b_16", 16), ("vit_b_32", 32)])
def test_logits_equal_torchvision_with_the_same_weights(name: str, patch: int) -> None:
    theirs = randomised(getattr(torchvision.models, name)(num_classes=7, image_size=96))
    ours = transplanted(name, theirs, "torchvision", image_size=96, patch_size=patch)
    assert gap(ours, theirs, torch.randn(2, 3, 96, 96)) < 1e-5


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "peer", "changes"),
    [
        ("vit_ti_16", "vit_tiny_patch16_224", {}),
        ("vit_s_16", "vit_small_patch16_224", {}),
        ("vit_s_32", "vit_small_patch32_224", {}),
        (
            "vit_ti_16_mean",
            "vit_tiny_patch16_224",
            {"class_token": False, "global_pool": "avg", "fc_norm": False},
        ),
    ],
)
def test_logits_equal_timm_with_the_same_weights(
    name: str, peer: str, changes: dict[str, object]
) -> None:
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model(peer, num_classes=7, img_size=96, **changes))
    ours = transplanted(name, theirs, "timm", image_size=96)
    assert gap(ours, theirs, torch.randn(2, 3, 96, 96)) < 1e-5


@pytest.mark.spec(19)
def test_the_variant_without_biases_is_what_its_authors_draw() -> None:
    model = VisionTransformer(Design(24, 2, 3, 16, plain=False), Options(5, 32)).eval()
    randomised(model)
    images = torch.randn(2, 3, 32, 32)
    state = {n: p.detach() for n, p in model.named_parameters()}

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    corners = [(y, x) for y in range(0, 32, 4) for x in range(0, 32, 4)]
    patches = torch.stack([images[:, :, y : y + 4, x : x + 4].flatten(1) for y, x in corners], 1)
    x = (
        norm(patches, "conv_proj.1", 1e-5) @ state["conv_proj.2.weight"].T
        + state["conv_proj.2.bias"]
    )
    x = norm(x, "conv_proj.3", 1e-5)
    x = torch.cat([state["class_token"].expand(2, 1, 24), x], 1) + state["position"]
    for block in ("blocks.0", "blocks.1"):
        q, k, v = (norm(x, f"{block}.norm1", 1e-6) @ state[f"{block}.attn.qkv.weight"].T).split(
            24, 2
        )
        heads = [slice(8 * head, 8 * head + 8) for head in range(3)]
        answers = [(q[..., h] @ k[..., h].mT / math.sqrt(8)).softmax(2) @ v[..., h] for h in heads]
        x = x + torch.cat(answers, 2) @ state[f"{block}.attn.proj.weight"].T
        hidden = (
            norm(x, f"{block}.norm2", 1e-6) @ state[f"{block}.mlp.0.weight"].T
            + state[f"{block}.mlp.0.bias"]
        )
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + hidden @ state[f"{block}.mlp.3.weight"].T + state[f"{block}.mlp.3.bias"]
    expected = norm(x, "norm", 1e-6)[:, 0] @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        assert torch.allclose(model(images), expected, atol=1e-4 * float(expected.abs().max()))


def test_patches_hold_the_pixels_of_their_square() -> None:
    image = torch.arange(3 * 9 * 8).view(1, 3, 9, 8).float()
    patches = Patchify(4)(image)
    assert patches.shape == (1, 2, 2, 48)
    assert torch.equal(patches[0, 1, 0], image[0, :, 4:8, :4].flatten())


@pytest.mark.parametrize("name", ["vit_ti_16", "vit_ti_16_mean_sincos", "vit_base_16"])
def test_tokens_that_are_kept_know_nothing_of_those_left_out(name: str) -> None:
    model = create_model(name, num_classes=3, image_size=32, patch_size=8).eval()
    images = torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 5, 6], [1, 2, 15]])
    changed = images.clone()
    for image, kept in enumerate(keep.tolist()):
        for place in set(range(16)) - set(kept):
            y, x = divmod(place, 4)
            changed[image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = torch.nan

    assert isinstance(model, VisionTransformer)
    with torch.no_grad():
        tokens = model.encode(model.patches(images), keep)
        assert tokens.shape[1] == 3 + (not model.design.mean)
        assert torch.equal(model.encode(model.patches(changed), keep), tokens)
        # kept all, in their order, they are those of the whole image
        everyone = torch.arange(16).expand(2, 16)
        whole = model.encode(model.patches(images))
        assert torch.equal(model.encode(model.patches(images), everyone), whole)
        # and they have kept their positions
        assert not torch.equal(model.encode(model.patches(images), keep.flip(0)), tokens)


def test_positions_follow_the_size_of_the_image() -> None:
    ramp = torch.arange(8.0)[:, None, None].expand(8, 6, 1) + 10 * torch.arange(6.0)[:, None]
    assert resized(ramp, 8, 6) is ramp
    for size in ((4, 3), (5, 9), (16, 6)):
        reference = nn.functional.interpolate(ramp.permute(2, 0, 1)[None], size, mode="bilinear")[
            0
        ].permute(1, 2, 0)
        assert torch.allclose(resized(ramp, *size), reference, atol=1e-5)
    for variant in ({}, {"mean": True, "waves": True}):
        model = VisionTransformer(Design(24, 1, 3, 16, **variant), Options(3, 32)).eval()
        with torch.no_grad():
            assert model.features(torch.randn(1, 3, 24, 40))[0].shape == (1, 24, 6, 10)
            assert model(torch.randn(1, 3, 24, 40)).isfinite().all()


def test_waves_tell_places_apart_and_neighbours_look_alike() -> None:
    table = waves(3, 4, torch.ones(16))
    assert table.shape == (12, 16)
    frequencies = [10_000 ** (-i / 3) for i in range(4)]
    y, x = 2, 1
    expected = [
        f(at * w)
        for at, f in ((x, math.sin), (x, math.cos), (y, math.sin), (y, math.cos))
        for w in frequencies
    ]
    assert table[4 * y + x].tolist() == pytest.approx(expected, abs=1e-5)
    distance = torch.cdist(table, table)
    assert distance[0, 1] < distance[0, 2] and distance.fill_diagonal_(9).min() > 0.1


@pytest.mark.parametrize(
    ("size", "side"), [(8, 2), (28, 7), (32, 8), (48, 6), (64, 8), (96, 6), (224, 14)]
)
def test_small_images_get_small_patches(size: int, side: int) -> None:
    model = VisionTransformer(Design(24, 1, 3, 16), Options(3, size))
    assert model.levels == (Level(24, size // side),)
    assert model.position.shape == (1, side * side + 1, 24)


def test_a_patch_that_leaves_one_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="2x2"):
        create_model("vit_ti_16", num_classes=3, image_size=32, patch_size=32)


@pytest.mark.spec(9)
def test_names_of_others_are_understood() -> None:
    assert (
        find("ViT-B16").name
        == find("vit-b/16").name
        == find("vit_base_patch16_224").name
        == "vit_b_16"
    )
    assert find("vit-base-16").name == find("vit_b16_nobias").name == "vit_base_16"
    assert find("vit_ti_32_mean").source != find("vit_ti_32_mean_sincos").source


def test_tables_and_class_tokens_take_no_weight_decay() -> None:
    assert {"position", "class_token"} <= undecayed(meta_model("vit_ti_16", num_classes=3))
    assert "position" not in undecayed(meta_model("vit_ti_16_mean_sincos", num_classes=3))


@pytest.mark.models
@pytest.mark.parametrize("name", ["vit_ti_16", "vit_base_16", "vit_s_16_mean_sincos"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_that_of_guessing(name: str, classes: int) -> None:
    assert first_loss(name, classes, 32) == pytest.approx(1, abs=0.1)


@pytest.mark.models
@pytest.mark.parametrize("name", ["vit_ti_16", "vit_ti_16_mean_sincos"])
def test_two_classes_are_learned_from_the_start(name: str) -> None:
    assert loss_after(create_model(name, num_classes=2, image_size=32), 32, 12, 5e-4) < 0.3


@pytest.mark.models
def test_the_variant_without_biases_learns_in_bfloat16() -> None:
    model = VisionTransformer(Design(192, 12, 3, 16, plain=False), Options(2, 32))
    initialise(model, 0, model.head)
    assert loss_after(model, 32, 12, 5e-4, bfloat16=True) < 0.3
