"""Images and labels in objects of Python: recognised, identified by their contents, refused with
a sentence.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from saccade.data.images import decode
from saccade.data.sources import Source, Split, handed, hold_out, train_split, validation_split
from saccade.data.sources.handed import open_handed
from saccade.errors import DataError, SaccadeError, UsageError
from saccade.log import Log

NAMES = ("dog", "cat", "owl")
QUIET = Log(quiet=True)


def pixels(num: int = 12) -> NDArray[np.uint8]:
    """Return images, uint8 (num, 5, 7, 3), no two alike."""
    return np.random.default_rng(0).integers(0, 256, (num, 5, 7, 3), np.uint8)


X = pixels()
Y = np.arange(len(X)) % 3
WORDS = [NAMES[label] for label in Y]


def png(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def opened(given: Any) -> Source:
    return open_handed(given, "data", QUIET)


def whole(given: Any) -> Split:
    return train_split(opened(given))


class Pairs:
    """A map-style dataset: what torch asks of one, and nothing more."""

    def __init__(self, images: Any, labels: Any, classes: Any = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.images[i], self.labels[i]


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image) for image in X]


SAME_PIXELS: dict[str, Any] = {
    "arrays": lambda: (X, Y),
    "tensors as torch lays them": lambda: (
        torch.from_numpy(X).permute(0, 3, 1, 2),
        torch.from_numpy(Y),
    ),
    "list of arrays": lambda: (list(X), Y.tolist()),
    "array that is not contiguous": lambda: (np.asfortranarray(X), Y),
    "Pillow image": lambda: (pictures(), list(Y)),
    "map-style dataset": lambda: Pairs(pictures(), Y),
    "dataset of tensors": lambda: TensorDataset(
        torch.from_numpy(X).permute(0, 3, 1, 2), torch.from_numpy(Y)
    ),
    "part of a dataset": lambda: Subset(
        Pairs([X[0], *X], [9, *Y.tolist()]),  # type: ignore[arg-type]
        range(1, 13),
    ),
    "dicts as items": lambda: Dicts(X, Y),
}


class Dicts(Pairs):
    """A dataset whose items have names, as Hugging Face's have."""

    def __getitem__(self, i: int) -> Any:
        return {"image": self.images[i], "label": self.labels[i]}


@pytest.mark.parametrize("form", SAME_PIXELS)
def test_the_same_pixels_are_the_same_set_in_every_kind_of_object(form: str) -> None:
    split, reference = whole(SAME_PIXELS[form]()), whole((X, Y))
    assert split.fingerprint == reference.fingerprint
    assert split.classes == ("0", "1", "2")
    order = np.argsort(Y, kind="stable")
    assert split.labels.tolist() == Y[order].tolist()
    for i, place in enumerate(order):
        assert np.array_equal(decode.decode(split.read(i)), X[place])
        assert split.sizes[i] == len(split.read(i))


def test_the_same_files_are_the_same_set_as_paths_and_as_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, image in enumerate(X):
        (tmp_path / NAMES[Y[i]]).mkdir(exist_ok=True)
        (tmp_path / NAMES[Y[i]] / f"{i}.png").write_bytes(png(image))
    names = [f"{word}/{i}.png" for i, word in enumerate(WORDS)]
    monkeypatch.chdir(tmp_path)
    relative = whole((names, WORDS))
    monkeypatch.chdir("/")  # a relative path was that of the time when it was handed over
    assert np.array_equal(decode.decode(relative.read(0)), X[1])

    absolute = whole(([tmp_path / name for name in names], WORDS))
    contents = whole(([png(image) for image in X], np.array(WORDS)))
    numbered = whole(Pairs([png(image) for image in X], Y, NAMES))
    found = {split.fingerprint for split in (relative, absolute, contents, numbered)}
    assert len(found) == 1
    assert relative.classes == ("cat", "dog", "owl")
    assert relative.describe(0) == "cat/1.png (cat)"


