"""Whole runs that collapse on purpose end with status 76; the same runs of SimCLR do not, and
DINO of a ResNet does not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import saccade
from saccade import objectives
from saccade.errors import DivergedError
from saccade.objectives.simclr import SimClr

pytestmark = pytest.mark.full

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet8_x2": {"optimizer__lr": 0.001},
    "vit_ti_16": {"optimizer__lr": 0.0005, "model__patch_size": 8},
}


class Invariance(SimClr):
    """The squared distance of two views is the whole loss: nothing keeps images apart."""

    def total_of_heads(self, answer: Any, targets: Any, auxiliary_weight: float) -> Tensor:
        one, other = answer.float()[0::2], answer.float()[1::2]
        return ((one - other) ** 2).mean(1).sum()


def pretrain(out: Path, network: str, seed: int, **changes: Any) -> None:
    settings = NETWORKS[network] | {"pretrain__projector": [256, 64]} | changes
    saccade.pretrain(
        "digits",
        data="digits",
        model=network,
        out=out,
        seed=seed,
        precision="fp32",
        devices="cpu",
        image_size=16,
        optimizer__name="adamw",
        pretrain__evaluations=8,
        pretrain__bank=800,
        augment__repeats=2,
        augment__mixup=0,
        quiet=True,
        **{"batch_size": 64, "pretrain__method": "simclr", "epochs": "200step"} | settings,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", NETWORKS)
def test_a_collapse_on_purpose_ends_with_76(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, seed: int
) -> None:
    monkeypatch.setitem(objectives.METHODS, "simclr", Invariance)
    with pytest.raises(DivergedError, match="has collapsed") as told:
        pretrain(tmp_path / "run", network, seed)
    assert told.value.status == 76
    assert told.value.finding == "collapse"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("network", NETWORKS)
def test_simclr_is_not_taken_for_collapsed(tmp_path: Path, network: str, seed: int) -> None:
    pretrain(tmp_path / "run", network, seed)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "done"
    assert not {"collapse", "collapse-near"} & {each["id"] for each in facts["findings"]}


DINO: dict[str, Any] = {
    "batch_size": 128,
    "pretrain__method": "dino",
    "pretrain__projector": [256, 128, 512],
    "pretrain__temperature": 0.1,
    "augment__local_views": 2,
    "augment__local_side": 0.5,
}


def test_dino_that_learns_nothing_behind_its_norms_says_so(tmp_path: Path) -> None:
    """A teacher as hot as 0.5 says nearly the same of all images; their features stay apart."""
    hot = {"pretrain__teacher_temperature": [0.5, 0.5], "optimizer__lr": 0.001}
    pretrain(tmp_path / "run", "resnet8_x2", 0, epochs="80step", **DINO | hot)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "learns-nothing" in {each["id"] for each in facts["findings"]}


def test_dino_of_a_resnet_keeps_images_apart(tmp_path: Path) -> None:
    """Without BatchNorm in the head the answer is the same for all from step 40 on: ln(512)."""
    pretrain(tmp_path / "run", "resnet8_x2", 0, **DINO)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "learns-nothing" not in {each["id"] for each in facts["findings"]}
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    looks = [event for event in map(json.loads, lines) if event["event"] == "eval"]
    assert looks[-1]["loss"] < math.log(512) - 0.2
    assert looks[-1]["projector_spread"] > 0.4
