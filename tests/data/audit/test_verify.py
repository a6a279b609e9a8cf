"""The complete ledger: every oddity is found by name and counted exactly, and the same bytes
give the same ledger.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import (
    JPEG,
    JPEGS,
    OTHERS,
    RGB,
    RGBA,
    chunk,
    encode,
    exif_block,
    png16,
    segment,
)
from pictures import with_header_size as resized_header
from PIL import Image
from test_decode import DEEP
from test_formats import bombs

from containers import make_folder as make
from saccade.data.audit import known_sets, verify
from saccade.data.audit.image import ERRORS, NOTES, look
from saccade.data.audit.verify import Verdict
from saccade.data.images.jpeg import probe
from saccade.data.sources import open_source
from saccade.errors import UsageError
from saccade.log import Log

Tree = dict[str, bytes]
ANIMATED = {
    form: encode(RGB, form, save_all=True, append_images=[RGB.rotate(180)])
    for form in ("GIF", "WEBP", "PNG", "TIFF")
}
BAD_EXIF = {
    "no TIFF": b"nonsense",
    "directory outside": b"II*\0\xff\xff\0\0",
    "value outside": b"II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0" + struct.pack("<II", 2555904, 26),
    "cut": exif_block(6)[6:20],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def jpeg(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return encode(Image.fromarray(pixels).resize((side, side)), "JPEG")


def ledger(folder: Path) -> Verdict:
    return verify.verify(open_source(folder), Log(quiet=True))


def kinds(verdict: Verdict) -> dict[str, int]:
    return {f"{e.kind} in {e.split}": e.count for e in verdict.entries}


def names(verdict: Verdict, kind: str) -> list[str]:
    return [name.split(" in ")[0] for e in verdict.entries if e.kind == kind for name in e.images]


SOUND: Tree = {
    f"{split}/{label}/{i}.jpg": jpeg(100 * (split == "val") + 10 * (label == "b") + i)
    for split in ("train", "val")
    for label in "ab"
    for i in range(4)
}
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "not-an-image": b"<html>404</html>",
    "too-large": resized_header(JPEG, 65500, 65500),
    "truncated": JPEG[: len(JPEG) // 2],
    "damaged": JPEG[:1500] + bytes(512) + JPEG[2012:],
    "unsupported": encode(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"),
}
ODD: dict[str, bytes] = {
    "wrong-extension": OTHERS["PNG"],
    "bad-exif": JPEG[:2] + segment(0xE1, b"Exif\0\0" + BAD_EXIF["value outside"]) + JPEG[2:],
    "cmyk": JPEGS["true CMYK"],
    "16-bit": png16(DEEP[..., :3], 2),
    "alpha": encode(RGBA, "PNG"),
    "animated": ANIMATED["GIF"],
}
SUFFIX = {"unsupported": "tif", "16-bit": "png", "alpha": "png", "animated": "gif"}


def test_a_sound_set_has_no_findings_and_the_right_figures(tmp_path: Path) -> None:
    verdict = ledger(make(tmp_path / "set", SOUND))
    assert verdict.entries == () and not verdict.failed
    facts = verdict.facts["splits"]["train"]
    sizes = sorted(len(data) for name, data in SOUND.items() if name.startswith("train"))
    assert (facts["images"], facts["usable"], facts["classes"]) == (8, 8, 2)
    assert facts["images_per_class"] == {"min": 4, "median": 4, "max": 4}
    assert facts["short_side"] == facts["long_side"] == {"min": 24, "median": 24, "max": 24}
    assert facts["file_bytes"] == {
        "min": sizes[0],
        "median": int(np.median(sizes)),
        "max": sizes[-1],
        "sum": sum(sizes),
    }
    assert facts["formats"] == {"JPEG baseline 4:2:0": 8} and facts["colours"] == {"RGB": 8}
    lines = [
        "\0".join((*name.removeprefix("train/").split("/"), hashlib.sha256(data).hexdigest()))
        + "\n"
        for name, data in sorted(SOUND.items())
        if name.startswith("train")
    ]
    assert facts["content"] == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.fault("D1")
def test_every_kind_is_found_by_name_and_counted_exactly(tmp_path: Path, count: int) -> None:
    assert {*BROKEN, "unreadable"} == set(ERRORS) and set(ODD) == set(NOTES)
    wanted: dict[str, list[str]] = {}
    tree = dict(SOUND)
    for kind, data in (BROKEN | ODD).items():
        for i in range(count):
            name = f"train/a/{kind}-{i}.{SUFFIX.get(kind, 'jpg')}"
            tree[name] = data
            wanted.setdefault(kind, []).append(name)
    verdict = ledger(make(tmp_path / "set", tree))
    copies = {"duplicate-same-class in train": len(ODD) * (count - 1)} if count > 1 else {}
    assert kinds(verdict) == {f"{kind} in train": count for kind in wanted} | copies
    for kind, images in wanted.items():
        assert names(verdict, kind) == images
    assert verdict.failed
    assert {e.kind for e in verdict.entries if e.severity == "error"} == set(BROKEN)
    assert verdict.facts["splits"]["train"]["usable"] == 8 + len(ODD) * count


def test_copies_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    tree = SOUND | {
        "train/a/again.jpg": SOUND["train/a/0.jpg"],
        "train/b/torn.jpg": SOUND["train/a/0.jpg"],
        "val/b/leak.jpg": SOUND["train/b/1.jpg"],
        "val/a/void.jpg": b"",
        "train/a/void.jpg": b"",
    }
    verdict = ledger(make(tmp_path / "set", tree))
    assert kinds(verdict) == {
        "empty in train": 1,
        "empty in val": 1,
        "duplicate-same-class in train": 1,
        "duplicate-other-class in train": 1,
        "duplicate-across-splits in val": 1,
    }
    pairs = {e.kind: e.images[0] for e in verdict.entries}
    assert pairs["duplicate-same-class"] == "train/a/again.jpg in set = train/a/0.jpg in set"
    assert pairs["duplicate-other-class"] == "train/b/torn.jpg in set = train/a/0.jpg in set"
    assert pairs["duplicate-across-splits"] == "val/b/leak.jpg in set = train/b/1.jpg in set"


@pytest.mark.parametrize(("leaks", "failed"), [(1, False), (2, True)])
def test_an_overlap_up_to_a_thousandth_of_validation_is_only_listed(
    tmp_path: Path, leaks: int, failed: bool
) -> None:
    pixels = (f"P5 2 1 255\n{i:02d}".encode() for i in range(100))
    train = {f"train/{i % 2}/{i}.pgm": data for i, data in enumerate(pixels)}
    val = {f"val/{i % 2}/{i}.pgm": f"P5 4 1 255\n{i:04d}".encode() for i in range(1000 - leaks)}
    val |= {f"val/0/leak{i}.pgm": train[f"train/0/{2 * i}.pgm"] for i in range(leaks)}
    verdict = ledger(make(tmp_path / "set", train | val))
    assert kinds(verdict) == {"duplicate-across-splits in val": leaks}
    assert verdict.failed == failed


@pytest.mark.fault("D3")
def test_a_cut_at_every_percent_is_called_truncated(tmp_path: Path) -> None:
    cuts = {f"train/a/{p:02d}.jpg": JPEG[: len(JPEG) * p // 100] for p in range(1, 100)}
    cuts["train/a/no-end.jpg"] = JPEG[:-2]
    cuts["train/a/zero-tail.jpg"] = JPEG[:-400] + bytes(400)
    cuts["train/a/with-thumbnail.jpg"] = (
        JPEG[:2] + segment(0xE1, b"Exif\0\0" + b"\xff\xd9" * 9) + JPEG[2:-2]
    )
    harmless = {"train/b/garbage-after-the-end.jpg": JPEG + b"garbage" * 99}
    verdict = ledger(make(tmp_path / "set", SOUND | cuts | harmless))
    assert kinds(verdict) == {"truncated in train": 102}
    assert names(verdict, "truncated") == sorted(cuts)


@pytest.mark.fault("D4")
def test_what_the_header_promises_wrongly_is_damage_or_a_bomb(tmp_path: Path) -> None:
    false = {"doubled": resized_header(JPEG, 71, 106), "nothing": resized_header(JPEG, 0, 0)}
    tree = {f"train/a/{name}.jpg": data for name, data in false.items()}
    tree |= {f"train/a/{name}.bin.jpg": data for name, data in bombs().items()}
    verdict = ledger(make(tmp_path / "set", SOUND | tree))
    assert kinds(verdict) == {"damaged in train": 2, "too-large in train": len(bombs())}


@pytest.mark.parametrize("share", [1, 10, 200])
@pytest.mark.fault("D6")
def test_bad_images_of_any_share_are_counted_exactly(tmp_path: Path, share: int) -> None:
    maps = {f"train/{i % 2}/{i:04d}.pgm": f"P5 4 1 255\n{i:04d}".encode() for i in range(1000)}
    bad = sorted(maps)[:: 1000 // share][:share]
    verdict = ledger(make(tmp_path / "set", maps | {name: maps[name][:-1] for name in bad}))
    assert kinds(verdict) == {"truncated in train": share} and verdict.failed
    assert names(verdict, "truncated") == bad


FORMS = {
    "4:4:4": "JPEG baseline 4:4:4",
    "4:2:2": "JPEG baseline 4:2:2",
    "4:2:0": "JPEG baseline 4:2:0",
    "progressive": "JPEG progressive 4:2:0",
    "gray": "JPEG baseline gray",
    "true CMYK": "JPEG baseline 4:4:4",
}


@pytest.mark.parametrize("kind", FORMS)
def test_the_kinds_of_jpeg_are_told_apart(kind: str) -> None:
    seen = look(JPEGS[kind], "x.jpg")
    assert seen.form == FORMS[kind]
    assert seen.colours == {"gray": "gray", "true CMYK": "CMYK"}.get(kind, "RGB")


def test_the_rarer_chroma_subsamplings_have_their_names() -> None:
    place = JPEGS["4:4:4"].index(b"\xff\xc0") + 11
    for factors, name in ((0x41, "4:1:1"), (0x12, "4:4:0"), (0x21, "4:2:2"), (0x31, "other")):
        changed = bytearray(JPEGS["4:4:4"])
        changed[place] = factors
        assert probe(bytes(changed)).chroma == name


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (encode(RGB, "PNG"), "RGB"),
        (encode(RGB.convert("L"), "PNG"), "gray"),
        (encode(RGBA, "PNG"), "RGB alpha"),
        (encode(RGB.convert("1"), "PNG"), "gray"),
        (encode(RGB.quantize(9), "PNG"), "palette"),
        (encode(RGBA.convert("LA"), "PNG"), "gray alpha"),
        (encode(RGB.quantize(9), "GIF"), "palette"),
        (encode(RGB.quantize(9), "PNG", transparency=1), "palette alpha"),
        (encode(RGB.convert("CMYK"), "TIFF"), "CMYK"),
        (png16(DEEP[..., 0], 0), "gray 16-bit"),
        (png16(DEEP[..., :3], 2), "RGB 16-bit"),
        (png16(DEEP, 6), "RGB 16-bit alpha"),
        (encode(RGBA, "WEBP"), "RGB alpha"),
        (OTHERS["PPM"], "RGB"),
        (encode(Image.fromarray(DEEP[..., 0].astype(np.uint16)), "TIFF"), "gray 16-bit"),
        (b"P6 6 5 65535\n" + DEEP[..., :3].astype(">u2").tobytes(), "RGB 16-bit"),
        (b"P5 6 5 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), "gray 16-bit"),
    ],
)
def test_the_colours_of_other_formats_are_told_apart(data: bytes, colours: str) -> None:
    assert look(data).colours == colours


@pytest.mark.parametrize("form", ANIMATED)
def test_more_than_one_frame_is_noted_in_every_format(form: str) -> None:
    assert "animated" in look(ANIMATED[form]).notes
    assert "animated" not in look(encode(RGB, form)).notes


@pytest.mark.parametrize("damage", BAD_EXIF)
def test_a_bad_exif_block_is_noted_and_a_good_one_is_not(damage: str) -> None:
    bad = JPEG[:2] + segment(0xE1, b"Exif\0\0" + BAD_EXIF[damage]) + JPEG[2:]
    assert look(bad).notes == ("bad-exif",) and not look(bad).problem
    for turn in range(1, 9):
        seen = look(encode(RGB, "JPEG", exif=exif_block(turn)))
        assert (seen.notes, seen.turn) == ((), turn)


def test_orientations_are_counted(tmp_path: Path) -> None:
    turned = {
        f"train/a/turned{i}.jpg": encode(RGB.resize((30 + i, 9)), "JPEG", exif=exif_block(i))
        for i in range(1, 9)
    }
    again = {"train/a/more.png": encode(RGB, "PNG", exif=exif_block(6))}
    facts = ledger(make(tmp_path / "set", SOUND | turned | again)).facts["splits"]["train"]
    assert facts["exif_orientation"] == {"2": 1, "3": 1, "4": 1, "5": 1, "6": 2, "7": 1, "8": 1}


def test_two_copies_have_the_same_ledger_and_one_flipped_bit_shows(tmp_path: Path) -> None:
    first = ledger(make(tmp_path / "one" / "set", SOUND))
    shutil.make_archive(str(tmp_path / "set"), "tar", tmp_path / "one" / "set")
    second = ledger(tmp_path / "set.tar")
    assert second.facts["splits"] == first.facts["splits"] and second.entries == ()
    data = bytearray(SOUND["val/b/2.jpg"])
    data[-60] ^= 1
    third = ledger(make(tmp_path / "two" / "set", SOUND | {"val/b/2.jpg": bytes(data)}))
    assert third.facts["splits"]["train"] == first.facts["splits"]["train"]
    assert third.facts["splits"]["val"]["content"] != first.facts["splits"]["val"]["content"]
    assert "content-changed in val" in kinds(third) and "content-changed in train" not in kinds(
        third
    )


def wnids(num: int) -> Iterable[str]:
    marks = sorted(known_sets.KNOWN[0].marks)
    return [*marks, *(f"n{i:08d}" for i in range(num - len(marks)))]


@pytest.mark.parametrize(
    ("classes", "side", "name"),
    [
        (wnids(1000), 0, "ILSVRC2012"),
        (wnids(990), 0, "ILSVRC2012"),
        (wnids(10), 0, "Imagenette"),
        (wnids(100), 0, None),
        ("0123456789", 28, "MNIST"),
        ("0123456789", 8, None),
        (["cat", "dog"], 0, None),
        ([*sorted(known_sets.KNOWN[2].marks)], 32, "CIFAR-10"),
        ([*sorted(known_sets.KNOWN[2].marks)], 96, None),
    ],
)
def test_known_sets_are_told_by_their_classes(
    classes: Iterable[str], side: int, name: str | None
) -> None:
    found = known_sets.recognise(set(classes), side or 40, side or 900)
    assert (found and found.name) == name


@pytest.mark.spec(3)
def test_a_known_set_with_other_numbers_is_a_finding_and_no_error(tmp_path: Path) -> None:
    digits = {
        f"{split}/{i % 9}/{i}.pgm": b"P5 28 28 255\n" + bytes([i]) * 783 + bytes([split == "test"])
        for split in ("train", "test")
        for i in range(18)
    }
    verdict = ledger(make(tmp_path / "set", digits))
    assert verdict.facts["looks_like"] == "MNIST" and not verdict.failed
    assert [(e.severity, e.kind, e.split, e.text) for e in verdict.entries] == [
        ("warning", "class-count-differs", "train", "9 classes; MNIST has 10"),
        ("warning", "class-count-differs", "test", "9 classes; MNIST has 10"),
        ("warning", "count-differs", "train", "18 images; MNIST has 60,000"),
        ("warning", "count-differs", "test", "18 images; MNIST has 10,000"),
    ]


@pytest.mark.spec(3)
@pytest.mark.fault("E3")
def test_classes_of_another_size_than_in_the_known_set_are_named(tmp_path: Path) -> None:
    imagenet = next(known for known in known_sets.KNOWN if known.name == "ILSVRC2012")
    classes, counts = [f"n{i:08d}" for i in range(1000)], np.full(1000, 50)
    assert imagenet.uneven("val", classes, counts) is None
    counts[[7, 8]] = 49, 51
    assert imagenet.uneven("train", classes, counts) is None, "the training classes are uneven"
    assert imagenet.uneven("val", classes, counts) == (
        2,
        "ILSVRC2012 has 50 images in each class; 'n00000007' has 49, 'n00000008' has 51",
    )

    cifar = known_sets.KNOWN[2]
    tree = {f"test/{name}/0.ppm": b"P6 32 32 255\n" + bytes(3072) for name in cifar.marks}
    verdict = ledger(make(tmp_path / "set", tree))
    (found,) = (e for e in verdict.entries if e.kind == "class-size-differs")
    assert found.text.startswith("CIFAR-10 has 1,000 images in each class; 'airplane' has 1")
    assert found.count == 10 and found.text.endswith("and 7 more differ")


@pytest.mark.spec(2)
@pytest.mark.fault("E3")
def test_the_md5_of_a_known_archive_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "set", SOUND)
    archive = Path(shutil.make_archive(str(tmp_path / "x"), "tar", tmp_path / "set"))
    archive = archive.rename(tmp_path / "ILSVRC2012_img_val.tar")
    assert verify.known_archives(tmp_path) == verify.known_archives(archive) == [archive]
    bad = verify.verify(open_source(archive), Log(quiet=True), archives=[archive])
    assert kinds(bad) == {"md5-differs in ": 1} and bad.failed
    right = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(known_sets.ARCHIVES, archive.name, right)
    assert verify.verify(open_source(archive), Log(quiet=True), archives=[archive]).entries == ()
    with pytest.raises(UsageError, match="no archive with a known MD5"):
        verify.known_archives(tmp_path / "set")


def test_the_report_for_people_names_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    tree = SOUND | {f"train/a/{i}[red].png": BROKEN["not-an-image"] for i in range(7)}
    tree["train/a/none.png"] = ODD["alpha"] + b"tail"
    verdict = ledger(make(tmp_path / "set", tree))
    verify.show(verdict)
    text = capsys.readouterr().out
    for words in (
        "16 (9 usable)",
        "not-an-image in train: 7",
        "train/a/0[red].png in set: not an image",
        "and 2 more",
        "alpha in train: 1",
        "1 error(s)",
        "8 JPEG baseline 4:2:0",
        "RGB alpha",
    ):
        assert words in text, words
    assert json.loads(json.dumps(verdict.to_json()))["findings"][0]["count"] == 7
    cached = list((tmp_path / "cache" / "saccade" / "verify").glob("*.json"))
    assert [json.loads(path.read_text()) for path in cached] == [verdict.to_json()]


def test_a_damaged_zip_member_is_unreadable_by_name(tmp_path: Path) -> None:
    make(tmp_path / "set", SOUND)
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set"))
    data = bytearray(archive.read_bytes())
    data[data.index(b"train/a/2.jpg") + 60] ^= 4
    archive.write_bytes(data)
    verdict = ledger(archive)
    assert kinds(verdict) == {"unreadable in train": 1} and verdict.failed
    assert names(verdict, "unreadable") == ["train/a/2.jpg"]


def test_chunks_that_a_png_does_not_need_may_rot() -> None:
    rotten = chunk(b"tEXt", b"a comment")[:-1] + b"\0"
    assert look(OTHERS["PNG"][:33] + rotten + OTHERS["PNG"][33:], "x.png").notes == ()
