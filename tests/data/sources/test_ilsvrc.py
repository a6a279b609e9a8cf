"""ImageNet as it is published: nested tars, and labels that lie beside a flat tar."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import console
from containers import tar_bytes
from saccade.data.archives.tars import BLOCK_BYTES, index_tar
from saccade.data.audit.known_sets import ARCHIVES
from saccade.data.images import decode
from saccade.data.sources import open_source, train_split, validation_split
from saccade.data.sources.ilsvrc import DEVKIT, KNOWN_COUNTS, SOLUTION, TARS, class_name
from saccade.data.sources.split import Split
from saccade.errors import DataError

Tree = dict[str, bytes]

NUMBERS = {490: "n01751748", 1: "n02119789", 1000: "n01440764"}
"""Classes by their number in the development kit, which is not the order of the names."""

TRUTH = [490, 1, 1, 1000, 490, 1000, 1]
VAL = {f"ILSVRC2012_val_{i:08d}.JPEG": NUMBERS[number] for i, number in enumerate(TRUTH, 1)}


def jpeg_file(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((20 + seed, 16)).save(out, "JPEG")
    return out.getvalue()


TRAIN_FILES = {
    wnid: {f"{wnid}_{9 * i}.JPEG": jpeg_file(9 * i) for i in (1, 0, 2)} for wnid in NUMBERS.values()
}
VAL_FILES = {name: jpeg_file(i) for i, name in enumerate(VAL)}
ARRANGED = {
    f"train/{wnid}/{name}": data
    for wnid, tree in TRAIN_FILES.items()
    for name, data in tree.items()
} | {f"val/{VAL[name]}/{name}": data for name, data in VAL_FILES.items()}


CLASS_TARS = {f"{wnid}.tar": tar_bytes(tree) for wnid, tree in TRAIN_FILES.items()}
TRAIN_TAR = tar_bytes(CLASS_TARS)
VAL_TAR = tar_bytes(dict(reversed(VAL_FILES.items())))


def make_folder(path: Path, tree: Tree) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def meta_mat(wide: bool = False, packed: bool = True) -> bytes:
    """Write a MATLAB 5 file that names the 1,000 classes and then their ancestors."""
    wnids = [NUMBERS.get(number, f"n{number:08d}") for number in range(1, 1001)] + [
        "n00001740",
        "n00002684",
    ]
    texts = [wnid.encode("utf-16-le" if wide else "ascii") for wnid in wnids]
    kind = 4 if wide else 16
    body = b"".join(
        struct.pack("<II", kind, len(text)) + text + bytes(-len(text) % 8) for text in texts
    )
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    element = zlib.compress(struct.pack("<II", 14, len(body)) + body) if packed else body
    return header + struct.pack("<II", 15 if packed else 14, len(element)) + element


def truth_file(truth: list[int]) -> bytes:
    return "".join(f"{number}\n" for number in truth).encode()


def devkit(truth: bytes | None = None, meta: bytes | None = None) -> bytes:
    truth = truth_file(TRUTH) if truth is None else truth
    tree = {
        "readme.txt": b"",
        "data/meta.mat": meta or meta_mat(),
        "data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    return gzip.compress(
        tar_bytes({f"ILSVRC2012_devkit_t12/{name}": data for name, data in tree.items()}), mtime=0
    )


def solution(labels: dict[str, str]) -> bytes:
    rows = [
        f"{name.removesuffix('.JPEG')},{wnid} 85 1 499 272 {wnid} 3 4 5 6 "
        for name, wnid in labels.items()
    ]
    return "\r\n".join(["ImageId,PredictionString", *reversed(rows)]).encode()


def arranged_val(labels: dict[str, str]) -> Tree:
    return {f"val/{wnid}/{name}": b"" for name, wnid in labels.items()}


LABELS: dict[str, Callable[[dict[str, str]], Tree]] = {
    DEVKIT: lambda labels: {
        DEVKIT: devkit(truth_file([{w: n for n, w in NUMBERS.items()}[v] for v in labels.values()]))
    },
    SOLUTION: lambda labels: {SOLUTION: solution(labels)},
    "val": arranged_val,
}


def seen(split: Split) -> object:
    """Everything that training sees of a split."""
    rows = [(split.classes[k], name) for k, name in zip(split.labels, split.names, strict=True)]
    return (
        split.fingerprint,
        split.classes,
        rows,
        split.sizes.tolist(),
        [bytes(split.read(i)) for i in range(len(split))],
    )


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, object]:
    source = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    return {name: seen(split) for name, split in source.splits.items()}


@pytest.mark.parametrize(
    "kinds", [[DEVKIT], [SOLUTION], ["val"], [DEVKIT, SOLUTION, "val"]], ids=str
)
@pytest.mark.spec(2, 3, "A3")
def test_the_published_tars_are_the_arranged_folder(
    tmp_path: Path, expected: dict[str, object], kinds: list[str]
) -> None:
    tree = {TARS["train"]: TRAIN_TAR, TARS["val"]: VAL_TAR}
    for kind in kinds:
        tree |= LABELS[kind](VAL)
    folder = make_folder(tmp_path / "imagenet", tree)
    both = open_source(folder)
    assert (
        both.name == "imagenet"
        and {name: seen(split) for name, split in both.splits.items()} == expected
    )
    assert not both.ignored and not both.notes
    train, val = (
        train_split(open_source(folder / TARS["train"])),
        validation_split(open_source(folder / TARS["val"])),
    )
    assert val is not None and {"train": seen(train), "val": seen(val)} == expected
    assert train.describe(1) == f"train/n01440764/n01440764_18.JPEG in {TARS['train']}"
    assert val.describe(0) == f"val/n01440764/ILSVRC2012_val_00000004.JPEG in {TARS['val']}"
    assert decode.decode(train.read(0)).shape == (16, 20, 3)


@pytest.mark.parametrize(
    ("change", "finding", "wnid"),
    [
        ("missing", "class-missing-in-train", "n02119789"),
        ("extra", "class-missing-in-val", "n09999999"),
        ("whole", "", ""),
    ],
)
@pytest.mark.fault("E3")
def test_a_class_tar_that_is_missing_or_too_many_is_refused_by_name(
    change: str, finding: str, wnid: str, tmp_path: Path
) -> None:
    """FAULTS E3: nobody trains on 999 or 1,001 classes without knowing.

    Of the complete set nothing is said.
    """
    tars = {
        name: data
        for name, data in CLASS_TARS.items()
        if change != "missing" or name != f"{wnid}.tar"
    }
    if change == "extra":
        tars[f"{wnid}.tar"] = tar_bytes({f"{wnid}_{i}.JPEG": jpeg_file(100 + i) for i in range(2)})
    tree = {TARS["train"]: tar_bytes(tars), TARS["val"]: VAL_TAR, SOLUTION: solution(VAL)}
    folder = make_folder(tmp_path / "imagenet", tree)
    done = console.run_here(
        "check", "photos-small", "resnet8", "--data", str(folder), "--image-size", "32", "--json"
    )
    wrong = [f for f in json.loads(done.stdout)["findings"] if f["id"].startswith("class-")]
    # these few pictures are also alike, which is another finding
    assert done.status == 65, done.stderr
    assert [(f["id"], f["items"]) for f in wrong] == ([(finding, [wnid])] if finding else [])


def test_a_split_without_its_tar_may_lie_beside_as_a_folder(
    tmp_path: Path, expected: dict[str, object]
) -> None:
    for missing, there in (("train", "val"), ("val", "train")):
        tar = {TARS[there]: {"train": TRAIN_TAR, "val": VAL_TAR}[there], SOLUTION: solution(VAL)}
        folder = {name: data for name, data in ARRANGED.items() if name.startswith(missing)}
        source = open_source(make_folder(tmp_path / there, tar | folder))
        assert {name: seen(split) for name, split in source.splits.items()} == expected


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.spec(3)
def test_every_writing_of_meta_mat_is_read(
    tmp_path: Path, expected: dict[str, object], wide: bool, packed: bool
) -> None:
    kit = devkit(meta=meta_mat(wide, packed))
    source = open_source(make_folder(tmp_path / "imagenet", {TARS["val"]: VAL_TAR, DEVKIT: kit}))
    assert seen(source.splits["val"]) == expected["val"]


@pytest.mark.parametrize(("one", "other"), [(DEVKIT, SOLUTION), (DEVKIT, "val"), (SOLUTION, "val")])
@pytest.mark.spec(3)
@pytest.mark.fault("E3")
def test_labels_that_disagree_are_refused_with_the_first_image(
    tmp_path: Path, one: str, other: str
) -> None:
    swapped = list(VAL.values())
    swapped[2], swapped[3] = swapped[3], swapped[2]
    wrong = dict(zip(VAL, swapped, strict=True))
    folder = make_folder(
        tmp_path / "x", {TARS["val"]: VAL_TAR} | LABELS[one](VAL) | LABELS[other](wrong)
    )
    with pytest.raises(DataError) as caught:
        open_source(folder)
    name = "ILSVRC2012_val_00000003.JPEG"
    assert (
        f"{one} and {other} disagree: '{name}' is n02119789 in one and n01440764"
        in caught.value.what
    )


@pytest.mark.spec(3)
def test_missing_labels_are_explained_with_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "x", {TARS["val"]: VAL_TAR}) / TARS["val"]
    for spec in (path, path.parent):
        with pytest.raises(DataError, match="there are no labels beside it") as caught:
            open_source(spec)
        assert caught.value.where == str(path.parent)
        assert (
            DEVKIT in caught.value.fix
            and SOLUTION in caught.value.fix
            and "into this folder" in caught.value.fix
        )


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_other_images_are_refused_with_both_numbers(tmp_path: Path, kind: str) -> None:
    last = next(reversed(VAL))
    for number, labels in enumerate(
        (dict(list(VAL.items())[:-1]), VAL | {last.replace("7.", "8."): VAL[last]})
    ):
        folder = make_folder(tmp_path / str(number), {TARS["val"]: VAL_TAR} | LABELS[kind](labels))
        with pytest.raises(
            DataError, match=f"{kind} has labels for {len(labels)} images, but the tar has 7"
        ):
            open_source(folder)


def test_labels_of_as_many_other_images_are_refused_by_name(tmp_path: Path) -> None:
    labels = dict(list(VAL.items())[1:]) | {"ILSVRC2012_val_00000099.JPEG": "n01440764"}
    folder = make_folder(tmp_path / "x", {TARS["val"]: VAL_TAR, SOLUTION: solution(labels)})
    with pytest.raises(
        DataError,
        match=r"1 image without a label, 1 label without an image \('ILSVRC2012_val_00000001.JPEG'",
    ):
        open_source(folder)


KIT = devkit()
HALF = meta_mat()[:-200]
TWICE = meta_mat(packed=False).replace(b"n00000002", b"n00000003")
BAD_LABELS: dict[str, tuple[Tree, str]] = {
    "kit truncated": ({DEVKIT: KIT[:-30]}, "cannot be decompressed"),
    "kit overwritten": ({DEVKIT: KIT[:300] + bytes(50) + KIT[350:]}, "cannot be decompressed"),
    "kit not gzip": ({DEVKIT: b"<html>"}, "cannot be decompressed"),
    "kit without a tar": ({DEVKIT: gzip.compress(b"<html>" * 200)}, "not a tar archive"),
    "kit without meta": ({DEVKIT: gzip.compress(tar_bytes({"a": b""}))}, r"no data/meta\.mat"),
    "class 1001": (
        {DEVKIT: devkit(truth_file([*TRUTH[:-1], 1001]))},
        "class 1001, but meta.mat has 1000",
    ),
    "class 0": ({DEVKIT: devkit(truth_file([*TRUTH[:-1], 0]))}, "class 0"),
    "class x": ({DEVKIT: devkit(b"490\nx\n")}, "'x'"),
    "meta of another kind": ({DEVKIT: devkit(meta=b"HDF" * 50)}, "not a MATLAB 5 file"),
    "meta truncated": ({DEVKIT: devkit(meta=HALF)}, "truncated"),
    "meta cut in its stream": (
        {DEVKIT: devkit(meta=HALF[:132] + struct.pack("<I", len(HALF) - 136) + HALF[136:])},
        "truncated",
    ),
    "meta cut in a tag": ({DEVKIT: devkit(meta=meta_mat() + b"123")}, "truncated"),
    "class named twice": ({DEVKIT: devkit(meta=TWICE)}, "names a class twice"),
    "table without head": ({SOLUTION: solution(VAL)[26:]}, "first line"),
    "table without class": (
        {SOLUTION: solution(VAL) + b"\nILSVRC2012_val_00000008,cat 1 2 3 4"},
        "line 9 is not",
    ),
    "table with an image twice": (
        {SOLUTION: solution(VAL) + b"\nILSVRC2012_val_00000001,n01440764"},
        "line 9 is not",
    ),
    "table of bytes": ({SOLUTION: solution(VAL) + b"\xff"}, "not a text table"),
    "image in two folders": (
        arranged_val(VAL) | {"val/n09999999/ILSVRC2012_val_00000001.JPEG": b""},
        "is in two",
    ),
    "folder that is a file": ({"val": b""}, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_damaged_labels_are_refused(tmp_path: Path, case: str) -> None:
    tree, reason = BAD_LABELS[case]
    folder = make_folder(tmp_path / "x", {TARS["val"]: VAL_TAR} | tree)
    with pytest.raises(DataError, match=reason) as caught:
        open_source(folder)
    assert caught.value.where.startswith(str(folder))


def test_label_files_that_grow_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.data.sources.ilsvrc.LABEL_FILE_LIMIT_BYTES", 200)
    for number, kind in enumerate((DEVKIT, SOLUTION)):
        folder = make_folder(tmp_path / str(number), {TARS["val"]: VAL_TAR} | LABELS[kind](VAL))
        with pytest.raises(DataError, match="more than 200 bytes"):
            open_source(folder)


PLAIN = {
    f"{wnid}/{name}": data for wnid, tree in TRAIN_FILES.items() for name, data in tree.items()
}


@pytest.mark.parametrize(
    ("name", "tree", "splits"),
    [
        ("renamed.tar", CLASS_TARS, {"train": 3}),
        ("renamed.tar", CLASS_TARS | {"._n01440764.tar": b"\0\5\x16\7"}, {"train": 3}),
        (TARS["train"], PLAIN, {"train": 3}),
        (TARS["val"], PLAIN, {"val": 3}),
        ("photos.tar", PLAIN, {"all": 3}),
        ("photos.tar", CLASS_TARS | {"n07777777/1.jpg": b"x"}, {"all": 4}),
        ("pets.tar", {"cat.tar": CLASS_TARS["n01440764.tar"], "dog/1.jpg": b"x"}, {"all": 2}),
        (
            "pets.tar",
            {"train/cat.tar": CLASS_TARS["n01440764.tar"], "val/cat/1.jpg": b"x"},
            {"train": 1, "val": 1},
        ),
        (
            "pets.tar",
            {"train.tar": tar_bytes(PLAIN), "val.tar": tar_bytes(PLAIN)},
            {"train": 3, "val": 3},
        ),
        (TARS["train"], {"train/cat/1.jpg": b"x", "val/cat/1.jpg": b"x"}, {"train": 1, "val": 1}),
    ],
)
def test_tars_are_recognised_by_what_they_hold(
    tmp_path: Path, name: str, tree: Tree, splits: dict[str, int]
) -> None:
    source = open_source(make_folder(tmp_path / "x", {name: tar_bytes(tree)}) / name)
    assert {name: len(split.classes) for name, split in source.splits.items()} == splits


def test_validation_images_under_another_name_and_packed_find_their_labels(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "x", {"my-val.tar.gz": gzip.compress(VAL_TAR), SOLUTION: solution(VAL)}
    )
    assert seen(open_source(folder / "my-val.tar.gz").splits["val"])


def test_class_names_are_those_of_the_thousand_classes() -> None:
    assert class_name("n01440764") == "tench" and class_name("n15075141") == "toilet tissue"
    assert class_name("n01751748") == "sea snake" and class_name("n00000000") == "n00000000"
    file = resources.files("saccade.data").joinpath("imagenet_classes.txt")
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    assert (
        len({wnid for wnid, _ in rows})
        == len({name for _, name in rows})
        == KNOWN_COUNTS["classes"]
    )
    assert rows == sorted(rows) and set(ARCHIVES) == set(TARS.values())


# inner tars

VICTIM = "n02119789.tar"
INNER = TRAIN_TAR.index(CLASS_TARS[VICTIM])
MIDDLE = CLASS_TARS[VICTIM].index(b"n02119789_0.JPEG")
"""Where the header of the second image is, in its own tar."""
SIZE = len(TRAIN_FILES["n02119789"]["n02119789_0.JPEG"])


def with_inner(data: bytes) -> bytes:
    return tar_bytes(CLASS_TARS | {VICTIM: data})


def over(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


SOUND = CLASS_TARS[VICTIM]
DAMAGES = {
    "cut at a header": SOUND[:MIDDLE],
    "cut inside a header": SOUND[: MIDDLE + 100],
    "cut inside data": SOUND[: MIDDLE + BLOCK_BYTES + 100],
    "cut inside padding": SOUND[: MIDDLE + BLOCK_BYTES + SIZE + 10],
    "one bit of a header": over(SOUND, MIDDLE + 3, bytes([SOUND[MIDDLE + 3] ^ 4])),
    "header zeroed": over(SOUND, MIDDLE, bytes(BLOCK_BYTES)),
    "two blocks zeroed": over(SOUND, MIDDLE, bytes(2 * BLOCK_BYTES)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault("E1")
def test_a_damaged_inner_tar_is_refused_with_its_name_and_both_offsets(
    tmp_path: Path, damage: str
) -> None:
    bad = with_inner(DAMAGES[damage])
    path = make_folder(tmp_path / "x", {TARS["train"]: bad}) / TARS["train"]
    with pytest.raises(DataError, match=f"at byte {MIDDLE} of") as caught:
        open_source(path)
    assert caught.value.where == f"{path}: its member '{VICTIM}', from byte {INNER}"


OUTER = INNER - BLOCK_BYTES
OUTER_DAMAGES = {
    "cut at a header": TRAIN_TAR[:OUTER],
    "cut inside a header": TRAIN_TAR[: OUTER + 100],
    "cut inside an inner tar": TRAIN_TAR[: INNER + 1000],
    "one bit of a header": over(TRAIN_TAR, OUTER + 3, bytes([TRAIN_TAR[OUTER + 3] ^ 4])),
    "header zeroed": over(TRAIN_TAR, OUTER, bytes(BLOCK_BYTES)),
    "two blocks zeroed": over(TRAIN_TAR, OUTER, bytes(2 * BLOCK_BYTES)),
}


@pytest.mark.parametrize("damage", OUTER_DAMAGES)
@pytest.mark.fault("E1")
def test_the_same_damage_around_an_inner_tar_is_refused(damage: str) -> None:
    with pytest.raises(DataError, match=f"at byte {OUTER} of") as caught:
        index_tar(OUTER_DAMAGES[damage], "x.tar")
    assert caught.value.where == "x.tar"


def test_a_flipped_bit_of_an_image_cannot_be_seen_but_loses_no_member() -> None:
    place = INNER + MIDDLE + BLOCK_BYTES + 20
    assert (
        index_tar(over(TRAIN_TAR, place, bytes([TRAIN_TAR[place] ^ 1])), "x").names
        == index_tar(TRAIN_TAR, "x").names
    )


@given(st.integers(0, len(TRAIN_TAR) - 1), st.binary(min_size=1, max_size=600))
def test_overwritten_bytes_give_the_whole_index_or_an_error(place: int, junk: bytes) -> None:
    sound = index_tar(TRAIN_TAR, "x.tar")
    try:
        members = index_tar(over(TRAIN_TAR, place, junk)[: len(TRAIN_TAR)], "x.tar")
    except DataError:
        return
    assert members.names == sound.names and members.offsets.tolist() == sound.offsets.tolist()


def test_an_inner_tar_cannot_claim_what_lies_behind_it() -> None:
    liar = bytearray(CLASS_TARS["n01440764.tar"][:BLOCK_BYTES])
    liar[124:136] = b"%011o\0" % 5000
    liar[148:156] = b" " * 8
    liar[148:156] = b"%06o\0 " % sum(liar)
    outer = tar_bytes({"a.tar": bytes(liar) + bytes(2 * BLOCK_BYTES), "b/1.jpg": bytes(9000)})
    with pytest.raises(DataError, match="declares 5000 bytes, but the file ends after 1024"):
        index_tar(outer, "x.tar")


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (b"", "ends without the two zero blocks"),
        (bytes(10240), "only zeros"),
        (b"\x1f\x8b" * 600, "not a tar archive"),
        (tar_bytes({"../x.jpg": b"x"}), r"'\.\.'"),
        (tar_bytes({"1.jpg": b"x"}), "'a/1.jpg' occurs 2 times"),
    ],
)
def test_what_is_refused_outside_is_refused_inside(inner: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        index_tar(tar_bytes({"a.tar": inner, "a/1.jpg": b"x"}), "x.tar")


def test_an_inner_tar_is_a_folder_and_one_inside_of_it_is_a_file() -> None:
    deep = tar_bytes({"b.tar": tar_bytes({"1.jpg": b"x"}), "2.jpg": b"yz"})
    members = index_tar(tar_bytes({"top/a.TAR": deep, "._a.tar": b"", "3.jpg": b""}), "x.tar")
    assert members.names == ["top/a/b.tar", "top/a/2.jpg", "._a.tar", "3.jpg"]
    assert members.folders == members.tars == ["top/a"]


def test_two_inner_tars_of_one_name_are_refused() -> None:
    one, two = (
        tar_bytes({"a.tar": tar_bytes({"1.jpg": b""})}),
        tar_bytes({"a.tar": tar_bytes({"2.jpg": b""})}),
    )
    with pytest.raises(DataError, match=r"'a\.tar' occurs 2 times"):
        index_tar(one[: BLOCK_BYTES + 10240] + two, "x.tar")
