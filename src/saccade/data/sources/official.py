"""The known data sets: found locally, or downloaded from their official sites."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from saccade import cache
from saccade.data.archives.download import Remote, fetch
from saccade.data.sources import cifar, mnist, raw
from saccade.data.sources.archive import open_archive
from saccade.data.sources.folder import open_folder
from saccade.data.sources.split import Source
from saccade.errors import DataError
from saccade.log import Log

FOLDER_VARIABLE = "SACCADE_DATA"
"""The environment variable that names a folder with datasets."""


@dataclass(frozen=True, slots=True)
class Official:
    """A set with a name: its files, their page, and where people keep them in a folder of datasets.

    Its ``num_train`` training images have ``side_px`` pixels a side. Both are known before any file
    is there.
    """

    files: tuple[Remote, ...]
    page: str
    places: tuple[str, ...]
    num_train: int
    side_px: int


def _cifar(stem: str, folder: str, size_bytes: int, md5: str) -> Official:
    site = "https://www.cs.toronto.edu/~kriz/"
    file = f"{stem}-python.tar.gz"
    places = (f"{stem.replace('-', '')}/{file}", file, folder)
    return Official(
        (Remote(file, size_bytes, md5, (site + file,)),),
        f"{site}cifar.html",
        places,
        num_train=50_000,
        side_px=32,
    )


def _mnist(
    page: str, sites: tuple[str, ...], places: tuple[str, ...], *files: tuple[str, int, str]
) -> Official:
    remotes = tuple(
        Remote(name, size, md5, tuple(site + name for site in sites)) for name, size, md5 in files
    )
    return Official(remotes, page, places, num_train=60_000, side_px=28)


OFFICIAL = {
    "cifar10": _cifar(
        "cifar-10", "cifar-10-batches-py", 170_498_071, "c58f30108f718f92721af3b95e74349a"
    ),
    "cifar100": _cifar(
        "cifar-100", "cifar-100-python", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"
    ),
    "mnist": _mnist(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        ("mnist", "MNIST/raw"),
        ("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion-mnist": _mnist(
        "https://github.com/zalandoresearch/fashion-mnist",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
"""Sizes and MD5 of the official files, and places as torchvision's: *Source:* torchvision 0.26,
``datasets``.
"""


def open_official(name: str) -> Source:
    """Open one of ``OFFICIAL`` from the cache folder or the folder in ``SACCADE_DATA``.

    What is in neither is downloaded. Without a network a DataError says what to get by hand. Raises
    DiskError, too.
    """
    official = OFFICIAL[name]
    store = cache.within("datasets")
    others = [Path(folder).expanduser() for folder in (os.environ.get(FOLDER_VARIABLE),) if folder]
    for folder in others:
        if not folder.is_dir():
            raise DataError(
                f"{FOLDER_VARIABLE} does not name a folder",
                where=str(folder),
                fix="correct the variable, or unset it",
            )
    places = [root / place for root in (store, *others) for place in official.places]
    found = next((place for place in places if _is_there(place)), None)
    if found is None:
        fetch(official.files, cache.within("datasets", name), official.page, Log())
        found = places[0]
    return replace(open_folder(found) if found.is_dir() else open_archive(found), name=name)


def _is_there(place: Path) -> bool:
    if place.is_dir():
        return raw.is_complete(os.listdir(place), (*cifar.FORMS, *mnist.FORMS))
    return place.is_file()
