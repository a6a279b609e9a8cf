"""Which folders are splits: the usual spellings, doubled folders, what is asked about, and what
the user says.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from console import run_here
from containers import jpeg_file, make_folder, make_tar, make_zip, rows, tar_bytes
from saccade.data.sources import open_source
from saccade.data.sources.layout import arrange
from saccade.data.sources.split_names import meaning, shared
from saccade.errors import ConfigError, DataError

PETS = {f"{kind}/{i}.jpg": jpeg_file(i) for i, kind in enumerate(("cat", "cat", "dog", "dog"))}


def tree(**places: str) -> dict[str, bytes]:
    """Return the pets once below each place, by split."""
    return {
        f"{place}/{name}": data + split.encode()
        for split, place in places.items()
        for name, data in PETS.items()
    }


PLAIN = tree(train="train", test="test")
SPELLINGS = [
    ("Training", "Testing"),
    ("TRAIN", "TEST"),
    ("training_set", "test_set"),
    ("training-set", "test-set"),
    ("train_images", "test_images"),
    ("trainImages", "testImages"),
    ("train_data", "test_data"),
    ("trainset", "testset"),
    ("images_train", "images_test"),
    ("Train Images", "Test Images"),
    ("train2017", "test2017"),
    ("01_train", "02_test"),
    ("seg_train", "seg_test"),
    ("asl_alphabet_train", "asl_alphabet_test"),
    ("PetsTrain", "PetsTest"),
    ("training_set/training_set", "test_set/test_set"),
    ("seg_train/seg_train", "seg_test/seg_test"),
    ("train/train", "test/test"),
    ("train/images", "test/images"),
    ("archive/data/train", "archive/data/test"),
    ("pets/images/train", "pets/images/test"),
    ("a/b/c_train/c_train", "a/b/c_test/c_test"),
]


@pytest.mark.parametrize(("train", "test"), SPELLINGS)
def test_split_folders_of_any_usual_spelling_are_the_splits(
    tmp_path: Path, train: str, test: str
) -> None:
    source = open_source(make_folder(tmp_path / "pets", tree(train=train, test=test)))
    assert {name.lower(): len(split) for name, split in source.splits.items()} == {
        "train": 4,
        "test": 4,
    }
    plain = open_source(make_folder(tmp_path / "plain", PLAIN))
    assert [split.fingerprint for split in source.splits.values()] == [
        s.fingerprint for s in plain.splits.values()
    ]
    assert (
        source.splits[min(source.splits)].describe(0).startswith(f"{test.split('/')[-1]}/cat/0.jpg")
        or "/" in test
    )
    assert not source.ignored and not source.notes


@pytest.mark.parametrize(
    "name", ["val_images", "Validation Set", "valid_data", "dev", "eval", "valset"]
)
@pytest.mark.spec(6)
def test_validation_folders_of_any_usual_spelling_validate(name: str) -> None:
    assert list(arrange([f"Training/{p}" for p in PETS] + [f"{name}/{p}" for p in PETS]).parts) == [
        "train",
        "val",
    ]


def test_a_folder_a_tar_a_zip_and_tars_in_a_tar_are_read_alike(tmp_path: Path) -> None:
    files = tree(train="seg_train/seg_train", test="seg_test/seg_test") | {
        "seg_pred/seg_pred/1.jpg": jpeg_file(9)
    }
    inner = {
        f"{name}.tar": tar_bytes(
            {k.removeprefix(f"{name}/"): v for k, v in files.items() if k.startswith(name)}
        )
        for name in ("seg_train", "seg_test", "seg_pred")
    }
    wanted = rows(open_source(make_folder(tmp_path / "plain", PLAIN)))
    for path in (
        make_folder(tmp_path / "f", files),
        make_tar(tmp_path / "t.tar", files),
        make_zip(tmp_path / "z.zip", files),
        make_tar(tmp_path / "n.tar", inner),
    ):
        source = open_source(path)
        assert rows(source) == wanted, path
        assert source.ignored == {"image beside the split folders": 1}


@pytest.mark.parametrize(
    "test", ["test", "test/test", "test/images", "Testing", "test1", "test_set/test_set"]
)
def test_a_test_folder_without_labels_is_neither_a_class_nor_a_split(test: str) -> None:
    layout = arrange([f"train/{name}" for name in PETS] + [f"{test}/{i}.jpg" for i in range(3)])
    assert {name: part.classes for name, part in layout.parts.items()} == {"train": ("cat", "dog")}
    assert layout.ignored == {"image outside a class folder": 3}
    (note,) = layout.notes
    assert f"'{test.split('/')[0]}'" in note and "3 image(s)" in note


def test_a_test_folder_one_level_above_the_splits_is_left_out() -> None:
    paths = [f"New Plants/New Plants/{split}/{p}" for split in ("train", "valid") for p in PETS]
    layout = arrange([*paths, "test/test/1.jpg", "test/test/2.jpg"])
    assert list(layout.parts) == ["train", "valid"] and layout.ignored.total() == 2


ASKED = {
    "a vehicle called train": ["bus/1.jpg", "car/1.jpg", "train/1.jpg"],
    "vehicles with folders inside": [
        f"{kind}/a/{i}.jpg" for kind in ("bus", "car", "train") for i in range(3)
    ],
    "folders that all hold the same classes": [
        f"{part}/{kind}/1.jpg" for part in "AB" for kind in ("cat", "dog")
    ],
    "nearly the same classes": [
        "A/cat/1.jpg",
        "A/cow/1.jpg",
        "A/dog/1.jpg",
        "B/cat/1.jpg",
        "B/dog/1.jpg",
    ],
    "classes in the names of splits": [
        f"{kind}_{part}/1.jpg" for kind in ("cat", "dog") for part in ("train", "test")
    ],
    "two folders for one split": ["train1/cat/1.jpg", "train2/cat/1.jpg", "test/cat/1.jpg"],
    "a split beside something else": [
        "pets_train/cat/1.jpg",
        "pets_train/dog/1.jpg",
        "other/cow/1.jpg",
    ],
    "splits without classes": ["train/images/1.jpg", "valid/images/2.jpg", "test/images/3.jpg"],
    "flat splits": ["cats_train/1.jpg", "cats_test/1.jpg"],
    "one flat split": ["train/1.jpg"],
    "splits inside the classes": [
        "cat/train/1.jpg",
        "cat/val/1.jpg",
        "dog/train/1.jpg",
        "dog/val/1.jpg",
    ],
    "splits under other names inside them": [
        "cat/Training/1.jpg",
        "cat/Testing/1.jpg",
        "dog/Training/1.jpg",
    ],
}


@pytest.mark.parametrize("case", ASKED)
def test_what_may_be_classes_or_splits_is_asked_about(tmp_path: Path, case: str) -> None:
    path = make_tar(tmp_path / "x.tar", dict.fromkeys(ASKED[case], b"x"))
    with pytest.raises(DataError, match="--split-names") as caught:
        open_source(path)
    assert caught.value.finding == "splits-unclear" and caught.value.status == 65
    source = open_source(path, split_names="none")
    assert list(source.splits) == ["all"] and len(source.splits["all"]) == len(ASKED[case])


def test_splits_inside_of_classes_are_not_told_to_be_named(tmp_path: Path) -> None:
    paths = [
        f"{kind}/{split}/1.jpg" for kind in ("ant", "bee") for split in ("Training", "Testing")
    ]
    with pytest.raises(
        DataError, match="'Training' are inside the class folders 'ant', 'bee'"
    ) as caught:
        open_source(make_tar(tmp_path / "x.tar", dict.fromkeys(paths, b"x")))
    assert caught.value.fix.startswith("arrange the images as train/<class>/<image>")


@pytest.mark.parametrize(
    "paths",
    [
        ["bullet_train/1.jpg", "bus/1.jpg"],
        ["test_tube/1.jpg", "flask/1.jpg"],
        ["train station/1.jpg", "valley/1.jpg", "testosterone/1.jpg"],
        ["cat/images/1.jpg", "dog/images/1.jpg"],
        ["ann/1/a.jpg", "ann/2/a.jpg", "bob/1/a.jpg", "bob/7/a.jpg", "bob/8/a.jpg"],
        ["raw-img/cane/1.jpg", "raw-img/gatto/1.jpg"],
        ["archive/PetImages/Cat/1.jpg", "archive/PetImages/Dog/1.jpg"],
    ],
)
def test_ordinary_classes_are_not_asked_about(paths: list[str]) -> None:
    layout = arrange(paths)
    assert list(layout.parts) == ["all"] and len(layout.parts["all"].classes) == 2 + (
        len(set(paths)) == 3
    )


def test_a_class_called_train_inside_the_splits_is_a_class() -> None:
    layout = arrange(
        [f"{split}/{kind}/1.jpg" for split in ("train", "val") for kind in ("bus", "car", "train")]
    )
    assert [part.classes for part in layout.parts.values()] == [("bus", "car", "train")] * 2


def test_split_names_settle_what_is_unclear(tmp_path: Path) -> None:
    files = tree(a="first half", b="x/second") | {"third/cow/1.jpg": b"x", "readme.txt": b""}
    wrapped = {f"top/{name}": data for name, data in files.items()}
    said = "val=x/second, train=first half"
    for path in (
        make_folder(tmp_path / "f", files),
        make_tar(tmp_path / "t.tar", files),
        make_zip(tmp_path / "z.zip", wrapped),
    ):
        for _ in range(2):  # the second time from the index that is kept
            source = open_source(path, split_names=said)
            assert {name: split.classes for name, split in source.splits.items()} == dict.fromkeys(
                ("train", "val"), ("cat", "dog")
            )
            assert source.ignored["image beside the split folders"] == 1
    doubled = make_folder(tmp_path / "d", tree(a="A/A", b="B/B"))
    assert open_source(doubled, split_names="train=A,test=B").splits["test"].classes == (
        "cat",
        "dog",
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("train=a,val=nowhere", "val=nowhere, but there are no images"),
        ("train=a,val=a", "same images"),
        ("train=a,val=a/cat", "same images"),
        ("train=a/cat", "their classes are unknown"),
        ("train", "does not name the folder"),
        ("learn=a", "does not name the folder"),
        ("train=a,train=b", "repeats one"),
        ("train=../a", "'..'"),
    ],
)
def test_split_names_that_cannot_be_used_say_why(tmp_path: Path, said: str, reason: str) -> None:
    folder = make_folder(tmp_path / "x", tree(a="a", b="b"))
    with pytest.raises((DataError, ConfigError), match=reason):
        open_source(folder, split_names=said)
    for spec, labels in (("digits", ""), (str(folder), "x.csv")):
        with pytest.raises(DataError, match="remove --split-names"):
            open_source(spec, labels, "none")


def test_with_validation_data_apart_each_side_gets_its_own_names() -> None:
    assert shared("train=a,val=b", apart=True) == ("train=a", "val=b")
    assert shared("train=a,val=b", apart=False) == ("train=a,val=b",) * 2
    assert shared("none", apart=True) == ("none", "none") and shared("", apart=True) == ("", "")


def test_the_meaning_of_a_name_is_its_split_and_the_rest() -> None:
    assert (
        meaning("asl_alphabet_train")
        == ("train", "asl alphabet")
        == meaning("ASL-Alphabet Training set")
    )
    assert (
        meaning("bus") == ("", "bus")
        and meaning("2017") == ("", "")
        and meaning("train_val") == ("", "")
    )


def test_the_flag_reaches_every_verb_that_opens_data(tmp_path: Path) -> None:
    folder, said = make_folder(tmp_path / "x", tree(a="Alpha", b="Beta")), "train=Alpha,val=Beta"
    verbs = {
        "train": ["--data", str(folder), "--dry-run"],
        "verify": [str(folder)],
        "prepare": [str(folder), str(tmp_path / "tree")],
        "pack": [str(folder), str(tmp_path / "pack")],
        "show-augment": [
            "--data",
            str(folder),
            "--out",
            str(tmp_path / "x.png"),
            "--images",
            "1",
            "--views",
            "1",
        ],
    }
    for verb, arguments in verbs.items():
        refused = run_here(verb, *arguments)
        assert refused.status == 65 and "--split-names" in refused.stderr, (verb, refused)
        assert run_here(verb, *arguments, "--split-names", said).status == 0, verb
    assert list(open_source(tmp_path / "pack").splits) == ["train", "val"]
