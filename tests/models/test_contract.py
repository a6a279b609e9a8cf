"""What every architecture can do, whatever its family: one smallest member each.

All names on the long shelf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from saccade.models import Network, create_model, find, meta_model, names
from saccade.models.parts.network import undecayed
from saccade.objectives.objective import heads

SMALLEST = {
    "airbench": "airbench94",
    "alexnet": "alexnet_v2",
    "convnext": "convnext_tiny",
    "darknet": "darknet53",
    "inception": "inception_v1",
    "efficientnet": "efficientnet_b0",
    "lenet": "lenet5",
    "mobilenet_v1": "mobilenet_v1_xp25",
    "mobilenet_v2": "mobilenet_v2_xp25",
    "mobilenet_v3": "mobilenet_v3_small",
    "regnet": "regnet_x_400mf",
    "resnet": "resnet18",
    "resnet-cifar": "resnet8",
    "shufflenet_v2": "shufflenet_v2_x0_5",
    "spatialnet": "spatialnet_0",
    "swin": "swin_t",
    "vgg": "vgg11_xp25",
    "vit": "vit_ti_16",
}
"""The cheapest member of each family."""

LARGE = 60_000_000  # parameters; above this only shapes are computed
FAMILIES = sorted(SMALLEST)


def all_of_ours() -> list[str]:
    return [name for name in names() if ":" not in name or find(name).family in SMALLEST]


@cache
def built(family: str) -> Network:
    """Return the network for ten classes, with seed 1: drawing millions of weights is most of
    the time of a test.
    """
    name = SMALLEST[family]
    model = create_model(name, num_classes=10, image_size=find(name).smallest, seed=1)
    assert isinstance(model, Network)
    return model


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Do not keep the networks of all families in memory when the tests of this file are done."""
    yield
    built.cache_clear()


def images(model_name: str, count: int = 4, channels: int = 3) -> Tensor:
    torch.manual_seed(0)
    side = find(model_name).smallest
    return torch.randn(count, channels, side, side).contiguous(memory_format=torch.channels_last)


