"""Automatic choices: typed in the code, and in files as they always were."""

from __future__ import annotations

import json

from saccade.training.choices import Choice, Choices

CHOICES = Choices(
    device=Choice("cpu", "as asked"),
    precision=Choice("bf16", "this CPU computes it"),
    optimizer=Choice("fused", "one pass over the memory"),
    deterministic=Choice(True, "a CPU needs no special setting"),
    compute_threads=Choice(2, "one per physical core"),
    reader_threads=Choice(4, "as set"),
    layout=Choice("channels_last", "fastest for convolutions"),
    compile=Choice(False, "does not help on a CPU"),
)


def test_choices_are_the_same_after_a_way_through_json() -> None:
    tree = CHOICES.to_json()
    assert tree["precision"] == {"value": "bf16", "reason": "this CPU computes it"}
    assert list(tree)[:3] == ["device", "precision", "optimizer"]
    assert Choices.parse(json.loads(json.dumps(tree))) == CHOICES


def test_an_attempt_of_an_older_version_keeps_what_it_had_chosen() -> None:
    earlier = {
        "precision": {"value": "fp32", "reason": "no bf16 on this CPU"},
        "compute_threads": {"value": 1},
        "forgotten": {"value": 3, "reason": "of another version"},
    }
    now = CHOICES.overridden_by(earlier)
    assert now.precision == Choice("fp32", "no bf16 on this CPU")
    assert now.compute_threads == Choice(1, "") and now.reader_threads == CHOICES.reader_threads
