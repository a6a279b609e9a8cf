"""Runs that learn from masked images: stopped and resumed, and on several ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.errors import StopTraining
from saccade.models.parts.layers import initialise
from saccade.models.parts.registry import Options
from saccade.models.vit import Design, VisionTransformer

SETTINGS: dict[str, Any] = {
    "epochs": "8step",
    "precision": "fp32",
    "devices": "cpu",
    "image_size": 16,
    "model__patch_size": 0,
    "batch__global": 16,
    "batch__cell": 8,
    "pretrain__evaluations": 2,
    "pretrain__bank": 80,
    "pretrain__decoder_depth": 1,
}
LAST = "step-00000008.png"
WAYS = [
    ("mae", "handed over"),
    pytest.param("mae", "vit_ti_16", marks=pytest.mark.full),
    pytest.param("simmim", "vit_ti_16", marks=pytest.mark.full),
    # 20 px: a map of five patches of 4 px, which is padded
    pytest.param("simmim", "swin_t", marks=pytest.mark.full),
]


def given_for(method: str, model: str) -> dict[str, Any]:
    side = {"image_size": 20, "model__patch_size": 4} if model == "swin_t" else {}
    own = {"recipe": method, "model": model, "data": "digits", "quiet": True}
    return SETTINGS | side | own


def pretrain(out: Path, method: str, model: str) -> dict[str, Any]:
    given = given_for(method, model)
    if model == "handed over":
        network = VisionTransformer(Design(48, 2, 3, 4), Options(10, 16, patch_size=4))
        initialise(network, 0, network.head)
        given |= {"model": network, "model__patch_size": 4}
    saccade.pretrain(out=out, **given)
    facts: dict[str, Any] = json.loads((out / "run.json").read_text())
    return facts


@pytest.mark.parametrize(("method", "model"), WAYS)
def test_a_stopped_run_goes_on_exactly(
    method: str, model: str, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(3)
    with pytest.raises(StopTraining):
        pretrain(tmp_path / "stopped", method, model)
    stop_after(1000)
    resumed = pretrain(tmp_path / "stopped", method, model)
    whole = pretrain(tmp_path / "whole", method, model)
    assert resumed["attempts"] == 2
    assert resumed["digest"] == whole["digest"]
    assert resumed["result"] == whole["result"]
    assert 0 < whole["result"]["loss"] < 10

    # the same images with the same masks at every look, before and after a resume
    sheets = [sorted((tmp_path / name / "visuals").iterdir()) for name in ("stopped", "whole")]
    assert [[p.name for p in found] for found in sheets] == [["step-00000004.png", LAST]] * 2
    assert [p.read_bytes() for p in sheets[0]] == [p.read_bytes() for p in sheets[1]]
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "original, masked, filled, predicted" in page and "Effective rank" in page
    assert "checks" in page and "1 features" not in page


@pytest.mark.full
@pytest.mark.parametrize(("method", "model"), [("mae", "vit_ti_16"), ("simmim", "swin_t")])
def test_two_ranks_learn_what_one_does(method: str, model: str, tmp_path: Path) -> None:
    alone = pretrain(tmp_path / "alone", method, model)
    script = tmp_path / "two.py"
    script.write_text(
        "import json, sys\nimport saccade\nsaccade.pretrain(**json.loads(sys.argv[1]))\n"
    )
    given = given_for(method, model) | {"devices": "cpu", "out": str(tmp_path / "two")}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "run.json").read_text())
    assert two["batch"]["ranks"] == 2
    assert two["digest"] == alone["digest"]
    assert two["result"] == alone["result"]
