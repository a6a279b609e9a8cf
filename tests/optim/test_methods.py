"""The table of optimisers: what the settings accept, and what the documentation says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.errors import ConfigError
from saccade.optim.methods import METHODS
from saccade.setup.compose import Request, settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimizer.name=sdg", ["optimizer.name", "'sdg'", "did you mean sgd?", *METHODS]),
        ("optimizer.rest=muon", ["optimizer.rest", "muon does not take", "sgd, adam, adamw"]),
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
