"""What is no archive of images is called by its name, and the advice fits it."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from containers import jpeg_file, make_folder, make_tar, make_zip
from saccade.data.sources import open_source
from saccade.errors import DataError

FILES = {
    "train-00000-of-00002.parquet": (b"PAR1" + bytes(600), "a Parquet table"),
    "x.tar": (b"PAR1" + bytes(600), "a Parquet table"),
    "data.h5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
    "x.arrow": (b"ARROW1\0\0" + bytes(600), "an Arrow table"),
    "stream.arrow": (b"\xff\xff\xff\xff" + bytes(600), "an Arrow table"),
    "download.zip": (b"<!DOCTYPE html><html><body>Virus scan" * 40, "a web page"),
    "photos.tar": (b"\n  <HTML>\n" + b"x" * 900, "a web page"),
    "s3.tar": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text"),
    "lfs.zip": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a Git LFS pointer",
    ),
    "x.tar.zst": (b"\x28\xb5\x2f\xfd" + bytes(300), "a zstd archive"),
    "x.tar.bz2": (b"BZh91AY" + bytes(300), "a bzip2 archive"),
    "x.tar.Z": (b"\x1f\x9d\x90" + bytes(300), "compress"),
    "x.tar.lzma": (lzma.compress(bytes(5000), lzma.FORMAT_ALONE), "an lzma archive"),
    "x.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(300), "a 7-zip archive"),
    "train.beton": (b"\2\0\3\0" + bytes(range(256)) * 3, "a dataset of FFCV"),
    "a.tfrecord": (bytes(range(256)) * 3, "TensorFlow records"),
    "x.npy": (b"\x93NUMPY\1\0" + bytes(300), "a NumPy array"),
    "x.pkl": (b"\x80\4\x95" + bytes(range(256)), "a Python pickle"),
    "cat.jpg": (jpeg_file(3), "a single JPEG image"),
    "labels.csv": (b"path,label\na.jpg,cat\n", "a text that begins with 'path,label"),
    "x.tar.gz": (gzip.compress(b"<html>" * 200), "a compressed file that contains a web page"),
    "table.parquet.gz": (
        gzip.compress(b"PAR1" + bytes(600)),
        "a compressed file that contains a Parquet table",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_archive_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    data, what = FILES[name]
    (tmp_path / name).write_bytes(data)
    for spec in (tmp_path / name, f"{tmp_path}/{{{name},{name}}}"):  # alone, and by a pattern
        with pytest.raises(DataError) as caught:
            open_source(str(spec))
        assert (
            what in caught.value.what
            and "tar archive" not in caught.value.what
            and caught.value.status == 65
        )
        assert "pack it again with tar" not in caught.value.fix


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (
            ["data/train-0.parquet", "data/val-0.parquet", "README.md"],
            "'data/train-0.parquet' is a Parquet table",
        ),
        (["train.beton"], "a dataset of FFCV"),
        (
            ["Testing.zip", "Training.zip"],
            "such as Training.zip, and one with validation images to --val",
        ),
        (
            ["photos.zip", "notes.txt"],
            "use one of the archives in it to --data, such as photos.zip,",
        ),
        (["a.tar.zst"], "unpack it, and repack it"),
        (
            ["emnist-letters-train-images-idx3-ubyte.gz"],
            "idx files need the names of the four MNIST files",
        ),
        (["notes.txt"], "arrange the images as train/<class>/<image>"),
    ],
)
def test_a_folder_without_images_says_what_its_files_are(
    tmp_path: Path, names: list[str], fix: str
) -> None:
    with pytest.raises(DataError, match="no images in class folders") as caught:
        open_source(make_folder(tmp_path / "x", dict.fromkeys(names, b"PAR1")))
    assert fix in caught.value.fix


def test_archives_inside_an_archive_are_to_be_unpacked(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_source(make_zip(tmp_path / "x.zip", {"data/photos.zip": b"PK"}))
    assert caught.value.fix.startswith(
        "unpack it, and use one of the archives in it to --data, such as data/photos"
    )


def test_a_tar_whose_first_file_is_called_like_a_page_is_a_tar(tmp_path: Path) -> None:
    tree = {"BZh/1.jpg": jpeg_file(1), "PAR1/1.jpg": jpeg_file(2), "<html>/1.jpg": jpeg_file(3)}
    assert open_source(make_tar(tmp_path / "x.parquet", tree)).splits["all"].classes == (
        "<html>",
        "BZh",
        "PAR1",
    )


def test_more_classes_under_the_names_of_mnist_are_another_set(tmp_path: Path) -> None:
    def idx(*shape: int, values: bytes) -> bytes:
        return bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape) + values

    tree = {}
    for stem in ("train", "t10k"):
        tree[f"{stem}-images-idx3-ubyte"] = idx(47, 28, 28, values=bytes(47 * 784))
        tree[f"{stem}-labels-idx1-ubyte"] = idx(47, values=bytes(range(47)))
    with pytest.raises(DataError, match="labels go up to 46") as caught:
        open_source(make_folder(tmp_path / "mnist", tree))
    assert "EMNIST" in caught.value.what and "download" not in caught.value.fix
