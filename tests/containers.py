"""Small trees of real images, written as folders, tars and zips."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from saccade.data.sources import Source

Tree = dict[str, bytes]


def jpeg_file(number: int) -> bytes:
    """Return a JPEG file whose size in pixels and colour follow from a small number."""
    out = io.BytesIO()
    Image.new("RGB", (8 + number, 8), (number * 9 % 256, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def make_folder(path: Path, tree: Tree) -> Path:
    """Write the files below a folder and return it."""
    for name, data in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tar_bytes(tree: Tree) -> bytes:
    """Return a tar of the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_tar(path: Path, tree: Tree) -> Path:
    """Write the files into a tar and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(tree))
    return path


def make_zip(path: Path, tree: Tree) -> Path:
    """Write the files into a zip and return it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return path


def rows(source: Source) -> list[tuple[str, str, str, bytes]]:
    """Return (split, class, name, bytes) of every image in the order of the source."""
    return [
        (name, split.classes[label], file, bytes(split.read(i)))
        for name, split in source.splits.items()
        for i, (label, file) in enumerate(zip(split.labels, split.names, strict=True))
    ]
