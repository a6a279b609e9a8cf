"""A pretraining that was killed anywhere, or went on on two ranks, ends bit for bit like one that
was not: projectors, teachers and centres are state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import toy

STEPS, EVERY = 30, 7
COMMON = (
    "--image-size=32",
    "--batch-size=32",
    f"--epochs={STEPS}step",
    "--set=batch.cell=16",
    f"--set=checkpoint.every={EVERY}step",
    "--set=pretrain.evaluations=3",
    "--set=pretrain.bank=80",
)
METHODS = {
    "simclr": ("--model=resnet8", "--set=pretrain.projector=[32, 16]"),
    "dino": (
        "--model=resnet8",
        "--set=augment.local_side=0.5",
        "--set=pretrain.projector=[32, 16, 64]",
        "--set=pretrain.fixed_prototypes=12step",
    ),
    "mae": ("--model=vit_ti_16", "--set=pretrain.decoder_depth=1"),
    "simmim": ("--model=vit_ti_16", "--set=model.patch_size=8"),
}

pytestmark = pytest.mark.full


def command(method: str, images: Path, out: Path, *more: str) -> list[str]:
    victim = [sys.executable, str(toy.VICTIM), "--", "pretrain", method]
    return [*victim, "--data", str(images), "--out", str(out), *COMMON, *METHODS[method], *more]


@pytest.fixture(scope="module", params=list(METHODS))
def reference(
    request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param) / "run"
    attempt = toy.run(command(request.param, images, out))
    assert attempt.status == 0, attempt.stderr
    return request.param, out


@pytest.mark.parametrize("step", [9, 20])
def test_killed_the_same_command_ends_identical(
    step: int, reference: tuple[str, Path], images: Path, tmp_path: Path
) -> None:
    method, whole = reference
    out = tmp_path / "run"
    toy.signal_after_step(command(method, images, out), out, step)
    attempt = toy.run(command(method, images, out))
    assert attempt.status == 0, attempt.stderr
    assert toy.digest(out) == toy.digest(whole)
    began = toy.resumed_at(out)
    assert began == [began[0]] and began[0] > 0 and began[0] % EVERY == 0


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are looked for in /proc")
def test_two_ranks_end_as_one(reference: tuple[str, Path], images: Path, tmp_path: Path) -> None:
    """The centre is a mean over the cells of both, and the teacher moves alike."""
    method, whole = reference
    out = tmp_path / "run"
    attempt = toy.run(command(method, images, out, "--devices=cpu:2"))
    assert attempt.status == 0, attempt.stderr
    assert toy.digest(out) == toy.digest(whole)
    assert toy.facts(out)["result"]["loss"] == toy.facts(whole)["result"]["loss"]
