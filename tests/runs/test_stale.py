"""What was found before holds only while the files are the same.

A few are read again in any case.
"""

from __future__ import annotations

import dataclasses
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from console import run_here
from saccade.data.archives import stamps
from saccade.data.audit import sample
from saccade.data.sources import open_source
from saccade.findings import Finding
from saccade.log import Log
from saccade.preflight import checks
from saccade.setup import build
from saccade.setup.compose import Composed, Request, compose
from saccade.training import datasets

QUIET = Log(quiet=True)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe the clock of the file system to the nanosecond: what was written just now has a
    stamp.
    """
    monkeypatch.setattr(stamps, "SETTLED_S", 0.0)


def make_set(root: Path) -> Path:
    for number, path in enumerate(
        f"{s}/{c}/{i}.jpg" for s in ("train", "val") for c in "ab" for i in range(6)
    ):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(out.getvalue().ljust(3000, b"\0"))  # all of one size
    return root


def asked(data: Path) -> Composed:
    return compose(
        Request(["resnet8"], {"data.train": str(data), "data.image_size": 24, "epochs": "2ep"})
    )


def found(composed: Composed) -> dict[str, Finding]:
    data = datasets.open_data(composed.config, composed.source)
    return inspected(composed, data)


def inspected(composed: Composed, data: datasets.Data) -> dict[str, Finding]:
    config, shrunk = build.shrink_batch(composed.config, len(data.train), explicit=False)
    return {f.id: f for f in checks.examine(config, data, None, QUIET, shrunk)}


def exchange(path: Path, data: bytes) -> None:
    """Give a file other bytes of the same number, and its old time: only the ctime tells."""
    facts = path.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    with open(path, "r+b") as file:
        file.write(data[: facts.st_size].ljust(facts.st_size, b"\0"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.usefixtures("settled")
def test_what_was_found_before_does_not_hold_for_images_exchanged_under_the_same_size_and_time(
    tmp_path: Path,
) -> None:
    data = make_set(tmp_path / "set")
    assert not {"train-val-overlap", "unreadable-image"} & set(found(asked(data)))
    exchange(data / "val" / "a" / "0.jpg", b"")
    assert "unreadable-image" in found(asked(data))
    other = data / "val" / "b" / "0.jpg"
    other.write_bytes((data / "train" / "b" / "0.jpg").read_bytes())
    (data / "val" / "a" / "0.jpg").write_bytes((data / "val" / "a" / "1.jpg").read_bytes())
    assert "train-val-overlap" in found(asked(data))


def test_a_result_is_not_kept_while_files_have_just_changed(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    opened = [datasets.open_data((c := asked(data)).config, c.source) for _ in range(2)]
    assert [sample.audit(d.train, d.val).cached for d in opened] == [False, False]
    assert opened[0].train.stamp == ""


@pytest.mark.usefixtures("settled")
def test_some_images_are_read_again_although_their_files_look_the_same(tmp_path: Path) -> None:
    """A disk that rots changes no time: a read that returns other bytes stands for it."""
    splits = open_source(str(make_set(tmp_path / "set"))).splits
    split, val = splits["train"], splits["val"]
    assert not sample.audit(split, val).cached
    rotten = dataclasses.replace(split, read=lambda i: bytes(split.read(i))[:-1] + b"?")
    assert rotten.stamp and rotten.stamp == split.stamp
    again = sample.audit(rotten, val)
    assert (
        not again.cached
        and again.changed.count == min(len(split), sample.REREAD)
        and again.seconds > 0
    )
    assert split.describe(0) in again.changed.first
    assert sample.audit(rotten, val).cached, "what was found anew holds from now on"
    dead = dataclasses.replace(split, read=lambda i: bytes(int(split.sizes[i])))
    assert sample.audit(dead, val).unreadable.count == len(split)
    assert not sample.audit(rotten, val).cached, "an untrue result is forgotten"


@pytest.mark.usefixtures("settled")
def test_images_with_other_bytes_are_a_finding(tmp_path: Path) -> None:
    composed = asked(make_set(tmp_path / "set"))
    data = datasets.open_data(composed.config, composed.source)
    assert "content-changed" not in inspected(composed, data)
    assert "content-changed" not in inspected(composed, data)
    train = data.train
    rotten = dataclasses.replace(train, read=lambda i: bytes(train.read(i))[:-1] + b"?")
    told = inspected(composed, dataclasses.replace(data, train=rotten))["content-changed"]
    assert told.severity == "warning" and train.describe(0) in told.items


def test_a_sample_of_contents_is_the_same_at_every_call_and_ends_before_it_gets_long() -> None:
    digits = open_source("digits").splits
    train, val = digits["train"], digits["test"]
    asked_for: list[int] = []

    def read(i: int) -> bytes:
        asked_for.append(i)
        return bytes(train.read(i))

    watched = dataclasses.replace(train, read=read)
    assert (
        sample.contents(watched, val) == sample.contents(train, val) != sample.contents(val, train)
    )
    assert len(asked_for) == sample.FIXED == len(set(asked_for))
    huge = dataclasses.replace(watched, sizes=np.full(len(train), sample.SAMPLE_BYTES // 2))
    asked_for.clear()
    sample.contents(huge)
    assert len(asked_for) == 2
    one = dataclasses.replace(train, read=lambda i: b"x" if i == asked_for[0] else train.read(i))
    assert sample.contents(one, val) != sample.contents(train, val)


def test_a_finished_run_is_not_said_to_be_finished_on_images_with_other_bytes(
    tmp_path: Path,
) -> None:
    data, out = make_set(tmp_path / "set"), str(tmp_path / "run")
    words = (
        "train",
        "resnet8",
        "--data",
        str(data),
        "--image-size",
        "32",
        "--epochs",
        "1step",
        "--out",
        out,
    )
    assert run_here(*words).status == 0
    assert "this run is finished" in run_here(*words).stderr
    path = data / "train" / "a" / "0.jpg"
    exchange(path, path.read_bytes()[:-3] + b"???")
    done = run_here(*words)
    assert done.status == 78 and "the contents of the images" in done.stderr, done.stderr
    assert "run-changed" in done.stderr