def test_torchvisions_folder_is_read_by_its_files_unless_a_transform_is_set(tmp_path: Path) -> None:
    for i, image in enumerate(X):
        (tmp_path / NAMES[Y[i]]).mkdir(exist_ok=True)
        (tmp_path / NAMES[Y[i]] / f"{i:02}.png").write_bytes(png(image))
    folder = torchvision.datasets.ImageFolder(str(tmp_path))
    split = whole(folder)
    assert split.classes == ("cat", "dog", "owl")
    order = [i for label in (1, 0, 2) for i in np.flatnonzero(label == Y)]
    assert [bytes(split.read(i)) for i in range(12)] == [png(X[i]) for i in order]
    part = whole(Subset(folder, [3, 0, 1]))
    assert sorted(bytes(part.read(i)) for i in range(3)) == sorted(
        png(X[order[i]]) for i in (0, 1, 3)
    )

    mirrored = torchvision.datasets.ImageFolder(
        str(tmp_path), transform=torchvision.transforms.RandomHorizontalFlip(1.0)
    )
    seen = whole(mirrored)
    assert np.array_equal(decode.decode(seen.read(0)), X[order[0]][:, ::-1])


def test_a_cifar10_of_torchvision_has_its_class_names(tmp_path: Path) -> None:
    cifar = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    cifar.data, cifar.targets = np.zeros((10, 32, 32, 3), np.uint8), list(range(10))
    cifar.data += np.arange(10, dtype=np.uint8)[:, None, None, None]
    cifar.transform = cifar.target_transform = cifar.transforms = None
    cifar.classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"]
    cifar.classes += ["ship", "truck"]
    split = whole(cifar)
    assert split.classes == tuple(cifar.classes) and len(split) == 10
    assert int(decode.decode(split.read(3))[0, 0, 0]) == 3


@pytest.mark.parametrize("place", [0, 5, 11])
def test_another_pixel_label_or_order_is_another_set_and_so_is_every_part_of_it(place: int) -> None:
    other = X.copy()
    other[place, 4, 6, 2] ^= 1
    labels = Y.copy()
    labels[place] = (labels[place] + 1) % 3
    turned = np.roll(np.arange(len(X)), 1)
    sets = [(X, Y), (other, Y), (X, labels), (X[turned], Y[turned])]
    wholes = [whole(one) for one in sets]
    assert len({split.fingerprint for split in wholes}) == len(sets)

    parts = [hold_out(split, 0.5, seed=1) for split in wholes[:2]]
    same = [a.fingerprint == b.fingerprint for a, b in zip(*parts, strict=True)]
    assert sorted(same) == [False, True]  # the pixel lies in one of the two parts


def test_the_identity_is_the_same_in_another_process() -> None:
    code = (
        "import numpy as np\nfrom saccade.data.sources.handed import open_handed\n"
        "from saccade.log import Log\n"
        "x = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3), np.uint8)\n"
        "y = [('dog', 'cat', 'owl')[i % 3] for i in range(12)]\n"
        "print(open_handed((x, y), 'data', Log(quiet=True)).splits['all'].fingerprint)"
    )
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    assert told == whole((X, WORDS)).fingerprint


@pytest.mark.parametrize("kind", ["array", "files"])
def test_of_a_large_set_a_sample_is_hashed_with_all_labels_and_sizes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handed, "HASHED_BYTES", 100)
    monkeypatch.setattr(handed, "HASHED_IMAGES", 4)

    def given(images: NDArray[np.uint8]) -> Any:
        if kind == "array":
            return images, Y
        for i, image in enumerate(images):
            header = b"P6\n7 5\n255\n"
            (tmp_path / f"{i}.ppm").write_bytes(header + image.tobytes())
        return [tmp_path / f"{i}.ppm" for i in range(len(images))], Y

    seen = []
    before = whole(given(X)).fingerprint
    for i in range(len(X)):
        other = X.copy()
        other[i, 0, 0, 0] ^= 1
        seen.append(whole(given(other)).fingerprint != before)
    assert sum(seen) == 4
    assert open_handed(given(X), "data", Log()).splits["all"].stamp == ""
    assert "identified by the bytes of 4 of them, all labels and sizes" in capsys.readouterr().err


