"""Packs: the same images in fewer bytes, made once, resumed where it stopped, and every flipped
bit found.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.config.schema import AugmentSection
from saccade.data import packing
from saccade.data.archives import packs
from saccade.data.images import decode, jpeg, tiles
from saccade.data.loader import TrainingView, batches
from saccade.data.order import Order
from saccade.data.packing import Settings
from saccade.data.readers import Readers
from saccade.data.sources import Source, open_source
from saccade.errors import ConfigError, DataError

SMALL = Settings(max_side=80, quality=90)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for i in range(36):
        split, label = ("train", "val")[i % 6 == 0], ("cat", "dog", "Käfer")[i % 3]
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        image = coarse.resize((90 + 3 * i, 70 + i), Image.Resampling.BICUBIC)
        if i % 7 == 3:
            image.convert("L").save(folder / f"{i:02d}.jpg")
        elif i % 7 == 5:
            image.save(folder / f"{i:02d}.png")
        else:
            image.save(folder / f"{i:02d}.jpg", subsampling=("4:4:4", "4:2:0")[i % 2], quality=95)
    return root


def packed(source: Path | str, folder: Path, settings: Settings = SMALL) -> Source:
    packing.pack(open_source(source), folder, settings)
    return open_source(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def first_batch(source: Source) -> np.ndarray:
    split, readers = source.splits["train"], Readers(2)
    view = TrainingView(split, Order(len(split), 3), AugmentSection(), 32, 10, "ignore")
    try:
        return next(batches(view, readers, 20, 0, 1)).images.numpy()
    finally:
        readers.close()


def test_a_pack_of_the_original_files_is_the_same_dataset(photos: Path, tmp_path: Path) -> None:
    folder, kept = open_source(photos), packed(photos, tmp_path / "p", Settings(original=True))
    for name, split in folder.splits.items():
        assert kept.splits[name].fingerprint == split.fingerprint
        assert [bytes(kept.splits[name].read(i)) for i in range(len(split))] == [
            bytes(split.read(i)) for i in range(len(split))
        ]
    assert np.array_equal(first_batch(folder), first_batch(kept))


@pytest.mark.spec(52)
def test_a_reduced_pack_holds_the_same_pictures_smaller(photos: Path, tmp_path: Path) -> None:
    folder, kept = open_source(photos), packed(photos, tmp_path / "p")
    for name, split in folder.splits.items():
        other = kept.splits[name]
        assert (other.names, other.classes) == (split.names, split.classes)
        assert other.fingerprint != split.fingerprint
        for i in range(len(split)):
            record = other.read(i)
            assert tiles.is_tiled(record) and max(decode.size(record)) == 80
            original = Image.fromarray(decode.decode(split.read(i))).resize(
                decode.size(record), Image.Resampling.LANCZOS
            )
            assert np.abs(decode.decode(record).astype(int) - np.asarray(original)).mean() < 5
    assert np.abs(first_batch(folder).astype(int) - first_batch(kept)).mean() < 10


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_colour_is_stored_as_finely_as_asked_for(
    chroma: packing.Chroma, photos: Path, tmp_path: Path
) -> None:
    source = packed(photos, tmp_path / "p", Settings(max_side=80, chroma=chroma))
    split = source.splits["train"]
    kept = [jpeg.probe(split.read(i)).chroma for i in range(len(split)) if len(split.read(i))]
    assert set(kept) == {chroma, "gray"}


def test_gray_stays_gray_and_chroma_stays_as_fine(photos: Path, tmp_path: Path) -> None:
    split, kept = (
        open_source(photos).splits["train"],
        packed(photos, tmp_path / "p").splits["train"],
    )
    modes = {"L": 0, "4:4:4": 0, "4:2:0": 0}
    for i in range(len(split)):
        with (
            Image.open(io.BytesIO(split.read(i))) as before,
            Image.open(io.BytesIO(kept.read(i))) as after,
        ):
            assert (before.mode, after.mode) in (("L", "L"), ("RGB", "RGB"))
            sampling = "4:2:0" if b"\x03\x01\x22" in bytes(kept.read(i)) else "4:4:4"
            modes["L" if after.mode == "L" else sampling] += 1
    assert all(modes.values())


def test_tiny_images_are_kept_as_they_are(tmp_path: Path) -> None:
    kept = packed("digits", tmp_path / "p")
    assert kept.splits["train"].fingerprint == open_source("digits").splits["train"].fingerprint


def test_the_bytes_depend_on_source_and_settings_alone(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "a")
    shutil.make_archive(str(tmp_path / "photos"), "tar", photos)
    packed(tmp_path / "photos.tar", tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    a.pop("pack.json"), b.pop("pack.json")  # it names its source
    assert a == b


def test_a_killed_pack_goes_on_and_ends_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_IMAGES", 5)
    packed(photos, tmp_path / "whole")
    script = (
        "import os, signal, sys\nfrom saccade import files\nfrom saccade.data import packing "
        "as pack\n"
        "from saccade.data.sources import open_source\npack.SHARD_IMAGES = 5\n"
        "files.stage = lambda name: 'train-00002' in name and os.kill(os.getpid(), "
        "signal.SIGKILL)\n"
        f"pack.pack(open_source({str(photos)!r}), "
        f"__import__('pathlib').Path({str(tmp_path / 'cut')!r}), "
        "pack.Settings(max_side=80))\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with pytest.raises(DataError):
        open_source(tmp_path / "cut")  # no manifest yet: neither a pack nor a tree of images
    again = packing.pack(open_source(photos), tmp_path / "cut", SMALL)
    assert again.reused == 3 and contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_other_settings_are_not_mixed_into_an_old_pack(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "p")
    again = packing.pack(open_source(photos), tmp_path / "p", Settings(max_side=60))
    assert again.reused == 0
    assert max(decode.size(open_source(tmp_path / "p").splits["val"].read(0))) == 60


def test_every_flipped_bit_is_found(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "p")
    paths = [*sorted((tmp_path / "p").glob("*.shard")), tmp_path / "p" / "pack.json"]
    rng = np.random.default_rng(0)
    assert not list(packs.damage(tmp_path / "p"))
    for path in paths:
        whole = path.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 70).tolist():
            hurt = bytearray(whole)
            hurt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(hurt)
            if path.name == "pack.json":
                with pytest.raises(DataError):
                    list(packs.damage(tmp_path / "p"))
            else:
                (line,) = packs.damage(tmp_path / "p")
                assert path.name in line
        path.write_bytes(whole)


@pytest.mark.fault("D2")
def test_a_flipped_bit_in_a_record_is_caught_when_it_is_read(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "p")
    path = tmp_path / "p" / "train-00000.shard"
    whole, caught = path.read_bytes(), 0
    records = packs.open_shard(path)
    start, rng = whole.rindex(bytes(records.read(0))), np.random.default_rng(0)
    for bit in rng.integers(8 * start, 8 * (start + int(records.offsets[-1])), 200).tolist():
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        split = open_source(tmp_path / "p").splits["train"]
        bad = int(np.searchsorted(records.offsets, bit // 8 - start, "right")) - 1
        with pytest.raises(DataError, match=split.names[bad]):
            split.read(bad)
        caught += 1
    assert caught == 200


def test_a_flipped_bit_in_the_index_is_caught_when_the_pack_is_opened(
    photos: Path, tmp_path: Path
) -> None:
    packed(photos, tmp_path / "p")
    path = tmp_path / "p" / "train-00000.shard"
    whole, records = path.read_bytes(), packs.open_shard(path).offsets[-1]
    rng, start = np.random.default_rng(0), 8 + int.from_bytes(whole[:8], "little")
    first = whole.rindex(bytes(packs.open_shard(path).read(0)))
    places = [p for p in range(start, len(whole)) if not first <= p < first + int(records)]
    for place in rng.choice(places, 100):
        hurt = bytearray(whole)
        hurt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(hurt)
        with pytest.raises(DataError):
            open_source(tmp_path / "p")


def test_a_folder_with_other_things_is_not_touched(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ConfigError, match=r"diary\.txt"):
        packed(photos, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


def test_an_image_that_cannot_be_read_stops_the_pack_and_is_named(
    photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "src")
    (tmp_path / "src" / "train" / "cat" / "99.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(DataError) as caught:
        packed(tmp_path / "src", tmp_path / "p")
    assert "99.jpg" in caught.value.where
