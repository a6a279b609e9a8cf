"""The network that is to be trained: its head, its last feature map, at every size of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_sets import (
    Own,
    asked,
    errors,
    found,
    make_set,
)
from torch import Tensor, nn

from saccade.setup.compose import Request, compose


class FixedSize(nn.Module):
    """A network whose last layer fits images of one size alone."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * side * side, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sets", "where"),
    [
        (("augment.sizes=[0.5, 1]",), "augment.sizes"),
        (("augment.sizes=[1]", "data.eval_size=96"), "data.eval_size"),
        (("augment.sizes=[1]", "data.eval_size=48"), "data.eval_size"),
        (("augment.sizes=[1]", "data.image_size=32"), "FixedSize"),
        (("augment.sizes=[1]",), ""),
    ],
)
def test_the_setting_that_brings_in_another_size_is_to_blame(
    sets: tuple[str, ...], where: str, tmp_path: Path
) -> None:
    data = make_set(tmp_path / "set", side=40)
    composed = compose(
        Request(["photos-small", "resnet8"], {"data.train": str(data), "data.image_size": 64}, sets)
    )
    finding = found(composed, FixedSize(64)).get("model-fails")
    assert (finding.where if finding else "") == where
    if finding and where != "FixedSize":
        assert "64 px works" in finding.message


@pytest.mark.parametrize(("share", "finding"), [(0.34, "last-map-too-small"), (1.0, None)])
def test_the_last_map_must_have_two_places_each_way(
    tmp_path: Path, share: float, finding: str | None
) -> None:
    network = ["model.name=resnet18", f"augment.sizes=[{share}]"]
    findings = found(asked(make_set(tmp_path / "set"), *network, **{"data.image_size": 48}))
    assert errors(findings) == ({finding: 78} if finding else {})


def test_strides_set_by_hand_may_leave_a_single_place_and_are_warned_of(tmp_path: Path) -> None:
    strides = ["model.name=resnet18", "model.strides=[2, 2, 2, 2, 2]", "augment.sizes=[1.0]"]
    findings = found(asked(make_set(tmp_path / "set"), *strides, **{"data.image_size": 32}))
    assert errors(findings) == {} and "last-map-too-small" in findings


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    assert errors(found(asked(data, "model.num_classes=10"))) == {"head-width": 78}
    assert errors(found(asked(data, "model.num_classes=2"))) == {}


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Own(), {}),
        (Own(real_only=True), {}),
        (Own(width=1000), {"head-width": 78}),
        (Own(width=1000, real_only=True), {"head-width": 78}),
        (Own(channels=1), {"model-fails": 78}),
        (Nothing(), {"head-width": 78}),
    ],
    ids=["fits", "fits-real-only", "wide", "wide-real-only", "gray-only", "pair"],
)
def test_a_network_of_ones_own_is_run_before_it_is_trained(
    tmp_path: Path, module: nn.Module, expected: dict[str, int]
) -> None:
    before = {n: t.clone() for n, t in module.state_dict().items()}
    assert errors(found(asked(make_set(tmp_path / "set")), module)) == expected
    assert all(
        torch.equal(before[n], t) and t.device.type == "cpu" for n, t in module.state_dict().items()
    )
