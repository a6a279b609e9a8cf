"""Dropping what cannot be read: exactly that, by name, up to a limit, and no longer once it is
repaired.
"""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.audit.unreadable import without_unreadable
from saccade.data.sources import Split, open_source
from saccade.errors import DataError


def hurt(split: Split, bad: set[int]) -> Split:
    marked = split.sizes.copy()
    marked[0] += len(bad) * 1000 + sum(bad)  # another fingerprint
    return dataclasses.replace(
        split, sizes=marked, read=lambda i: b"no image" if i in bad else split.read(i)
    )


@pytest.mark.parametrize("share", [0.0, 0.001, 0.009])
def test_exactly_the_unreadable_images_are_dropped(share: float) -> None:
    digits = open_source("digits").splits["train"]
    bad = set(
        np.random.default_rng(0)
        .choice(len(digits), int(share * len(digits)), replace=False)
        .tolist()
    )
    for _ in range(2):  # the second time from what is known
        kept, names = without_unreadable(hurt(digits, bad))
        assert len(kept) == len(digits) - len(bad) and len(names) == len(bad)
        assert set(kept.names) == {name for i, name in enumerate(digits.names) if i not in bad}
    assert {name.partition(".pgm")[0][-5:] for name in names} == {digits.names[i][:5] for i in bad}


def test_a_repaired_image_comes_back() -> None:
    digits = open_source("digits").splits["train"]
    broken = hurt(digits, {7, 900})
    assert len(without_unreadable(broken)[0]) == len(digits) - 2
    repaired = dataclasses.replace(
        broken, read=lambda i: b"no image" if i == 900 else digits.read(i)
    )
    assert len(without_unreadable(repaired)[0]) == len(digits) - 1


@pytest.mark.fault("D6")
def test_too_many_are_refused() -> None:
    digits = open_source("digits").splits["train"]
    with pytest.raises(DataError, match="20 of 1,437"):
        without_unreadable(hurt(digits, set(range(20))))


@pytest.mark.full
@pytest.mark.fault("D6")
def test_training_drops_them_by_name_and_validation_never_does(tmp_path: Path) -> None:
    for split, count in (("train", 220), ("val", 20)):
        for i in range(count):
            folder = tmp_path / "set" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            pixels = np.random.default_rng(i + count).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            (folder / f"{i:03d}.png").write_bytes(buffer.getvalue())

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = [
            "train",
            "resnet8",
            "--data",
            "set",
            "--epochs",
            "1step",
            "--image-size",
            "24",
            *more,
        ]
        return subprocess.run(
            [sys.executable, "-m", "saccade", *words], cwd=tmp_path, capture_output=True, text=True
        )

    (tmp_path / "set/train/a/000.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    assert run().returncode == 65
    done = run("--set", "data.unreadable=drop", "--out", "r")
    assert (
        done.returncode == 0 and "000.png" in done.stderr and "219 training images" in done.stderr
    )
    findings = json.loads((tmp_path / "r/run.json").read_text())["findings"]
    assert next(f for f in findings if f["id"] == "dropped-images")["severity"] == "warning"
    (tmp_path / "set/val/b/001.png").write_bytes(b"")
    refused = run("--set", "data.unreadable=drop", "--out", "r2")
    assert refused.returncode == 65 and "001.png" in refused.stderr
