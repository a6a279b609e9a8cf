"""Foreign weights: every wrapper, prefix and dialect is read; what fits is fitted.

What does not is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from small_networks import Attentive, Small, equal, state_of
from torch import nn

from saccade.errors import CheckpointError, ConfigError
from saccade.models import create_model, foreign_state, load_weights
from saccade.models.weights.readings import unwrapped


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "backbone.",
        "encoder.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.encoder.",
        "model.module.backbone.",
    ],
)
@pytest.mark.spec(34, "A4")
def test_prefixes_are_stripped(prefix: str) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    report = load_weights(model, {prefix + n: t for n, t in state.items()}, strict=True)
    assert equal(model, state) and report.share == 1.0 and set(report.loaded) == set(state)


def test_a_compiled_part_and_a_head_outside_the_prefix_are_read() -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    names = {
        n: n if n.startswith("fc") else f"backbone.{n}".replace("layer1.", "layer1._orig_mod.")
        for n in state
    }
    load_weights(model, {f"module.{names[n]}": t for n, t in state.items()}, strict=True)
    assert equal(model, state)


def test_a_prefix_that_belongs_to_the_names_stays() -> None:
    model = nn.ModuleDict(
        {"encoder": nn.ModuleDict({"layers": nn.Linear(3, 3)}), "head": nn.Linear(3, 2)}
    )
    state = state_of(model)
    load_weights(model, {f"module.{n}": t for n, t in state.items()}, strict=True)
    assert equal(model, state)


@pytest.mark.parametrize(
    "place", ["state_dict", "model", "model_state", "ema", "model_ema.state_dict", "net.0"]
)
def test_wrapped_tables_are_found_and_named(place: str) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    tree: Any = state
    for word in reversed(place.split(".")):
        tree = {
            word: tree,
            "epoch": 3,
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        }
    report = load_weights(model, tree)
    assert equal(model, state) and report.source.endswith(f"[{place}]")


def test_the_average_of_the_weights_is_preferred() -> None:
    model = create_model("resnet8", num_classes=10)
    average = state_of(model, 0.25)
    report = load_weights(
        model, {"model": state_of(model), "model_ema": {"module": average}, "epoch": 1}
    )
    assert equal(model, average) and "model_ema" in report.source
    half = {n: t for n, t in average.items() if "layer1" in n}
    assert "[model]" in load_weights(model, {"model": state_of(model), "model_ema": half}).source


@pytest.mark.spec(34)
def test_names_of_another_library_are_translated_and_swapped_ones_not_confused() -> None:
    model = Small()
    state = state_of(model)
    theirs = {model.foreign_names("timm").get(n, n): t for n, t in state.items()}
    theirs["top.weight"] = theirs["top.weight"].flatten(1)
    report = load_weights(model, {"state_dict": theirs}, strict=True)
    assert equal(model, state) and report.dialect == "timm"
    assert report.fitted == (("top.weight", "5x4 -> 5x4x1x1"),)


def test_state_goes_back_under_their_names_and_shapes() -> None:
    model = Small()
    theirs = foreign_state(model, "timm", like={"top.weight": torch.empty(5, 4)})
    assert theirs["top.weight"].shape == (5, 4) and torch.equal(
        theirs["two.weight"], model.one.weight
    )
    other = Small()
    load_weights(other, theirs, strict=True)
    assert equal(other, model.state_dict())
    with pytest.raises(ConfigError, match="keras"):
        foreign_state(model, "keras")


def test_torchvision_weights_move_both_ways() -> None:
    theirs = torchvision.models.resnet18(num_classes=7)
    ours = create_model("resnet18", num_classes=7, image_size=224)
    load_weights(ours, theirs.state_dict(), strict=True)
    assert equal(ours, theirs.state_dict())
    theirs.load_state_dict(
        foreign_state(create_model("resnet18", num_classes=7, seed=9), "torchvision")
    )


@pytest.mark.parametrize("head", ["classifier", "head.fc", "last_linear"])
def test_a_head_of_another_name_is_found(head: str) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    load_weights(model, {n.replace("fc.", f"{head}."): t for n, t in state.items()}, strict=True)
    assert equal(model, state)


def test_heads_of_another_number_of_classes_stay_fresh_and_are_named() -> None:
    model, before = Small(classes=3), Small(classes=3)
    before.load_state_dict(model.state_dict())
    report = load_weights(model, state_of(Small(classes=5)))
    assert (
        report.head == ("top.weight", "top.bias", "aux.weight", "aux.bias") and not report.misshaped
    )
    assert all(torch.equal(model.get_parameter(n), before.get_parameter(n)) for n in report.head)
    assert report.share == 1.0 and "fresh head (other classes): top.weight" in str(report)


def test_a_head_of_other_classes_stays_fresh_whatever_their_number(tmp_path: Path) -> None:
    model = create_model("resnet8", num_classes=2)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(
        state_of(model), file, {"saccade": json.dumps({"classes": ["cat", "dog"]})}
    )
    assert load_weights(model, file, classes=("ape", "bee")).head == ("fc.weight", "fc.bias")
    assert load_weights(model, tmp_path, classes=("cat", "dog")).head == ()
    assert load_weights(model, file).head == ()


@pytest.mark.parametrize(
    ("before", "tokens_before", "after", "tokens"), [(14, 1, 24, 1), (8, 0, 5, 0), (4, 2, 6, 1)]
)
def test_position_tables_follow_the_image_size(
    before: int, tokens_before: int, after: int, tokens: int
) -> None:
    layers = pytest.importorskip("timm.layers")
    source, model = Attentive(before, tokens_before), Attentive(after, tokens)
    nn.init.normal_(source.pos_embedding)
    report = load_weights(model, source.state_dict())
    expected = layers.resample_abs_pos_embed(
        source.pos_embedding.detach(), [after, after], num_prefix_tokens=tokens_before
    )
    torch.testing.assert_close(model.pos_embedding[:, tokens:], expected[:, tokens_before:])
    assert torch.equal(model.pos_embedding[:, :tokens], source.pos_embedding[:, :tokens])
    assert (
        dict(report.fitted)["pos_embedding"]
        == f"{before}x{before} -> {after}x{after} positions, bicubic"
    )


def test_a_class_token_that_there_is_none_of_keeps_its_own_place() -> None:
    source, model = Attentive(4, tokens=0), Attentive(6, tokens=1)
    nn.init.constant_(source.pos_embedding, 2.0)
    nn.init.constant_(model.pos_embedding, 5.0)
    load_weights(model, source.state_dict())
    assert model.pos_embedding[0, 0].eq(5).all()
    torch.testing.assert_close(model.pos_embedding[:, 1:], torch.full((1, 36, 6), 2.0))


def test_relative_position_tables_follow_the_window() -> None:
    source, model = Attentive(4, window=6), Attentive(4, window=7)
    nn.init.normal_(source.relative_position_bias_table)
    report = load_weights(model, source.state_dict())
    grid = source.relative_position_bias_table.detach().T.view(1, 2, 11, 11)
    expected = nn.functional.interpolate(grid, size=(13, 13), mode="bicubic").view(2, 169).T
    torch.testing.assert_close(model.relative_position_bias_table.detach(), expected)
    assert dict(report.fitted)["relative_position_bias_table"] == "windows 6 -> 7, bicubic"
    assert torch.equal(model.relative_position_index, torch.arange(7**4))
    other = load_weights(Attentive(4, heads=3), source.state_dict())
    assert other.misshaped == (("relative_position_bias_table", "121x2 there, 169x3 here"),)


def test_the_first_convolution_takes_other_colours() -> None:
    source = Small(colours=3)
    gray = torch.rand(1, 1, 5, 5)
    expected = source.stem(gray.expand(1, 3, 5, 5))
    for colours in (1, 2, 3, 7):
        model = Small(colours=colours)
        report = load_weights(model, state_of(source, 0.0))
        assert report.share == 1.0 and ("stem.weight" in dict(report.fitted)) == (colours != 3)
        answer = model.stem(gray.expand(1, colours, 5, 5))
        if colours in (1, 3):
            torch.testing.assert_close(answer, expected)
        assert answer.shape == expected.shape and model.stem.weight.abs().sum() > 0


def test_counters_and_what_code_computes_are_neither_missing_nor_unused() -> None:
    source = {n: t for n, t in state_of(Attentive(4)).items() if "num_batches" not in n}
    source |= {"attn_mask": torch.zeros(3), "layer.num_batches_tracked": torch.tensor(4)}
    report = load_weights(Attentive(4), source, strict=True)
    assert not report.missing and not report.unused


@pytest.mark.spec(34)
def test_everything_that_is_left_over_is_reported_by_name() -> None:
    model = create_model("resnet8", num_classes=10)
    source = state_of(model)
    del source["layer1.0.conv1.weight"]
    source["layer1.0.conv2.weight"] = torch.zeros(3, 3, 3, 3)
    source["decoder.weight"] = torch.zeros(1)
    report = load_weights(model, source)
    assert report.missing == ("layer1.0.conv1.weight",) and report.unused == ("decoder.weight",)
    assert report.misshaped == (("layer1.0.conv2.weight", "3x3x3x3 there, 16x16x3x3 here"),)
    assert 0.9 < report.share < 1.0
    for word in (
        "missing there: layer1.0.conv1.weight",
        "unused: decoder.weight",
        "16x16x3x3 here",
    ):
        assert word in str(report)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="not all names and shapes fit: layer1"):
        load_weights(model, source, strict=True)
    assert equal(model, before)


@pytest.mark.parametrize(
    "source", [{}, {"epoch": 3}, {"weird": torch.zeros(3)}, {"a": {"b": torch.zeros(2)}}]
)
@pytest.mark.spec(34)
def test_what_does_not_fit_at_all_is_refused_and_nothing_changes(source: dict[str, Any]) -> None:
    model = create_model("resnet8", num_classes=10)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, source)
    assert caught.value.where == "the state dict" and caught.value.fix
    assert equal(model, before)


def test_a_table_that_claims_to_be_endless_is_not_resized() -> None:
    source = state_of(Attentive(4))
    source["pos_embedding"] = torch.zeros(1, 1, 6).expand(1, 1 + (1 << 14) ** 2, 6)
    assert load_weights(Attentive(4), source).misshaped[0][0] == "pos_embedding"


@pytest.mark.parametrize(
    "prefix",
    [
        "module.encoder_q.",
        "module.base_encoder.",
        "student_backbone.",
        "teacher_backbone.",
        "target_encoder.",
        "trunk.",
        "module.trunk.",
        "module.encoder_k.",
        "teacher.backbone.",
        "model_ema.module.",
        "online_network.net.",
        "swa_model.module.",
        "teacher_model.",
        "momentum_backbone.",
    ],
)
def test_prefixes_of_self_supervised_trainers_are_stripped(prefix: str) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    load_weights(model, {prefix + n: t for n, t in state.items()}, strict=True)
    assert equal(model, state)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("student", "teacher"),
        ("encoder", "target_encoder"),
        ("model", "ema"),
        ("state_dict", "state_dict_ema"),
        ("net", "swa_model"),
        ("model", "averaged"),
    ],
)
@pytest.mark.parametrize("averaged_first", [True, False])
def test_of_two_networks_in_a_file_the_averaged_one_is_taken_and_both_are_named(
    raw: str, averaged: str, averaged_first: bool
) -> None:
    model = create_model("resnet8", num_classes=10)
    tables = {raw: state_of(model, 0.5), averaged: state_of(model, 0.25)}
    order = sorted(tables, key=lambda name: (name == averaged) != averaged_first)
    report = load_weights(model, {name: tables[name] for name in order} | {"epoch": 3})
    assert equal(model, tables[averaged])
    assert report.source.endswith(f"[{averaged}]") and report.others == (raw,)
    assert f"would also have fitted: {raw}" in str(report)


@pytest.mark.parametrize(
    ("raw", "averaged", "taken"),
    [
        ("student_backbone", "teacher_backbone", 1),
        ("student", "teacher", 1),
        ("encoder", "target_encoder", 1),
        ("encoder_q", "encoder_k", 0),
        ("base_encoder", "momentum_encoder", 0),
        ("online_network", "target_network", 1),
        ("net", "ema_net", 1),
    ],
)
def test_of_two_networks_in_one_table_the_published_choice_is_taken(
    raw: str, averaged: str, taken: int
) -> None:
    model = create_model("resnet8", num_classes=10)
    states = state_of(model, 0.5), state_of(model, 0.25)
    table = {
        f"module.{p}.{n}": t
        for p, s in zip((raw, averaged), states, strict=True)
        for n, t in s.items()
    }
    report = load_weights(model, {"state_dict": table})
    assert equal(model, states[taken])
    names = f"module.{raw}.*", f"module.{averaged}.*"
    assert report.source.endswith(f"[state_dict: {names[taken]}]")
    assert report.others == (f"state_dict: {names[1 - taken]}",)


@pytest.mark.parametrize("place", ["ema", "ema_shadow", "polyak_params"])
def test_an_average_of_the_parameters_is_taken_with_the_statistics_of_the_weights(
    place: str,
) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    parameters = {
        n: t + 1 for n, t in state.items() if "running" not in n and "num_batches" not in n
    }
    report = load_weights(model, {"model": state, place: parameters})
    assert equal(model, state | parameters) and report.others == ("model",)
    assert report.source.endswith(f"[{place}, statistics of model]") and report.share == 1.0

    short = dict(list(parameters.items())[1:])
    load_weights(model, {"model": state, place: short})
    assert equal(model, state)


@pytest.mark.parametrize(
    "place",
    [
        "optimizer.exp_avg",
        "optimizer_states.ema",
        "exp_avg_sq",
        "opt.ema",
        "optim.shadow",
        "square_avg",
    ],
)
@pytest.mark.parametrize("buffers", [True, False])
def test_averages_of_gradients_are_not_taken_for_weights(place: str, buffers: bool) -> None:
    model = create_model("resnet8", num_classes=10)
    state, moments = state_of(model), state_of(model, 0.25)
    table: Any = moments if buffers else {n: moments[n] for n, _ in model.named_parameters()}
    for word in reversed(place.split(".")):
        table = {word: table}
    load_weights(model, table | {"net": state})
    assert equal(model, state)


@pytest.mark.spec(32, "A4")
def test_names_that_wrappers_put_into_a_model_are_stripped_there_too() -> None:
    state, model = (
        state_of(create_model("resnet8", num_classes=10)),
        create_model("resnet8", num_classes=10),
    )
    model.layer1[0] = torch.compile(model.layer1[0])
    report = load_weights(model, state, strict=True)
    assert report.share == 1.0
    assert torch.equal(
        model.state_dict()["layer1.0._orig_mod.conv1.weight"], state["layer1.0.conv1.weight"]
    )
    compiled = torch.compile(create_model("resnet8", num_classes=10))
    load_weights(compiled, state, strict=True)
    assert equal(unwrapped(nn.DataParallel(compiled)), state)


def test_more_ways_to_read_than_anybody_needs_are_refused() -> None:
    words = ("module", "model", "net", "backbone", "encoder", "trunk")
    names = [
        ".".join((*order, "w"))
        for size in (1, 2, 3, 4, 5)
        for order in itertools.permutations(words, size)
    ]
    with pytest.raises(CheckpointError, match="ambiguous"):
        load_weights(create_model("resnet8", num_classes=10), {n: torch.zeros(1) for n in names})
    with pytest.raises(CheckpointError, match="ambiguous"):
        load_weights(nn.Linear(2, 2), {str(i): i for i in range(200_000)})


def test_hundreds_of_optimiser_tables_do_not_hide_the_model() -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    tables = {i: {"exp_avg": torch.zeros(2), "step": torch.zeros(())} for i in range(3000)}
    load_weights(model, {"optimizer": {"state": tables}, "model": state}, strict=True)
    assert equal(model, state)


def test_a_first_layer_that_does_not_fit_is_reported_with_its_patch() -> None:
    source = create_model("vit_ti_16", num_classes=10, image_size=64)
    model = create_model("vit_ti_16", num_classes=10, image_size=128)
    report = load_weights(model, source.state_dict())
    assert (
        report.first == "conv_proj.weight (192x3x8x8 there, 192x3x16x16 here)" and report.patch == 8
    )
    flat = [
        nn.Sequential(nn.Linear(3 * side**2, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        for side in (8, 16)
    ]
    report = load_weights(flat[1], flat[0].state_dict())
    assert report.first == "0.weight (8x192 there, 8x768 here)" and report.patch == 8
    fine = load_weights(
        create_model("vit_ti_16", num_classes=10, image_size=128, patch_size=8), source.state_dict()
    )
    assert not fine.first and not fine.patch


def test_broken_weights_are_refused_by_name() -> None:
    model = create_model("resnet8", num_classes=10)
    source = state_of(model)
    source["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight contains NaN or infinity"):
        load_weights(model, source)
    mask = Attentive(4)
    mask.register_buffer("causal", torch.full((2, 2), float("-inf")))
    assert load_weights(mask, mask.state_dict()).share == 1.0


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("bn1.running_mean", float("nan"), "contains NaN or infinity"),
        ("layer2.0.bn1.running_var", float("inf"), "contains NaN or infinity"),
        ("layer1.0.bn2.running_var", -1.0, "contains negative variances"),
    ],
)
def test_statistics_that_no_norm_can_have_are_damage(name: str, value: float, what: str) -> None:
    model, source = (create_model("resnet8", num_classes=10, seed=s) for s in (0, 1))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    wrong = state_of(source)
    wrong[name][0] = value
    with pytest.raises(CheckpointError, match=f"{name} {what}"):
        load_weights(model, wrong)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_whole_numbers_are_never_taken_for_weights() -> None:
    model, source = (create_model("resnet8", num_classes=10, seed=s) for s in (0, 1))
    state = state_of(source)
    state["layer1.0.conv1.weight"] = (state["layer1.0.conv1.weight"] * 127).to(torch.int8)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1.* whole numbers \(int8"):
        load_weights(model, state)
    half = {n: t.half() if t.is_floating_point() else t for n, t in state_of(source).items()}
    assert load_weights(model, half).share == 1.0
    assert model.get_parameter("conv1.weight").dtype == torch.float32


def test_tensors_of_no_use_are_named_and_not_bent() -> None:
    source = {
        n: t.to(torch.complex64) if "layer1" in n else t
        for n, t in state_of(create_model("resnet8", num_classes=10)).items()
    }
    source["conv1.weight"] = torch.zeros(16, 0, 3, 3)
    report = load_weights(create_model("resnet8", num_classes=10), source)
    assert {"conv1.weight", "layer1.0.conv1.weight"} <= {name for name, _ in report.misshaped}
    assert report.first == "conv1.weight (16x0x3x3 there, 16x3x3x3 here)"
