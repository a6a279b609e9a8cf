"""The network of the CIFAR-10 records: what its first layer and its start are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.errors import ConfigError
from saccade.log import Log
from saccade.models import create_model, meta_model
from saccade.models.airbench import Airbench, NearIdentity
from saccade.models.parts.cost import cost
from saccade.setup import build, choosing
from saccade.setup.compose import Request, compose
from saccade.setup.initial_weights import initialise
from saccade.training import datasets


def network(side: int = 24) -> Airbench:
    model = create_model("airbench94", num_classes=10, image_size=side, seed=3)
    assert isinstance(model, Airbench)
    return model


def test_the_first_filters_pass_their_channel_on() -> None:
    model, x = network(), torch.randn(2, 24, 9, 9)
    conv = model.groups[0].convs[0]
    assert isinstance(conv, NearIdentity)
    torch.testing.assert_close(conv(x)[:, :24], x)


@pytest.mark.parametrize(
    ("name", "side", "params", "gmacs"),
    [
        ("airbench94", 32, 1_971_640, 0.1181),
        ("airbench95", 32, 4_604_728, 0.3016),
        ("airbench96", 32, 9_915_704, 0.452),
        ("airbench_photo_s", 128, 4_721_384, 0.5109),
        ("airbench_photo_m", 128, 9_361_384, 1.5065),
    ],
)
def test_sizes_are_those_of_the_table(name: str, side: int, params: int, gmacs: float) -> None:
    found = cost(meta_model(name, num_classes=10, image_size=side), side)
    assert (found.params, round(found.macs / 1e9, 4)) == (params, gmacs)


def test_the_one_for_photographs_halves_the_side_five_times() -> None:
    model = create_model("airbench_photo_s", num_classes=3, image_size=128, seed=1)
    assert isinstance(model, Airbench)
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 128, 128))
        smallest = model.features(torch.randn(1, 3, 33, 33))
    assert smallest[-1].shape[2:] == (2, 2), "odd sides are rounded up"
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]
    assert [level.stride for level in model.levels] == [4, 8, 16, 32]


def test_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match="no strides to set"):
        create_model("airbench94", num_classes=10, image_size=32, strides=(1, 1, 1, 2, 2))


def test_a_training_begins_with_a_look_at_its_images(tmp_path: Path) -> None:
    flags = {
        "model.name": "airbench94",
        "data.image_size": 24,
        "batch.global": 128,
        "ema.half_life": "9step",
    }
    composed = compose(Request(flags=flags))
    config, data = composed.config, datasets.open_data(composed.config, composed.source)
    threads = torch.get_num_threads()
    run = build.build(config, data, tmp_path, choosing.decide(config, None))
    try:
        assert isinstance(run.state.model, Airbench) and run.state.ema
        drawn = run.state.model.whiten.weight.clone()
        initialise(run, Log(quiet=True))
        assert not torch.equal(run.state.model.whiten.weight, drawn)
        assert torch.equal(
            run.state.ema.model.get_parameter("whiten.weight"), run.state.model.whiten.weight
        )
    finally:
        run.readers.close()
        torch.set_num_threads(threads)
