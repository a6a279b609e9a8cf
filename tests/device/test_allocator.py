"""Passes over images keep freed memory in the process: a fresh page costs more than a sum."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only this C library can be told"
)

FRESH = 32
"""Pages of 64 MiB, where they are huge; elsewhere they are 16,384."""

UNTRAINED = """
import numpy as np, resource, saccade, torch
from saccade.evaluation.classifier import Classifier, Recipe

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
names = tuple(map(str, range(10)))
recipe = Recipe("custom:Linear", names, 8, 1.0, (0.5,) * 3, (0.2,) * 3, "ignore")
classifier = Classifier(network, recipe)
"""

COUNTED = """
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print("pages", min(faults() for _ in range(12)))
"""
"""64 MiB are taken and returned again and again; small blocks may take the place a few times."""


def fresh_pages(action: str) -> int:
    """Return the number of pages that the system has to clear for a block that was freed after
    ``action``, in a process of its own.
    """
    done = subprocess.run(
        [sys.executable, "-c", UNTRAINED + action + COUNTED],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return int(done.stdout.rpartition("pages ")[2])


@pytest.mark.parametrize(
    "action",
    [
        "saccade.evaluate(classifier, 'digits')",
        "list(saccade.predict(classifier, [np.zeros((8, 8, 3), np.uint8)]))",
        "saccade.export(classifier, data='digits', formats='pt', out='{out}')",
    ],
    ids=["evaluate", "predict", "export"],
)
def test_memory_that_was_freed_is_used_again(action: str, tmp_path: Path) -> None:
    assert fresh_pages(action.format(out=tmp_path / "files")) < FRESH


def test_without_them_the_memory_is_fresh_each_time() -> None:
    assert fresh_pages("") >= FRESH
