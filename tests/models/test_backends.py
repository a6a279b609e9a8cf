"""Networks of timm and torchvision under their names: built, seeded, trained, resumed and read
back like ours.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saccade
from saccade.config.layers import Layers
from saccade.data.loader import Batch
from saccade.errors import CheckpointError, ConfigError, PreemptedError
from saccade.models import backends, create_model, find, list_models, meta_model
from saccade.models.parts.network import undecayed
from saccade.models.parts.registry import is_known
from saccade.objectives.classification import of_settings
from saccade.optim import optimizers
from saccade.optim.schedule import Schedule
from saccade.training.guard import Guard
from saccade.training.state import State
from saccade.training.step import StepRunner

timm = pytest.importorskip("timm")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hub's client from looking for its server, but where a test sends it to one of its
    own.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


QUICK: dict[str, Any] = {
    "image_size": 32,
    "epochs": "6step",
    "batch_size": 64,
    "quiet": True,
    "precision": "fp32",
}


def test_names_keep_what_follows_the_colon() -> None:
    assert find("TIMM:test_vit").name == "timm:test_vit" and find("timm:test_vit").image_size == 160
    assert find("torchvision:inception_v3").image_size == 299
    assert not is_known("keras:resnet50")
    assert list_models("timm:test_vi?") == ["timm:test_vit"] and "torchvision:vgg11" in list_models(
        "torchvision:*"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:tset_vit", "did you mean timm:test_vit"),
        ("torchvision:resnet5", "did you mean torchvision:resnet50"),
        ("timm:zzzzzzzz", "saccade models 'timm:*'"),
        ("timm:test_vit.r160_in1k", "--init timm:test_vit.r160_in1k"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(name)
    assert words in str(caught.value)


def test_without_timm_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="timm is not installed") as caught:
        create_model("timm:test_vit", num_classes=3)
    assert caught.value.fix == "pip install timm"


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_weights_are_a_function_of_the_seed_and_the_global_generator_stays(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = create_model(name, num_classes=3, image_size=64, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = create_model(name, num_classes=3, image_size=64, seed=5).state_dict()
    other = create_model(name, num_classes=3, image_size=64, seed=6).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_rates_sizes_and_colours_go_where_the_network_takes_them() -> None:
    model = create_model(
        "timm:test_vit", num_classes=3, image_size=48, dropout=0.3, drop_path=0.2, in_channels=1
    )
    assert model.head_drop.p == 0.3 and model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.pos_embed.shape[1] == 1 + 3 * 3
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 3), "training grows its images"
    other = create_model("torchvision:squeezenet1_1", num_classes=3, dropout=0.1)
    assert {m.p for m in other.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("timm:vgg11", {"drop_path": 0.1}, "does not accept drop_path"),
        ("torchvision:resnet18", {"dropout": 0.1}, "does not accept dropout"),
        ("torchvision:resnet18", {"in_channels": 1}, "colour images only"),
        ("torchvision:maxvit_t", {"image_size": 64}, "cannot be built"),
        ("timm:test_resnet", {"strides": (1, 1, 1, 2, 2)}, "are fixed"),
        ("timm:test_vit", {"patch_size": 4}, "are fixed"),
        ("torchvision:resnet18", {"checkpointing": True}, "cannot recompute"),
    ],
)
def test_what_a_network_does_not_take_is_said(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        create_model(name, num_classes=3, **options)


def test_tables_and_tokens_take_no_weight_decay() -> None:
    assert {"cls_token", "pos_embed"} <= undecayed(create_model("timm:test_vit", num_classes=3))
    with torch.device("meta"):
        assert {"class_token", "encoder.pos_embedding"} <= undecayed(
            meta_model("torchvision:vit_b_32", num_classes=3, image_size=64)
        )


@pytest.mark.parametrize("name", ["timm:regnetx_002", "torchvision:swin_t", "timm:test_maxvit"])
def test_networks_are_built_without_memory(name: str) -> None:
    model = meta_model(name, num_classes=3)
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}


def runner(model: torch.nn.Module, **settings: Any) -> tuple[State, StepRunner]:
    layers = Layers()
    for name, value in {
        "batch.global": 4,
        "batch.cell": 2,
        "optimizer.lr": 0.01,
        **settings,
    }.items():
        layers.set(f"{name}={value}")
    config, cpu = layers.resolve(), torch.device("cpu")
    state = State(model, optimizers.build(model, config, cpu), None)
    return state, StepRunner(
        config=config,
        schedule=Schedule("constant", 100, 0, 1.0),
        precision="fp32",
        device=cpu,
        guard=Guard("lr"),
        objective=of_settings(config),
    )


def batch(side: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=generator)
    return Batch(pixels, torch.arange(4) % 3, np.arange(4), np.arange(4) * 0)


def test_drop_path_and_dropout_of_others_depend_on_seed_step_and_cell_alone() -> None:
    weights = []
    for noise in (1, 2):
        model = create_model(
            "timm:test_vit", num_classes=3, image_size=32, dropout=0.3, drop_path=0.4
        )
        state, step = runner(model)
        for number in range(3):
            torch.manual_seed(noise + number)  # whatever else draws from it
            step.step(state, batch(32))
        weights.append({n: t.clone() for n, t in model.state_dict().items()})
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


@pytest.mark.models
@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 299)])
def test_auxiliary_heads_of_named_tuples_are_trained(name: str, side: int) -> None:
    model = create_model(f"torchvision:{name}", num_classes=3, image_size=side)
    state, step = runner(model)
    aux = "AuxLogits.fc.weight" if name == "inception_v3" else "aux1.fc2.weight"
    before = model.get_parameter(aux).detach().clone()
    assert torch.isfinite(step.step(state, batch(side)))
    assert not torch.equal(model.get_parameter(aux), before) and model.aux_weight > 0
    assert model.eval()(torch.zeros(1, 3, side, side)).shape == (1, 3)


@pytest.mark.models
def test_a_run_is_trained_killed_resumed_evaluated_and_read_back(
    tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    settings = QUICK | {
        "model": "timm:test_vit",
        "model__drop_path": 0.3,
        "model__dropout": 0.1,
        "ema__half_life": "2step",
    }
    whole = saccade.train(**settings, out=tmp_path / "whole")
    stop_after(3)
    with pytest.raises(PreemptedError):
        saccade.train(**settings, out=tmp_path / "cut")
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step_00000003"]
    torch.manual_seed(77)
    resumed = saccade.train(**settings, out=tmp_path / "cut")
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert files[0] == files[1] and whole.result["loss"] == resumed.result["loss"]
    assert saccade.evaluate(tmp_path / "cut", "digits").correct == whole.result["correct"]
    assert saccade.load(tmp_path / "cut").recipe.model == "timm:test_vit"


def test_weights_that_cannot_be_had_are_an_explained_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub\nand a traceback of forty lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CheckpointError, match="cannot be loaded: We couldn't connect to the hub\n"
    ) as caught:
        backends.pretrained("timm:test_vit")
    assert "use a downloaded .safetensors or .pth" in caught.value.fix
    with pytest.raises(ConfigError, match="no model"):
        backends.pretrained("timm:test_tiv")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone the hub's client sleeps and tries again, for a minute."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://localhost:{closed.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            time, "sleep", lambda seconds: pytest.fail(f"it wants to wait {seconds} s")
        )
        with pytest.raises(
            CheckpointError, match="cannot be loaded: localhost cannot be reached"
        ) as caught:
            backends.pretrained("timm:resnet18.a1_in1k")
    assert "use a downloaded .safetensors or .pth" in caught.value.fix
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("setting", ["proxy", "offline", "server"])
def test_a_hub_that_may_be_in_reach_is_asked(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(
        timm, "create_model", lambda *_, **__: tried.append(constants.HF_HUB_OFFLINE) or 1 / 0
    )
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://localhost:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", setting == "offline")
        if setting == "proxy":
            monkeypatch.setenv("https_proxy", "http://localhost:9")
        elif setting == "server":
            server.listen()
        with pytest.raises(CheckpointError, match="division by zero"):
            backends.pretrained("timm:test_vit")
    assert tried == [setting == "offline"]


@pytest.mark.models
def test_published_weights_start_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    published = create_model("timm:test_vit", num_classes=1000, seed=8)
    make = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, pretrained=False, **kw: published if pretrained else make(name, **kw),
    )
    settings = QUICK | {
        "epochs": "1step",
        "quiet": False,
        "optimizer__name": "sgd",
        "optimizer__lr": "1e-9",
    }
    saccade.train(
        **settings, model="timm:test_vit", model__init="timm:test_vit", out=tmp_path / "run"
    )
    said = capsys.readouterr().err
    assert (
        "10x10 -> 2x2 positions" in said
        and "mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (as timm says)" in said
        and "; the head starts at zero" in said
    )
    trained = saccade.load(tmp_path / "run").network.get_parameter("blocks.0.attn.qkv.weight")
    torch.testing.assert_close(
        trained, published.get_parameter("blocks.0.attn.qkv.weight"), atol=1e-5, rtol=0
    )


def test_an_image_size_that_a_network_refuses_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fails on images of 40 x 40") as caught:
        saccade.train(
            model="torchvision:inception_v3", **QUICK | {"image_size": 40}, out=tmp_path / "run"
        )
    assert caught.value.finding == "model-fails"


def test_what_torchvision_says_of_a_download_stays_off_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _fail)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        backends.pretrained("torchvision:resnet18")
    said = capsys.readouterr()
    assert not said.out and "Downloading" in said.err


def _fail(*_given: Any, **_named: Any) -> None:
    raise OSError("no network here")