def test_splits_come_from_a_dict_and_validation_images_are_called_by_name() -> None:
    source = opened({"train": (X, Y), "validation": (X[:4], Y[:4])})
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 12,
        "validation": 4,
    }
    judged = validation_split(source)
    assert judged is not None and judged.name == "validation"
    for data, words in (
        ({"train": (X, Y), "extra": (X, Y)}, "'extra' is not the name of a split"),
        ({"train": {"val": (X, Y), "test": (X, Y)}}, "contains splits itself"),
        ({}, "no image has a label"),
    ):
        with pytest.raises(SaccadeError, match=words):
            opened(data)


def test_a_test_split_without_labels_is_left_out_and_counted() -> None:
    source = opened({"train": (X, Y), "test": (X, [-1] * 12)})
    assert list(source.splits) == ["train"]
    assert source.ignored_text() == (
        "12 file(s) are skipped (12 x image of the split 'test', which has no labels)"
    )


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([0, 10, 5] * 4, ("00", "05", "10")),
        ([np.int64(3), torch.tensor(4)] * 6, ("3", "4")),
        ([True, False] * 6, ("False", "True")),
        (["a", "é"] * 6, ("a", "é")),
    ],
)
def test_labels_become_class_names(labels: list[Any], classes: tuple[str, ...]) -> None:
    assert whole((X, labels)).classes == classes


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_images_of_pillow_are_seen_as_prediction_sees_them(mode: str) -> None:
    image = Image.fromarray(X[0])
    if mode == "I;16":
        image = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000)
    elif mode == "PA":
        image = image.convert("P").convert("PA")
    elif mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(X[1][..., 0]))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    split = whole(([image, image], [0, 1]))
    got, wanted = decode.decode(split.read(0)), decode.from_pillow(image)
    assert int(np.abs(got.astype(int) - wanted.astype(int)).max()) <= (mode == "YCbCr")


def test_gray_arrays_and_arrays_with_alpha_are_images_too() -> None:
    gray = X[..., 0]
    forms = [gray, gray[..., None], gray[:, None], list(gray)]
    assert len({whole((form, Y)).fingerprint for form in forms}) == 1
    assert np.array_equal(decode.decode(whole((gray, Y)).read(0)), np.stack([gray[0]] * 3, -1))
    alpha = np.concatenate([X, X[..., :1]], -1)
    expected = decode.from_pillow(Image.fromarray(alpha[0]))
    assert np.array_equal(decode.decode(whole((alpha, Y)).read(0)), expected)


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


class Measured(Streamed):
    def __len__(self) -> int:
        return 12


class Relabelled(Pairs):
    """A dataset whose last label is another one each time."""

    fetched = 0

    def __getitem__(self, i: int) -> Any:
        self.fetched += i == 11
        return self.images[i], self.labels[i] + (self.fetched if i == 11 else 0)


class Broken(Pairs):
    def __getitem__(self, i: int) -> Any:
        if i == 7:
            raise KeyError("gone")
        return super().__getitem__(i)


class Turning(Pairs):
    """A random transform in disguise."""

    count = 0

    def __getitem__(self, i: int) -> Any:
        self.count += 1
        return np.roll(self.images[i], self.count, 1), self.labels[i]


def floats() -> NDArray[np.float64]:
    return X / 255


