"""Masked images: the losses of the papers, what the encoder sees, and what does not depend on how a
batch is split.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.sources.digits import open_digits
from saccade.errors import ConfigError
from saccade.models import meta_model, swin, vit
from saccade.models.parts.attention import Block
from saccade.models.parts.layers import initialise
from saccade.models.parts.network import Network
from saccade.models.parts.registry import Options
from saccade.models.swin import SwinTransformer
from saccade.models.vit import VisionTransformer, waves
from saccade.objectives.mae import Mae
from saccade.objectives.masked import MaskedImages
from saccade.objectives.objective import Cell
from saccade.objectives.simmim import SimMim

SIDE, PATCH = 32, 4
DIGITS = open_digits().splits["train"]
WAYS = [
    (Mae, "vit_ti_16"),
    (Mae, "vit_ti_16_mean_sincos"),
    (SimMim, "vit_ti_16"),
    (SimMim, "swin_t"),
]


def settings(**changes: Any) -> Config:
    layers = Layers()
    given = {"model__name": "vit_ti_16", "data__image_size": SIDE, "model__patch_size": PATCH}
    given |= {"pretrain__decoder_depth": 2, "augment__mixup": 0, "model__drop_path": 0}
    for name, value in (given | changes).items():
        layers.set(f"{name.replace('__', '.')}={value}")
    return layers.resolve()


def small(name: str) -> Network:
    """Return a network of a family with few and narrow blocks."""
    options = Options(2, SIDE, patch_size=PATCH)
    if name == "swin_t":
        return SwinTransformer(swin.Design(16, (2, 2, 2, 2), (1, 2, 4, 8), 0.0), options)
    mean = name.endswith("_mean_sincos")
    return VisionTransformer(vit.Design(48, 2, 3, PATCH, mean=mean, waves=mean), options)


def made(kind: type[MaskedImages], name: str, **changes: Any) -> tuple[MaskedImages, Any]:
    """Return an objective and its learner, whose parameters all matter."""
    config = settings(model__name=name, **changes)
    objective = kind.of(config, DIGITS)
    network = small(name)
    initialise(network, 3, network.head)
    learner = objective.wrap(network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return objective, learner


def cell(images: int = 6, first: int = 0) -> Cell:
    torch.manual_seed(5)
    pixels = torch.randint(0, 256, (16, 3, SIDE, SIDE), dtype=torch.uint8)
    samples = np.arange(16)
    part = slice(first, first + images)
    return Cell(
        images=pixels[part],
        labels=torch.zeros(images, dtype=torch.int64),
        epochs=samples[part] % 3,
        samples=samples[part],
        step=0,
        number=0,
    )


def total(objective: MaskedImages, learner: Any, part: Cell) -> Tensor:
    seen, target = objective.prepare(part)
    return objective.total_of_heads(learner(seen), target, 0.0)


def patches_of(images: Tensor) -> Tensor:
    """Cut images (B, 3, S, S) into patches (B, N, 3 P P), row by row, by slices alone."""
    corners = [(y, x) for y in range(0, SIDE, PATCH) for x in range(0, SIDE, PATCH)]
    cut = [images[:, :, y : y + PATCH, x : x + PATCH].flatten(1) for y, x in corners]
    return torch.stack(cut, 1)


def test_the_loss_of_mae_is_that_of_the_paper() -> None:
    objective, learner = made(Mae, "vit_ti_16")
    seen, target = objective.prepare(cell())
    answer = learner(seen)

    hidden = seen.hidden.flatten(1).float()
    truth = patches_of(seen.images)
    truth = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6) ** 0.5
    error = ((patches_of(answer) - truth) ** 2).mean(-1)
    expected = (error * hidden).sum() / hidden.sum() * len(seen.images)
    assert torch.allclose(objective.total_of_heads(answer, target, 0.0), expected, rtol=1e-5)


@pytest.mark.spec(43)
def test_the_loss_of_simmim_is_that_of_the_paper() -> None:
    objective, learner = made(SimMim, "swin_t")
    seen, target = objective.prepare(cell())
    answer = learner(seen)

    rows = seen.hidden.repeat_interleave(PATCH, 1)
    hidden = rows.repeat_interleave(PATCH, 2).unsqueeze(1).float()
    error = torch.nn.functional.l1_loss(seen.images, answer, reduction="none")
    expected = (error * hidden).sum() / (hidden.sum() + 1e-5) / 3 * len(seen.images)
    assert torch.allclose(objective.total_of_heads(answer, target, 0.0), expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_the_loss_of_a_cell_is_the_sum_over_its_images(kind: type[MaskedImages], name: str) -> None:
    objective, learner = made(kind, name)
    with torch.no_grad():
        whole = total(objective, learner, cell(6))
        alone = sum(float(total(objective, learner, cell(1, first))) for first in range(6))
    assert float(whole) == pytest.approx(alone, rel=1e-5)
    # and so is the gradient, which is what trains
    gradients = []
    for parts in ([cell(6)], [cell(2, 0), cell(4, 2)]):
        learner.zero_grad()
        for part in parts:
            total(objective, learner, part).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max() + 1e-9))


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_hidden_pixels_never_reach_the_encoder(kind: type[MaskedImages], name: str) -> None:
    objective, learner = made(kind, name)
    seen, target = objective.prepare(cell())
    without = seen._replace(images=torch.where(target.hidden, torch.nan, seen.images))
    with torch.no_grad():
        assert torch.equal(learner(without), learner(seen))
        # the control: a visible pixel does
        other = seen._replace(images=torch.where(target.hidden, seen.images, 0.0))
        assert not torch.equal(learner(other), learner(seen))


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_what_is_predicted_of_visible_pixels_does_not_count(
    kind: type[MaskedImages], name: str
) -> None:
    objective, learner = made(kind, name)
    seen, target = objective.prepare(cell())
    answer = learner(seen).detach().requires_grad_()
    objective.total_of_heads(answer, target, 0.0).backward()  # type: ignore[no-untyped-call]
    assert answer.grad is not None
    touched = answer.grad != 0
    assert not (touched & ~target.hidden).any()
    # nearly all hidden ones do: a difference of exactly nought is rare
    assert float(touched.sum()) > 0.99 * 3 * float(target.hidden.sum())


def test_mae_computes_on_the_visible_quarter_alone() -> None:
    objective, learner = made(Mae, "vit_ti_16")
    seen, _ = objective.prepare(cell())
    lengths = []
    learner.encoder.blocks[0].register_forward_hook(lambda *a: lengths.append(a[2].shape[1]))
    learner(seen)
    assert lengths == [1 + 64 // 4]
    assert seen.visible.shape == (6, 16)


@pytest.mark.parametrize("name", ["vit_ti_16", "vit_ti_16_mean_sincos"])
def test_mae_puts_every_token_back_in_its_place(name: str) -> None:
    objective, learner = made(Mae, name)
    seen, _ = objective.prepare(cell())
    encoder, decoder = learner.encoder, learner.decoder
    with torch.no_grad():
        answer = patches_of(learner(seen))
        tokens = encoder.encode(encoder.patches(seen.images), seen.visible)
        first = tokens.shape[1] - 16
        x = decoder.embed(tokens)
        for image, hidden in enumerate(seen.hidden.flatten(1).tolist()):
            row, own = [*x[image, :first]], iter(x[image, first:])
            for position, is_hidden in zip(waves(8, 8, decoder.norm.weight), hidden, strict=True):
                row.append((decoder.mask_token[0, 0] if is_hidden else next(own)) + position)
            full = torch.stack(row)[None]
            for block in decoder.blocks:
                full = block(full)
            expected = decoder.pixels(decoder.norm(full))[0, first:]
            assert torch.allclose(answer[image], expected, atol=1e-4)


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_a_constant_answer_is_the_yardstick(kind: type[MaskedImages], name: str) -> None:
    objective, _ = made(kind, name)
    whole = cell()
    _, target = objective.prepare(whole)
    constant = objective.constant(whole)
    assert constant is not None
    best = float(constant)

    def loss(guess: Tensor) -> float:
        return float(objective.total_of_heads(guess.expand_as(target.pixels), target, 0.0))

    # no other colour is better: those that are a little off in one channel are worse
    middle = objective.best_constant(target)
    assert loss(middle) == pytest.approx(best)
    for channel in range(3):
        for step in (-0.05, 0.05):
            moved = middle.clone()
            moved[channel] += step
            assert loss(moved) > best


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("kind", "name"), WAYS)
@pytest.mark.spec(43)
def test_pictures_show_the_image_its_mask_and_what_is_filled_in(
    kind: type[MaskedImages], name: str, channels: str
) -> None:
    objective, learner = made(kind, name, data__channels=channels)
    part = cell()
    with torch.no_grad():
        pictures = objective.pictures(learner, part)
    assert pictures is not None
    assert pictures.shape == (6, len(objective.columns_of_pictures), 3, SIDE, SIDE)
    assert pictures.dtype == torch.uint8
    original, masked, filled, predicted = pictures.unbind(1)
    _, target = objective.prepare(part)
    hidden = target.hidden.expand_as(original)
    assert torch.equal(original, part.images)
    assert set(masked[hidden].tolist()) == {128}
    assert torch.equal(masked[~hidden], original[~hidden])
    assert torch.equal(filled[~hidden], original[~hidden])
    assert torch.equal(filled[hidden], predicted[hidden])


def test_a_perfect_answer_of_mae_is_shown_as_the_image() -> None:
    objective, _ = made(Mae, "vit_ti_16")
    images = objective.prepare(cell())[0].images
    shown = objective.as_pixels(objective.target(images), images)
    assert torch.allclose(shown, images, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (Mae, {"model__name": "swin_t"}, "simmim"),
        (Mae, {"model__name": "resnet18", "model__patch_size": 0}, "simclr"),
        (SimMim, {"model__name": "resnet18", "model__patch_size": 0}, "simclr"),
        (SimMim, {"pretrain__mask_unit": 6}, "4, 8, 16"),
        (Mae, {"pretrain__mask": 0.999}, "smaller pretrain.mask_unit"),
        (Mae, {"augment__sizes": "[0.5,1]"}, "augment.sizes"),
        (SimMim, {"augment__cutmix": 0.5}, "augment.cutmix=0"),
    ],
)
def test_what_cannot_learn_from_masked_images_is_told_what_can(
    kind: type[MaskedImages], changes: dict[str, Any], words: str
) -> None:
    config = settings(**changes)
    objective = kind.of(config, DIGITS)
    network = meta_model(config.model.name, num_classes=2, image_size=SIDE, **config.shape)
    with pytest.raises(ConfigError) as refused:
        objective.wrap(network)
    assert words in f"{refused.value.fix} {refused.value.where}"


def test_a_network_that_was_handed_over_says_its_patches_by_the_settings() -> None:
    network = VisionTransformer(vit.Design(48, 1, 3, 8), Options(2, SIDE, patch_size=8))
    with pytest.raises(ConfigError, match="8 px") as refused:
        Mae.of(settings(model__name="resnet18", model__patch_size=0), DIGITS).wrap(network)
    assert "model__patch_size=8" in refused.value.fix
    Mae.of(settings(model__name="resnet18", model__patch_size=8), DIGITS).wrap(network)


def test_the_decoder_is_two_thirds_as_wide_as_the_encoder() -> None:
    widths = {}
    for name in ("vit_ti_16", "vit_s_16", "vit_b_16", "vit_l_16"):
        config = settings(
            model__name=name,
            model__patch_size=16,
            data__image_size=224,
            pretrain__decoder_depth=1,
        )
        learner = Mae.of(config, DIGITS).wrap(meta_model(name, num_classes=2, image_size=224))
        block = learner.decoder.blocks[0]
        assert isinstance(block, Block)
        widths[name] = (learner.decoder.embed.out_features, block.attn.heads)
    assert widths == {
        "vit_ti_16": (128, 4),
        "vit_s_16": (256, 8),
        "vit_b_16": (512, 16),
        "vit_l_16": (512, 16),
    }
