"""The table of optimisers: what the settings accept, and what the documentation says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.config.schema import Config
from saccade.errors import ConfigError
from saccade.optim.methods import METHODS, Settings
from saccade.optim.optimizers import peak, rest_peak, with_rate
from saccade.setup.compose import Request, settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimizer.name=sdg", ["optimizer.name", "'sdg'", "did you mean sgd?", *METHODS]),
        ("optimizer.rest=muon", ["optimizer.rest", "muon does not accept", "sgd, adam, adamw"]),
        ("optimizer.rest=adamx", ["optimizer.rest", "'adamx'", "did you mean adam or adamw?"]),
    ],
)
def test_an_unknown_optimiser_is_refused_with_the_names_there_are(
    assignment: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(Request(["digits"], {}, [assignment]))
    for word in [*words, f"--set {assignment}"]:
        assert word in str(caught.value), str(caught.value)


def test_every_optimiser_is_documented_as_the_table_has_it() -> None:
    page = PAGE.read_text()
    for name, method in METHODS.items():
        kept = ", ".join(f"`{slot}`" for slot in [*method.slots, *["step"] * method.counts_steps])
        fused = "yes" if method.fused else "no"
        assert f"| `{name}` | {method.title} | {method.rule} | {fused} | {kept} |" in page, name


def test_an_effective_rate_moves_the_rate_of_the_rest_in_proportion() -> None:
    """Muon on part of the network: ``--lr`` is its rate, never scaled; a plain method has one."""
    recipe, given = Config(), 0.02
    section = recipe.optimizer.model_copy(
        update={"name": "muon", "lr": "0.05 per 128", "rest_lr": "0.1 per 64"}
    )
    told = with_rate(section, given, 256)
    assert peak(told, 256)[0] == peak(told, 512)[0] == given
    before, rest_before = peak(section, 256)[0], rest_peak(section, 256)[0]
    assert rest_peak(told, 256)[0] / given == pytest.approx(rest_before / before)
    plain = with_rate(recipe.optimizer, given, 256)
    assert plain == recipe.optimizer.model_copy(update={"lr": repr(given)})


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", METHODS)
def test_the_state_in_place_is_what_torch_makes_in_its_first_step(
    name: str, momentum: float
) -> None:
    """A slot more would lie in every checkpoint for nothing; one less would be made too late."""
    section = Config().optimizer.model_copy(update={"name": name, "momentum": momentum})
    settings = Settings.of(section, lr=0.1, momentum=momentum, fused=False)
    param = torch.nn.Parameter(torch.ones(4, 4))
    param.grad = torch.ones(4, 4)
    part = METHODS[name].make([{"params": [param], "depth_scale": 1.0, "adapt": True}], settings)
    ours = METHODS[name].initial_slots(momentum)
    if type(part).__module__.startswith("torch."):
        part.step()
        made = {k: v for k, v in part.state[param].items() if isinstance(v, torch.Tensor)}
        assert {slot for slot in made if slot != "step"} == set(ours)
        assert ("step" in made) == METHODS[name].counts_steps
    else:
        assert ours == METHODS[name].slots