REFUSED: list[tuple[Any, str, str]] = [
    (lambda: (floats(), Y), "pixels are float64", r"\(x \* 255\).round().astype\('uint8'\)"),
    (lambda: (torch.from_numpy(floats()), Y), "pixels are float64", r"to(torch.uint8)"),
    (lambda: (X.astype(np.uint16), Y), "uint16", "x >> 8"),
    (lambda: (X > 3, Y), "pixels are bool", r"x.astype\('uint8'\) \* 255"),
    (lambda: (X, Y[:-1]), "12 images, but 11 labels", "one label per image"),
    (lambda: (X[:0], Y[:0]), "it contains no images", ""),
    (lambda: (X, [*WORDS[:-1], None]), "no label for 1 image", "remove these images"),
    (lambda: (X, [*Y[:-1], float("nan")]), "no label for 1 image", "remove these images"),
    (lambda: (X, Y.astype(float)), "has the label 0.0", r"astype\(int\)"),
    (lambda: (X, np.eye(3)[Y]), "several numbers", r"labels.argmax\(1\)"),
    (lambda: (X, [*WORDS[:-1], 3]), "text as well as numbers", "use only text"),
    (lambda: (X, Y - 1), "has the label -1", "numbered from 0"),
    (lambda: (X, [*WORDS[:-1], ""]), "not a class name", ""),
    (lambda: (X, [*WORDS[:-1], "Dog"]), "differ only in spelling", "one way"),
    (lambda: (X, ["dog", "nan"] * 6), "programs write for a missing value", ""),
    (lambda: (X[..., :2], Y), "neither 1, 3 nor 4 channels", "1, 3 or 4"),
    (lambda: (X[:, :3, :, :], Y), "first or last", "larger than three pixels"),
    (lambda: ([*pictures()[:-1], None], Y), "1 missing image", "remove"),
    (lambda: ([*pictures()[:-1], 5], Y), "type int is not an image", "Pillow image"),
    (lambda: (["a.png"] * 12, Y), "missing file", "working directory"),
    (lambda: ([Image.new("F", (4, 4))] * 12, Y), "mode F", "would cut values off"),
    (lambda: ([Image.new("I", (4, 4))] * 12, Y), "mode I", r"x // 256"),
    (lambda: ((X, Y), (X, Y)), "the labels are images", r"{'train': ..., 'val': ...}"),
    (lambda: (Pairs(X, Y), Pairs(X, Y)), "the labels are images", r"{'train': ..., 'val': ...}"),
    (
        lambda: (X, dict(enumerate(Y))),
        "the labels have the type dict",
        "an array, a list or one column",
    ),
    (lambda: {"images": X, "labels": Y}, "'images' is not the name of a split", "d['label']"),
    (lambda: Pairs, "Pairs is a class", r"pass an instance: data=Pairs\(...\)"),
    (lambda: Measured(), "can only be read", "numbered items"),
    (lambda: Subset(Pairs(X, Y), [3, 12]), "the index 12, but there are 12", "of this data set"),
    (lambda: Relabelled(X, Y), "another label each time", "without"),
    (lambda: Pairs(floats(), Y), "pixels are float64", "ToTensor, Normalize"),
    (lambda: Pairs(X, Y, ["only one"]), "has the label 1", "there are 1 class names"),
    (lambda: Broken(X, Y), "KeyError: 'gone'", "remove it"),
    (lambda: Turning(X, Y), "another image each time", "without"),
    (lambda: Pairs(X, [(1, 2)] * 12), "several numbers", ""),
    (lambda: DataLoader(TensorDataset(torch.zeros(2))), "returns batches", "data=loader.dataset"),
    (lambda: Streamed(), "can only be read", "numbered items"),
    (lambda: (image for image in X), "can only be read", "numbered items"),
    (lambda: list(zip(X, Y, strict=True)), "type list is", r"data=tuple\(zip\(*pairs\)\)"),
    (lambda: {"train": "photos"}, "'train' is a str", "with data= and val="),
    (lambda: X, "type ndarray is not supported", "labels are missing"),
    (lambda: [X, Y], "type list is not supported", r"\(images, labels\)"),
    (lambda: (X, Y, X, Y), "type tuple", r"\{'train': ..., 'val': ...\}"),
    (lambda: (5, Y), "the images have the type int", r"data=\(images, labels\)"),
    (lambda: 5, "type int is not supported", "saccade.open_source"),
]


