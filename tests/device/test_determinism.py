"""Kernels that repeat their results: switched on for a training and no longer, refusals
understood.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from saccade.device import determinism


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    mode, filling = (
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = filling


def training_that_fails() -> None:
    with determinism.put_back():
        determinism.switch_on()
        assert torch.get_deterministic_debug_mode() == 2
        determinism.switch_on(strict=False)
        assert torch.get_deterministic_debug_mode() == 1
        raise KeyError("what ends a training")


@pytest.mark.parametrize("earlier", ["default", "warn", "error"])
@pytest.mark.spec(47)
def test_a_training_leaves_the_switches_as_they_were(earlier: str) -> None:
    torch.set_deterministic_debug_mode(earlier)
    before = (
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    with pytest.raises(KeyError):
        training_that_fails()
    assert before == (
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.spec(47)
def test_a_refusal_names_its_operation_and_other_errors_are_none() -> None:
    determinism.switch_on()
    with pytest.raises(RuntimeError) as caught:  # one of the few that refuse on a CPU, too
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    assert determinism.refused(caught.value) == "put_"
    assert (
        determinism.refused(RuntimeError("out of memory")) == ""
        and determinism.refused(KeyError("x")) == ""
    )
