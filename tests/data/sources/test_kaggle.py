"""ImageNet as Kaggle gives it is the same set as the arranged folder, and its labels fit or are
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from containers import Tree, jpeg_file, make_folder, make_tar, make_zip, rows
from saccade.data.sources import open_source, validation_split
from saccade.errors import DataError

WNIDS = ("n01440764", "n03995372")
ROOT = "ILSVRC/Data/CLS-LOC/"
CSV = "LOC_val_solution.csv"
MAPPING = b"n01440764 tench, Tinca tinca\nn03995372 power drill\n"


TRAIN: Tree = {
    f"train/{wnid}/{wnid}_{i}.JPEG": jpeg_file(i + k)
    for k, wnid in enumerate(WNIDS)
    for i in range(3)
}
ANSWERS = {f"ILSVRC2012_val_{i:08d}": WNIDS[i % 3 > 0] for i in range(1, 7)}
VAL: Tree = {image: jpeg_file(10 + i) for i, image in enumerate(ANSWERS)}
ARRANGED = TRAIN | {f"val/{ANSWERS[image]}/{image}.JPEG": data for image, data in VAL.items()}
FLAT = TRAIN | {f"val/{image}.JPEG": data for image, data in VAL.items()}


def solution(answers: dict[str, str]) -> bytes:
    boxes = {0: " 85 1 499 272 ", 1: " 1 2 3 4 n07747607 5 6 7 8 "}
    rows = [
        f"{image},{wnid}{boxes[i % 2]}" for i, (image, wnid) in enumerate(reversed(answers.items()))
    ]
    return "\n".join(["ImageId,PredictionString", *rows, ""]).encode()


COMPETITION: Tree = {
    "LOC_sample_submission.csv": b"ImageId,PredictionString\n",
    "LOC_synset_mapping.txt": MAPPING,
    CSV: solution(ANSWERS),
    "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<a/>",
    "ILSVRC/ImageSets/CLS-LOC/val.txt": b"",
    f"{ROOT}test/ILSVRC2012_test_00000001.JPEG": b"x",
    f"{ROOT}test/ILSVRC2012_test_00000002.JPEG": b"x",
} | {ROOT + name: data for name, data in FLAT.items()}


def without(tree: Tree, *names: str) -> Tree:
    return {name: data for name, data in tree.items() if name not in names}


def beside(path: Path) -> Path:
    (path.parent / CSV).write_bytes(COMPETITION[CSV])
    return path


MACOS = {f"__MACOSX/{ROOT}val/._ILSVRC2012_val_00000001.JPEG": b"", "__MACOSX/x": b""}

FORMS: dict[str, Callable[[Path], Path]] = {
    "the competition folder": lambda p: make_folder(p / "imagenet", COMPETITION),
    "its ILSVRC folder": lambda p: make_folder(p / "imagenet", COMPETITION) / "ILSVRC",
    "the CLS-LOC folder": lambda p: make_folder(p / "imagenet", COMPETITION) / ROOT,
    "train and flat val with the csv": lambda p: make_folder(
        p / "imagenet", FLAT | {CSV: COMPETITION[CSV]}
    ),
    "train and flat val, the csv beside": lambda p: beside(make_folder(p / "imagenet", FLAT)),
    "the zip": lambda p: make_zip(p / "imagenet.zip", COMPETITION),
    "a zip made again on a Mac": lambda p: make_zip(
        p / "x.zip", {f"top/{name}": data for name, data in COMPETITION.items()} | MACOS
    ),
    "a zip without the csv, which lies beside": lambda p: beside(
        make_zip(p / "x.zip", without(COMPETITION, CSV))
    ),
    "a tar": lambda p: make_tar(p / "imagenet.tar", dict(reversed(COMPETITION.items()))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.spec(4, "A3")
def test_every_form_is_the_arranged_folder(tmp_path: Path, form: str) -> None:
    arranged = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    source = open_source(FORMS[form](tmp_path))
    assert rows(source) == rows(arranged) and len(rows(source)) == 12
    for name, split in arranged.splits.items():
        assert source.splits[name].fingerprint == split.fingerprint
    chosen = validation_split(source)
    assert chosen is not None and chosen.name == "val"


@pytest.mark.spec(4)
def test_what_is_not_used_is_counted_and_classes_have_titles(tmp_path: Path) -> None:
    folder, packed = (
        open_source(FORMS[form](tmp_path)) for form in ("the competition folder", "the zip")
    )
    for source in (folder, packed):
        assert source.ignored["test image without a label"] == 2
        assert source.class_titles == {
            "n01440764": "tench, Tinca tinca",
            "n03995372": "power drill",
        }
        assert not source.notes
    # 3 files, Annotations and ImageSets, not walked through
    assert folder.ignored["outside ILSVRC/Data/CLS-LOC"] == 5
    assert packed.ignored["outside ILSVRC/Data/CLS-LOC"] == 5
    assert open_source(make_folder(tmp_path / "arranged", ARRANGED)).class_titles == {}


@pytest.mark.spec(4)
def test_a_val_that_was_half_sorted_into_classes_is_read_as_it_is(tmp_path: Path) -> None:
    first = "ILSVRC2012_val_00000001"
    moved = without(COMPETITION, f"{ROOT}val/{first}.JPEG") | {
        f"{ROOT}val/{ANSWERS[first]}/{first}.JPEG": VAL[first]
    }
    arranged = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    assert rows(open_source(make_folder(tmp_path / "moved", moved))) == rows(arranged)
    sorted_tree = {ROOT + name: data for name, data in ARRANGED.items()}
    # needs no csv
    assert rows(open_source(make_folder(tmp_path / "sorted", sorted_tree))) == rows(arranged)
    wrong = without(COMPETITION, f"{ROOT}val/{first}.JPEG") | {
        f"{ROOT}val/n0/{first}.JPEG": VAL[first]
    }
    with pytest.raises(DataError, match=f"1 validation image in another folder .* {first} in n0"):
        open_source(make_zip(tmp_path / "wrong.zip", wrong))


def test_missing_labels_are_named_with_the_place_for_them(tmp_path: Path) -> None:
    for path in (
        make_folder(tmp_path / "x", without(COMPETITION, CSV)),
        make_folder(tmp_path / "y", FLAT),
    ):
        with pytest.raises(DataError, match="labels of 6 validation images are missing") as caught:
            open_source(path)
        assert CSV in caught.value.what and CSV in caught.value.fix and "ILSVRC" in caught.value.fix


@pytest.mark.spec(4)
def test_rows_and_images_must_be_the_same(tmp_path: Path) -> None:
    more, fewer = ANSWERS | {"ILSVRC2012_val_00000009": WNIDS[0]}, dict(list(ANSWERS.items())[2:])
    twice = {f"{ROOT}val/ILSVRC2012_val_00000002.jpeg": b"x"}
    for number, (change, words) in enumerate(
        (
            (
                {CSV: solution(more)},
                (f"1 row of {CSV} without a validation image", "ILSVRC2012_val_00000009"),
            ),
            (
                {CSV: solution(fewer)},
                (f"2 validation images without a row in {CSV}", "ILSVRC2012_val_00000001"),
            ),
            (twice, ("1 validation image found twice", "ILSVRC2012_val_00000002")),
        )
    ):
        with pytest.raises(DataError) as caught:
            open_source(make_zip(tmp_path / f"{number}.zip", COMPETITION | change))
        assert caught.value.what.startswith(": ".join(words)) and CSV in caught.value.where


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"Image,Prediction\na,n01440764\n", ["imageid", "found: Image, Prediction", "line 1"]),
        (b"", ["imageid", "found: none"]),
        (b"ImageId,PredictionString\na\n", ["only 1 cells", "line 2"]),
        (b"ImageId,PredictionString\na,\n", ["'a' has the class nothing", "line 2"]),
        (
            b"ImageId,PredictionString\na,n1 1\n\na,n2 1\n",
            ["'a' has the class n2, but another class", "line 4"],
        ),
        (b'ImageId,PredictionString\na,"n1', ["not a CSV", "line 2"]),
        (b"ImageId,PredictionString\na,\xff\n", ["not UTF-8"]),
    ],
)
def test_a_damaged_csv_is_refused_with_the_line(
    tmp_path: Path, text: bytes, words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        open_source(make_zip(tmp_path / "x.zip", COMPETITION | {CSV: text}))
    said = str(caught.value)
    assert all(word in said for word in [*words, CSV, "x.zip"]), said


def test_two_copies_in_one_archive_are_refused(tmp_path: Path) -> None:
    tree = {f"{top}/{name}": data for top in "ab" for name, data in COMPETITION.items()}
    with pytest.raises(DataError, match="2 copies of ImageNet: a/ILSVRC/Data/CLS-LOC/, b/"):
        open_source(make_zip(tmp_path / "x.zip", tree))
