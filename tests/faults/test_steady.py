"""A thousand epochs of a tiny set: memory, open files and threads stay where they are."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import saccade
from saccade.config.schema import AugmentSection
from saccade.data import packing
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Readers
from saccade.data.sources import open_source
from saccade.training.meter import Meter

EPOCHS, PART = 1000, 100


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.fault("H3")
def test_a_thousand_epochs_leave_no_trace(packed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(64):
        folder = tmp_path / "set" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    place = tmp_path / "set"
    if packed:
        packing.pack(open_source(place), tmp_path / "pack", packing.Settings())
        place = tmp_path / "pack"
    split, readers = open_source(place).splits["train"], Readers(2)
    view = TrainingView(split, Order(64, 0), AugmentSection(), 64, EPOCHS, "ignore")
    marks = []
    for part in range(EPOCHS // PART):
        for _ in batches(view, readers, 64, part * PART, (part + 1) * PART):
            pass
        marks.append((resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))
    readers.close()
    sizes = [mark[0] for mark in marks[2:]]
    slope = np.polyfit(range(len(sizes)), sizes, 1)[0]
    assert slope < 1_000_000, f"{slope / 1e6:.2f} MB per {PART} epochs"
    assert len({mark[1:] for mark in marks[1:]}) == 1, "open files or threads grow"


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.fault("H3")
def test_a_thousand_epochs_of_training_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS H3 with all of training: steps, evaluations, checkpoints and the log of 64 images,
    a thousand times.
    """
    digits, marks = open_source("digits").splits, []
    record = Meter.evaluation

    def evaluation(self: Meter, *facts: Any, **more: Any) -> Any:
        entry = record(self, *facts, **more)
        marks.append((resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))
        return entry

    monkeypatch.setattr(Meter, "evaluation", evaluation)
    train, val = digits["train"].at(np.arange(0, 1408, 22)), digits["test"]
    settings = {"image_size": 16, "batch_size": 64, "epochs": EPOCHS, "checkpoint__every": "10ep"}
    saccade.train(
        "digits", model="resnet8", data=train, val=val, out=tmp_path / "run", quiet=True, **settings
    )
    assert len(marks) == EPOCHS
    later = marks[2 * PART :: PART]
    slope = np.polyfit(range(len(later)), [mark[0] for mark in later], 1)[0]
    assert slope < 1_000_000, f"{slope / 1e6:.2f} MB per {PART} epochs"
    # a checkpoint may be on its way to the disk: one thread more, and the file that it writes
    parts = [marks[at : at + PART] for at in range(PART, EPOCHS, PART)]
    for which, more in ((1, 2), (2, 1)):
        fewest = {min(mark[which] for mark in part) for part in parts}
        assert len(fewest) == 1, "open files or threads grow"
        assert max(mark[which] for mark in marks[PART:]) <= min(fewest) + more
