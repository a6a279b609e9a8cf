"""Data frames and Hugging Face datasets, where these libraries are installed.

pandas is in the extra ``dev``. ``datasets`` is too large for that; its tests run where it is.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data.images import decode
from saccade.data.sources import Split, train_split
from saccade.data.sources.handed import open_handed
from saccade.errors import DataError, UsageError
from saccade.log import Log

NAMES = ("dog", "cat", "owl")
X = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3), np.uint8)
Y = np.arange(12) % 3
WORDS = [NAMES[label] for label in Y]


def whole(given: Any) -> Split:
    return train_split(open_handed(given, "data", Log(quiet=True)))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write the images as PNG files and return their relative paths."""
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(X):
        Path(WORDS[i]).mkdir(exist_ok=True)
        Image.fromarray(image).save(f"{WORDS[i]}/{i}.png")
    return [f"{word}/{i}.png" for i, word in enumerate(WORDS)]


# ---- pandas


@pytest.mark.parametrize("names", [("path", "label"), ("Filename", "Class"), ("image", "target")])
def test_a_data_frame_is_the_list_of_its_paths(paths: list[str], names: tuple[str, str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({names[0]: paths, "size": 3, names[1]: WORDS}, index=[7] * 12)
    assert whole(frame).fingerprint == whole((paths, WORDS)).fingerprint
    frame[names[1]] = frame[names[1]].astype("category")
    assert whole(frame).fingerprint == whole((paths, WORDS)).fingerprint
    columns = frame[names[0]], frame[names[1]]
    assert whole(columns).fingerprint == whole((paths, WORDS)).fingerprint


def test_a_column_tells_the_splits_of_a_data_frame(paths: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": paths, "label": Y, "split": ["train", "Validation"] * 6})
    source = open_handed(frame, "data", Log(quiet=True))
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 6,
    }
    assert source.splits["train"].describe(0) == "dog/0.png (0)"
    assert source.splits["train"].classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (lambda f: f.drop(columns="path"), "no column has the name of images", "'path'"),
        (lambda f: f.drop(columns="label"), "no column has the name of labels", "'label'"),
        (lambda f: f.assign(image="x"), "several columns can be images: path, image", "drop"),
        (lambda f: f.assign(label=f.label.where(f.index != 3)), "no label for 1 image", "remove"),
        (
            lambda f: f.assign(label=(f.index % 2).where(f.index > 3)),
            "no label for 4 images",
            "remove",
        ),
        (lambda f: f.assign(path=f.path.where(f.index != 3)), "1 missing image", "remove"),
        (lambda f: f.assign(path=f.path + "x"), "missing files", "working directory"),
        (lambda f: f.assign(split="foo"), "'foo' in the column 'split'", "remove the column"),
        (lambda f: f.assign(split=float("nan")), "not the name of a split", "remove the column"),
        (lambda f: f.iloc[:0], "it contains no images", ""),
    ],
)
def test_what_is_wrong_in_a_data_frame_is_named(
    paths: list[str], change: Any, what: str, fix: str
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": paths, "label": WORDS})
    with pytest.raises(DataError) as caught:
        whole(change(frame))
    assert what in caught.value.what and fix in caught.value.fix and caught.value.where


# ---- Hugging Face


def hugging_face() -> Any:
    """Return the library; its own warnings, and those of what it imports, are not ours."""
    return pytest.importorskip("datasets")


def dataset(kind: str = "pixels") -> Any:
    datasets = hugging_face()
    features = datasets.Features(
        {
            "number": datasets.Value("int32"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(NAMES)),
        }
    )
    files = []
    for image in X:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        files.append({"bytes": out.getvalue(), "path": None})
    rows = {"number": list(range(12)), "image": files, "label": Y.tolist()}
    return datasets.Dataset.from_dict(rows, features=features)


def png_files(given: Any) -> list[bytes]:
    return [row["image"]["bytes"] for row in given.cast_column("image", still_encoded())]


def still_encoded() -> Any:
    return hugging_face().Image(decode=False)


def test_a_hugging_face_dataset_is_the_files_in_it_with_the_names_of_its_classes() -> None:
    given = dataset()
    split = whole(given)
    assert split.classes == ("cat", "dog", "owl")
    order = [i for label in (1, 0, 2) for i in np.flatnonzero(label == Y)]
    for i, place in enumerate(order):
        assert np.array_equal(decode.decode(split.read(i)), X[place])
    assert split.fingerprint == whole((png_files(given), WORDS)).fingerprint
    # other columns, formats and a detour over another order change nothing
    for same in (
        given.with_format("torch"),
        given.select(range(12)),
        given.remove_columns("number"),
    ):
        assert whole(same).fingerprint == split.fingerprint
    turned = given.select(range(11, -1, -1))
    assert whole(turned).fingerprint != split.fingerprint
    assert whole(turned.select(range(11, -1, -1))).fingerprint == split.fingerprint


def test_a_dataset_dict_has_its_splits_and_a_test_without_labels_is_left_out() -> None:
    datasets = hugging_face()
    given = dataset()
    hidden = given.select(range(3)).map(lambda row: {"label": -1})
    splits = datasets.DatasetDict({"train": given, "validation": given, "test": hidden})
    source = open_handed(splits, "data", Log(quiet=True))
    assert list(source.splits) == ["train", "validation"]
    assert source.ignored.total() == 3


@pytest.mark.parametrize(
    ("change", "error", "what", "fix"),
    [
        ("streamed", UsageError, "only be read", "without streaming=True"),
        ("transform", DataError, "has a transform", "reset_format()"),
        ("two labels", DataError, "several columns can be labels: label, coarse", "drop"),
        ("no image", DataError, "no column has the name of images", "rename"),
    ],
)
def test_what_is_wrong_in_a_hugging_face_dataset_is_named(
    change: str, error: type, what: str, fix: str
) -> None:
    given = dataset()
    if change == "streamed":
        given = given.to_iterable_dataset()
    elif change == "transform":
        given.set_transform(lambda rows: rows)
    elif change == "two labels":
        coarse = hugging_face().ClassLabel(names=["a", "b"])
        given = given.add_column("coarse", [0] * 12).cast_column("coarse", coarse)
    else:
        given = given.remove_columns("image")
    with pytest.raises(error) as caught:
        whole(given)
    assert what in caught.value.what and fix in caught.value.fix


def test_a_hugging_face_dataset_may_hold_arrays() -> None:
    datasets = hugging_face()
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 7, 3), np.uint8)
    features = datasets.Features(
        {"image": datasets.Array3D((5, 7, 3), "uint8"), "label": datasets.Value("string")}
    )
    given = datasets.Dataset.from_dict({"image": list(pixels), "label": WORDS[:6]}, features)
    assert whole(given).fingerprint == whole((pixels, WORDS[:6])).fingerprint
