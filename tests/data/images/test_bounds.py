"""Small files cannot ask for much: what is unpacked, held and decoded has bounds that are
checked before the work.
"""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.config.schema import AugmentSection
from saccade.data import filling
from saccade.data.archives import zips
from saccade.data.filling import runs
from saccade.data.images import crops
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source
from saccade.errors import DataError


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def archive(path: Path, big: bytes, method: int = zipfile.ZIP_DEFLATED) -> Split:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
        for split in ("train", "val"):
            for name in "ab":
                for i in range(4):
                    file.writestr(
                        f"{split}/{name}/{i}.jpg", jpeg(i + 10 * ord(name) + 100 * (split == "val"))
                    )
        file.writestr("train/a/big.jpg", big)
    return open_source(str(path)).splits["train"]


def place_of(split: Split) -> int:
    return next(i for i in range(len(split)) if split.names[i].endswith("big.jpg"))


def test_a_member_that_unpacks_into_too_much_is_refused_before_it_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = archive(tmp_path / "a.zip", b"\xff\xd8\xff" + bytes(3_000_000))
    monkeypatch.setattr(zips, "INFLATED_LIMIT_BYTES", 2_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="declares 3000003 bytes, more than 2000000") as caught:
        split.read(place_of(split))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert "zip -0" in caught.value.fix


def test_a_member_that_is_packed_more_tightly_than_any_image_is_refused(tmp_path: Path) -> None:
    split = archive(tmp_path / "a.zip", b"\xff\xd8\xff" + bytes(17_000_000))
    with pytest.raises(DataError, match="no image compresses that much"):
        split.read(place_of(split))
    stored = archive(
        tmp_path / "stored.zip", b"\xff\xd8\xff" + bytes(17_000_000), zipfile.ZIP_STORED
    )
    assert len(stored.read(place_of(stored))) == 17_000_003, "the advice works: it is read in place"
    small = archive(tmp_path / "small.zip", b"\xff\xd8\xff" + bytes(15_000_000))
    assert len(small.read(place_of(small))) == 15_000_003, "a blank scan of usual size is an image"


def test_files_are_cut_into_runs_of_bounded_size() -> None:
    assert list(runs(np.array([5, 5, 5, 20, 1, 1]), 10)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(runs(np.array([5, 5, 5]), 100)) == [(0, 3)]


def test_a_thread_reads_no_more_files_ahead_than_the_bound_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = archive(tmp_path / "a.zip", jpeg(5))
    asked: list[int] = []
    decode = crops.decode

    def counted(files: Sequence[Any], *arguments: Any, **options: Any) -> Iterator[Any]:
        asked.append(len(files))
        return decode(files, *arguments, **options)

    monkeypatch.setattr(crops, "decode", counted)
    seen = []
    for most in (filling.BYTES_PER_TASK, 1):
        monkeypatch.setattr(filling, "BYTES_PER_TASK", most)
        view = TrainingView(split, Order(len(split), 3, 2), AugmentSection(), 16, 10, "ignore")
        readers = Readers(2)
        (batch,) = batches(view, readers, 16, 0, 1)
        seen.append(batch.images.clone())
        readers.close()
        assert max(asked) == (8 if most > 1 else 1)
        asked.clear()
    assert (seen[0] == seen[1]).all()
