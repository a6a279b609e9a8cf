"""When two networks of one class are the same one, and when not."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saccade.training.identity import differences, identify

FACTOR = 2.0


def doubled(x: Tensor) -> Tensor:
    return x * FACTOR


class Net(nn.Module):
    """A network with everything that parameters alone do not tell."""

    def __init__(self, stride: int = 1, dropout: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, stride)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(4, 2)
        self.power = 1
        self.act = torch.relu
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(doubled(self.act(self.conv(x))).mean((2, 3)) ** self.power)


def changed(change: Callable[[Net], object]) -> Net:
    net = Net()
    change(net)
    return net


def of_this_name(body: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    """Return a network whose class has the same name and another forward pass."""
    kind = type("Net", (Net,), {"forward": body, "__qualname__": "Net", "__module__": __name__})
    return kind()


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (lambda: Net(), []),
        (lambda: Net().eval(), []),
        (lambda: changed(lambda net: net(torch.zeros(1, 3, 8, 8))), []),
        (lambda: Net(seed=1), ["values"]),
        (lambda: changed(lambda net: net.mask.zero_()), ["values"]),
        (lambda: Net(stride=2), ["structure"]),
        (lambda: Net(dropout=0.2), ["structure"]),
        (lambda: changed(lambda net: setattr(net, "power", 2)), ["structure"]),
        (lambda: changed(lambda net: setattr(net, "act", torch.sigmoid)), ["structure"]),
        (
            lambda: changed(lambda net: net.register_forward_hook(lambda *a: a[2] * 2)),
            ["structure"],
        ),
        (lambda: changed(lambda net: setattr(net, "power", np.float32(2))), ["structure"]),
        (lambda: changed(lambda net: setattr(net, "parents", [net])), ["structure"]),
        (lambda: changed(lambda net: net.conv.requires_grad_(False)), ["tensors"]),
        (lambda: changed(lambda net: net.to(torch.float64)), ["tensors", "values"]),
        (
            lambda: changed(lambda net: setattr(net.conv, "bias", None)),
            ["tensors", "structure", "values"],
        ),
    ],
)
def test_what_differs_is_named(other: Callable[[], nn.Module], parts: list[str]) -> None:
    assert differences(identify(Net()), identify(other())) == parts


def test_another_forward_of_the_same_class_is_another_network() -> None:
    def times(factor: float) -> Callable[[nn.Module, Tensor], Tensor]:
        return lambda self, x: self.out(factor * self.conv(x).mean((2, 3)))

    one, same, other = (identify(of_this_name(times(factor))) for factor in (1.0, 1.0, 3.0))
    assert differences(one, same) == [] and differences(one, other) == ["code"], "a closure is read"
    assert "code" in differences(one, identify(Net()))


def test_constants_and_functions_that_the_forward_pass_reads_belong_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = identify(Net())
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert differences(before, identify(Net())) == ["code"]
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert differences(before, identify(Net())) == []
    monkeypatch.setitem(globals(), "doubled", lambda x: x + x)
    assert differences(before, identify(Net())) == ["code"]


@pytest.mark.parametrize("decorate", [lambda f: f, torch.no_grad(), torch.compiler.disable])
def test_what_lies_behind_decorators_and_several_functions_belongs_to_it(
    decorate: Callable[..., Any],
) -> None:
    def network(factor: int) -> nn.Module:
        def inmost(x: Tensor) -> Tensor:
            return x * factor

        def middle(x: Tensor) -> Tensor:
            return inmost(x)

        def outer(x: Tensor) -> Tensor:
            return middle(x)

        return of_this_name(decorate(lambda self, x: self.out(outer(self.conv(x)).mean((2, 3)))))

    one, same, other = (identify(network(factor)) for factor in (2, 2, 3))
    assert differences(one, same) == [] and differences(one, other) == ["code"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(3), np.float32(4)),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (deque([1, 2]), deque([1, 3])),
        (Random(0), Random(1)),
        (Fraction(1, 2).limit_denominator, Fraction(1, 3).limit_denominator),
    ],
)
def test_what_attributes_hold_is_seen_whatever_their_class(one: object, other: object) -> None:
    first, again, second = (
        identify(changed(lambda net, value=value: setattr(net, "extra", value)))
        for value in (one, copy.deepcopy(one), other)
    )
    assert differences(first, again) == [] and differences(first, second) == ["structure"]


def test_tied_weights_are_not_equal_weights() -> None:
    pairs = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2)]
    for first, second in pairs:
        second.load_state_dict(first.state_dict())
    tied, _ = pairs
    tied[1].weight = tied[0].weight
    pairs[1].load_state_dict(tied.state_dict())
    assert "tensors" in differences(*map(identify, pairs))


def test_another_process_finds_the_same_identity() -> None:
    """Hash seeds, addresses and the order of sets must not show."""
    program = "import test_identity as t; print(sorted(t.identify(t.Net()).items()))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(sorted(identify(Net()).items()))