@pytest.mark.parametrize(("given", "what", "fix"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_cannot_be_trained_on_is_refused_with_a_sentence(
    given: Any, what: str, fix: str
) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        whole(given())
    assert what in caught.value.what and caught.value.where
    assert fix.replace("\\", "") in caught.value.fix


def test_the_item_that_is_wrong_is_named() -> None:
    for given in (Broken(X, Y), ([*X[:7], X[7] / 2, *X[8:]], Y), (X, [*WORDS[:7], "", *WORDS[8:]])):
        with pytest.raises(DataError, match="data, item 7"):
            whole(given)


def test_the_advice_about_pairs_works() -> None:
    pairs = list(zip(X, Y, strict=True))
    assert whole(tuple(zip(*pairs, strict=True))).fingerprint == whole((X, Y)).fingerprint


def test_the_advice_about_floats_works() -> None:
    again = (floats() * 255).round().astype("uint8")
    assert whole((again, Y)).fingerprint == whole((X, Y)).fingerprint
    tensor = (torch.from_numpy(floats()).permute(0, 3, 1, 2) * 255).round().to(torch.uint8)
    assert whole((tensor, Y)).fingerprint == whole((X, Y)).fingerprint


class Alone(Pairs):
    """A dataset that one thread at a time may use, as with one open file."""

    inside, crowded = 0, False

    def __getitem__(self, i: int) -> Any:
        self.inside += 1
        time.sleep(0.001)
        self.crowded |= self.inside > 1
        self.inside -= 1
        return super().__getitem__(i)


def test_objects_of_others_are_asked_by_one_thread_at_a_time() -> None:
    dataset = Alone(X, Y)
    split = whole(dataset)

    def read() -> None:
        for i in range(len(split)):
            split.read(i)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not dataset.crowded


class Mirrored(Pairs):
    """A dataset that mirrors every second image that is fetched a second time, as by chance."""

    def __init__(self, images: Any, labels: Any) -> None:
        super().__init__(images, labels)
        self.seen = [0] * len(images)

    def __getitem__(self, i: int) -> Any:
        self.seen[i] += 1
        image, label = super().__getitem__(i)
        return (image[:, ::-1] if i % 2 and self.seen[i] % 2 else image), label


def test_a_transform_that_spares_many_images_is_noticed() -> None:
    images = np.random.default_rng(5).integers(0, 256, (13, 5, 7, 3), np.uint8)
    with pytest.raises(DataError, match="another image each time"):
        whole(Mirrored(images, [0, 1] * 6 + [0]))


def test_class_names_are_used_only_where_the_numbers_mean_them() -> None:
    named = Pairs(X, Y, ["cat", "dog", "owl"])
    assert whole(ConcatDataset([named, named])).classes == ("cat", "dog", "owl")
    assert whole(ConcatDataset([Subset(named, range(9)), named])).classes == ("cat", "dog", "owl")

    with pytest.raises(DataError, match="have different classes: cat, dog, owl and owl, cat"):
        whole(ConcatDataset([named, Pairs(X, Y, ["owl", "cat", "dog"])]))

    named.target_transform = int  # whatever it does, its results are not the places of the names
    assert whole(named).classes == ("0", "1", "2")
    wrapper = Pairs(X, Y // 2)
    wrapper.dataset = Pairs(X, Y, ["cat", "dog", "owl"])
    assert whole(wrapper).classes == ("0", "1")


def test_paths_and_other_forms_may_be_mixed_in_any_order(tmp_path: Path) -> None:
    paths = []
    for i, picture in enumerate(pictures()):
        paths.append(tmp_path / f"{i}.png")
        picture.save(paths[-1])
    mixed = [path.read_bytes() if i == 7 else path for i, path in enumerate(paths)]
    assert whole((mixed, Y)).fingerprint == whole((paths, Y)).fingerprint
    assert (
        whole((mixed[7:] + mixed[:7], Y)).fingerprint
        == whole((paths[7:] + paths[:7], Y)).fingerprint
    )