def awake(model: Network) -> Network:
    """Give zero scales and heads a value: they would hide from the first backward pass what lies
    behind them.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_every_family_has_its_smallest_member_here() -> None:
    assert {find(name).family for name in all_of_ours()} == set(SMALLEST)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.spec(27)
def test_forward_gives_logits_in_both_modes_and_in_bf16(family: str) -> None:
    model, batch = built(family), images(SMALLEST[family])
    for training in (False, True):
        logits, *others = heads(model.train(training)(batch))
        assert logits.shape == (4, 10) and logits.isfinite().all()
        assert len(others) == (len(model.aux_names) if training else 0)
        assert all(other.shape == (4, 10) for other in others) and bool(others) <= (
            model.aux_weight > 0
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = heads(model.eval()(batch))[0].float()
        assert low.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_reaches_every_parameter(family: str) -> None:
    model = awake(deepcopy(built(family)))
    outputs = heads(model.train()(images(SMALLEST[family])))
    sum(nn.functional.cross_entropy(o, torch.tensor([0, 1, 2, 3])) for o in outputs).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    fixed = {n for n, _ in model.named_parameters()} - set(trained)
    assert fixed == ({"whiten.weight"} if family == "airbench" else set())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.spec(44)
def test_features_are_as_the_levels_say(family: str) -> None:
    model, batch = built(family).eval(), images(SMALLEST[family], 2)
    with torch.no_grad():
        maps, pooled = model.features(batch), model.embed(batch)
        assert len(maps) == len(model.levels)
        for found, level in zip(maps, model.levels, strict=True):
            assert found.shape[:2] == (2, level.channels)
            assert (
                abs(found.shape[2] - batch.shape[2] / level.stride) <= 1
                and found.shape[2] == found.shape[3]
            )
        assert min(maps[-1].shape[2:]) >= 2, "hardly any place is left to look at"
        assert pooled.dim() == 2 and torch.equal(model.head(pooled).flatten(1), model(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_is_captured_whole_and_exported(family: str) -> None:
    model, batch = built(family).eval(), images(SMALLEST[family], 2)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(batch)
        whole = torch.compile(model, fullgraph=True, backend="aot_eager")(batch)
        exported = torch.export.export(model, (batch,), strict=False).module()(batch)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(exported, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_that_of_guessing(family: str, classes: int) -> None:
    name = SMALLEST[family]
    model = create_model(name, num_classes=classes, image_size=find(name).smallest, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        logits = heads(model.train()(images(SMALLEST[family], 16)))[0]
    loss = nn.functional.cross_entropy(logits, torch.arange(16) % classes)
    assert abs(float(loss) / math.log(classes) - 1) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_a_function_of_the_seed(family: str) -> None:
    name, first = SMALLEST[family], built(family)
    torch.manual_seed(7)
    again = create_model(name, num_classes=10, image_size=find(name).smallest, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_other_sizes_and_other_channels_go_through(family: str) -> None:
    name = SMALLEST[family]
    side = 2 * find(name).smallest
    model = create_model(name, num_classes=3, image_size=side, in_channels=1).eval()
    with torch.no_grad():
        for seen in (side, 3 * side // 4):
            assert model(torch.zeros(1, 1, seen, seen)).shape == (1, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_biases_take_no_weight_decay_and_filters_do(family: str) -> None:
    model = built(family)
    free = undecayed(model)
    assert all(n in free for n, p in model.named_parameters() if p.dim() <= 1)
    kinds = (nn.Conv2d, nn.Linear)
    filters = {f"{n}.weight".lstrip(".") for n, m in model.named_modules() if isinstance(m, kinds)}
    assert not filters & free


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.spec(19)
def test_recomputing_activations_changes_no_gradient_and_no_buffer(family: str) -> None:
    gradients, buffers = [], []
    start = awake(deepcopy(built(family)))
    for checkpointing in (False, True):
        model = deepcopy(start).train()
        model.checkpointing = checkpointing
        torch.manual_seed(3)  # dropout draws from it
        logits = heads(model(images(SMALLEST[family])))[0]
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        buffers.append(list(model.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


def test_recomputing_is_asked_for_when_a_network_is_built() -> None:
    models = [
        create_model("resnet8", num_classes=3, image_size=8, checkpointing=asked)
        for asked in (False, True)
    ]
    assert [isinstance(model, Network) and model.checkpointing for model in models] == [False, True]


@pytest.mark.models
@pytest.mark.parametrize("name", all_of_ours())
@pytest.mark.spec(9)
def test_every_name_builds_and_counts(name: str) -> None:
    model = meta_model(name, num_classes=1000)
    assert isinstance(model, Network)
    side = find(name).image_size
    with torch.no_grad():
        batch = torch.empty(2, 3, side, side, device="meta")
        assert heads(model.eval()(batch))[0].shape == (2, 1000)
        maps = model.features(batch)
        assert [m.shape[1] for m in maps] == [level.channels for level in model.levels]
        missing = [
            side / level.stride - m.shape[2] for m, level in zip(maps, model.levels, strict=True)
        ]
        # LeNet and Inception V3 do not pad all of their layers
        assert all(-1 <= pixels <= 4 for pixels in missing)


@pytest.mark.models
@pytest.mark.parametrize("name", all_of_ours())
def test_every_name_takes_its_smallest_image_and_forty_and_seventy_pixels(name: str) -> None:
    for side in sorted({find(name).smallest, 40, 70}):
        if side >= find(name).smallest:
            model = meta_model(name, num_classes=10, image_size=side).eval()
            with torch.no_grad():
                maps = model.features(torch.empty(1, 3, side, side, device="meta"))
            assert min(maps[-1].shape[2:]) >= 2


@pytest.mark.models
@pytest.mark.parametrize("name", all_of_ours())
@pytest.mark.spec("A7")
def test_every_network_leaves_chance_level(name: str) -> None:
    """Two classes that differ in a wide pattern, full depth, smallest size: half of ln 2 within
    the steps.
    """
    side = find(name).smallest
    if (
        sum(p.numel() for p in meta_model(name, num_classes=2, image_size=side).parameters())
        > LARGE
    ):
        pytest.skip("too large for here: its smaller relatives are run")
    model = (
        create_model(name, num_classes=2, image_size=side, seed=2)
        .to(memory_format=torch.channels_last)
        .train()
    )
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0)
    torch.manual_seed(0)
    pattern = (
        torch.randn(3, 4, 4).repeat_interleave(-(-side // 4), 1).repeat_interleave(-(-side // 4), 2)
    )
    recent: list[float] = []
    for _ in range(STEPS):
        labels = torch.arange(8) % 2
        signs = (2.0 * labels - 1).view(-1, 1, 1, 1)
        batch = (torch.randn(8, 3, side, side) + signs * pattern[:, :side, :side]).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16):
            logits, *others = heads(model(batch))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        total = loss + 0.3 * sum(nn.functional.cross_entropy(o.float(), labels) for o in others)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        recent = [*recent[-3:], float(loss.detach())]
        if len(recent) == 4 and sum(recent) / 4 < math.log(2) / 2:
            return
    pytest.fail(
        f"loss {sum(recent) / 4:.3f} after {STEPS} steps; half of ln 2 is {math.log(2) / 2:.3f}"
    )


STEPS = 80
