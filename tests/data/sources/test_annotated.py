"""Sets whose labels lie in a text or at the end of the names: Tiny-ImageNet, ImageNet as Hugging
Face packs it.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from containers import Tree, jpeg_file, make_folder, make_tar, make_zip, rows, tar_bytes
from saccade.data.sources import open_source
from saccade.errors import DataError

WNIDS = ("n01443537", "n01629819", "n01641577")
TINY: Tree = {
    f"train/{w}/images/{w}_{i}.JPEG": jpeg_file(5 * k + i)
    for k, w in enumerate(WNIDS)
    for i in range(3)
}
TINY |= {f"train/{w}/{w}_boxes.txt": b"" for w in WNIDS} | {
    f"test/images/test_{i}.JPEG": b"x" for i in range(2)
}
VAL = {f"val_{i}.JPEG": WNIDS[i % 3] for i in range(6)}
TABLE = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in VAL.items()).encode()
WORDS = (
    b"n01443537\tgoldfish, Carassius auratus\n"
    b"n01629819\tEuropean fire salamander\nn09999999\tnothing\n"
)
FLAT: Tree = {f"val/images/{name}": jpeg_file(30 + i) for i, name in enumerate(VAL)}
AS_IT_COMES = TINY | FLAT | {"val/val_annotations.txt": TABLE, "words.txt": WORDS, "wnids.txt": b""}
SORTED = TINY | {
    f"val/{VAL[name.rpartition('/')[2]]}/{name[4:]}": data for name, data in FLAT.items()
}


def test_tiny_imagenet_is_read_as_it_comes(tmp_path: Path) -> None:
    wanted = open_source(make_folder(tmp_path / "sorted", SORTED))
    assert wanted.splits["val"].classes == WNIDS
    wrapped = {f"tiny-imagenet-200/{name}": data for name, data in AS_IT_COMES.items()}
    for path in (
        make_folder(tmp_path / "x", AS_IT_COMES),
        make_zip(tmp_path / "tiny.zip", wrapped),
        make_tar(tmp_path / "tiny.tar", wrapped),
    ):
        for _ in range(2):  # the second time from the index that is kept
            source = open_source(path)
            assert rows(source) == rows(wanted) and list(source.splits) == ["train", "val"]
            assert source.splits["val"].fingerprint == wanted.splits["val"].fingerprint
            assert not source.splits["val"].empty_classes
            assert source.class_titles == {
                WNIDS[0]: "goldfish, Carassius auratus",
                WNIDS[1]: "European fire salamander",
            }
            assert "'test'" in source.notes[0] and "2 image(s)" in source.notes[0]


def test_a_validation_folder_that_was_sorted_keeps_its_order(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "x", SORTED | {"val/val_annotations.txt": TABLE}))
    assert rows(source) == rows(open_source(make_folder(tmp_path / "sorted", SORTED)))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            TABLE[TABLE.index(b"\n") + 1 :],
            "1 image without a line in val_annotations.txt: val_0.JPEG",
        ),
        (
            TABLE + b"val_99.JPEG\tn01443537\n",
            "1 line of val_annotations.txt without an image: val_99.JPEG",
        ),
        (TABLE + b"val_0.JPEG\tn01629819\n", "already has another class"),
        (TABLE + b"val_0.JPEG\n", "not an image and its class"),
        (TABLE + b"val_0.JPEG\t../x\n", "not an image and its class"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path: Path, table: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_source(make_folder(tmp_path / "x", AS_IT_COMES | {"val/val_annotations.txt": table}))


HF: dict[str, Tree] = {
    "train_images_0": {f"{WNIDS[0]}_{i}_{WNIDS[0]}.JPEG": jpeg_file(i) for i in range(3)},
    "train_images_1": {f"{WNIDS[1]}_{i}_{WNIDS[1]}.JPEG": jpeg_file(10 + i) for i in range(3)},
    "val_images": {
        f"ILSVRC2012_val_{i:08d}_{WNIDS[i % 2]}.JPEG": jpeg_file(20 + i) for i in range(4)
    },
    "test_images": {f"ILSVRC2012_test_{i:08d}.JPEG": jpeg_file(30 + i) for i in range(2)},
}
HF_ROWS = {
    f"{tar.partition('_')[0]}/{name[-14:-5]}/{name}": data
    for tar, tree in HF.items()
    for name, data in tree.items()
    if tar != "test_images"
}


def test_imagenet_as_hugging_face_packs_it_is_read(tmp_path: Path) -> None:
    wanted = rows(open_source(make_folder(tmp_path / "arranged", HF_ROWS)))
    folder = make_folder(
        tmp_path / "x", {f"{tar}.tar.gz": gzip.compress(tar_bytes(t)) for tar, t in HF.items()}
    )
    source = open_source(folder)
    assert rows(source) == wanted
    assert (
        source.ignored == {"image outside a class folder": 2}
        and "test_images.tar.gz" in source.ignored_names[0]
    )
    extracted = {f"{tar}/{name}": data for tar, tree in HF.items() for name, data in tree.items()}
    assert rows(open_source(make_folder(tmp_path / "y", extracted))) == wanted
    assert rows(open_source(make_zip(tmp_path / "y.zip", extracted))) == wanted
    for _ in range(2):
        train, val = (
            open_source(folder / f"{name}.tar.gz").splits
            for name in ("train_images_0", "val_images")
        )
        assert (list(train), train["train"].classes, len(train["train"])) == (
            ["train"],
            WNIDS[:1],
            3,
        )
        assert (list(val), val["val"].classes) == (["val"], WNIDS[:2])
    assert len(open_source(f"{folder}/train_images_{{0..1}}.tar.gz").splits["train"]) == 6


def test_names_that_contradict_themselves_or_lack_an_id_are_no_labels(tmp_path: Path) -> None:
    for number, name in enumerate((f"{WNIDS[0]}_1_{WNIDS[1]}.JPEG", "1.JPEG")):
        tree = HF["train_images_0"] | {name: b"x"}
        with pytest.raises(DataError, match="no images in class folders"):
            open_source(make_tar(tmp_path / f"train_{number}.tar", tree))
