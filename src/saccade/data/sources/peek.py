"""Images without the suffix of an image: recognised by their first bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from saccade.data.images.decode import IMAGE_SUFFIXES, BadImage, Data, format_of
from saccade.errors import DataError

HEAD_BYTES = 32

_BESIDE = """
.txt .md .rst .html .htm .xml .json .jsonl .csv .tsv .yaml .yml .toml .ini .cfg .log .tex .bib .url
.lnk .doc .docx .xls .xlsx .ppt .pptx .py .ipynb .sh .m .r .c .cpp .h .js .css .pkl .pickle .pt .pth
.cls .names .cache .lst .lock .md5 .sha256 .db .sqlite .idx
"""
_OTHERS = """
.pdf .mat .npy .npz .h5 .hdf5 .parquet .arrow .tfrecord .beton .mdb .rec .tar .gz .tgz .xz .txz
.bz2 .zst .zip .7z .rar .mp4 .avi .mov .mkv .webm .mp3 .wav .svg .psd
"""
BESIDE_SUFFIXES = frozenset(_BESIDE.split())
"""Endings, in lower case, of files that lie beside images: texts, tables, programs.

None was meant as an image.
"""

OTHER_SUFFIXES = BESIDE_SUFFIXES | frozenset(_OTHERS.split())
"""Endings, in lower case, of files that are never opened to see whether they are images."""


def suffix_of(name: str) -> str:
    """Return the ending of a path in lower case, with its dot; empty if the file has none."""
    file = name.rpartition("/")[2]
    stem, dot, end = file.rpartition(".")
    return f".{end.lower()}" if dot and stem else ""


def read_head(path: str | Path, count: int = HEAD_BYTES) -> bytes:
    """Return the first ``count`` bytes of a file; raises DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def is_hidden_image(head: Data) -> bool:
    """Tell whether a file begins like an image, so that a text that happens to start with ``BM``
    or ``P5`` does not.
    """
    try:
        kind = format_of(head)
    except BadImage:
        return False
    head = bytes(head)
    if kind == "BMP":
        return len(head) > 14 and head[6:10] == bytes(4)
    return kind != "PPM" or (head[2:3].isspace() and head[3:4] in b"#0123456789")


def peek(names: Sequence[str], head: Callable[[int], Data]) -> frozenset[int]:
    """Return the places of the files that are images by their content, and not by their names.

    ``head`` returns the first ``HEAD_BYTES`` of a file; it is asked only about endings that say
    nothing.
    """
    unsaid = ((place, suffix_of(name)) for place, name in enumerate(names))
    return frozenset(
        place
        for place, suffix in unsaid
        if suffix not in IMAGE_SUFFIXES
        and suffix not in OTHER_SUFFIXES
        and is_hidden_image(head(place))
    )


def images_below(folder: Path) -> list[Path]:
    """Return the files below a folder that are images by name or content, sorted, without hidden
    ones.
    """
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
    unsaid = peek([path.name for path in files], lambda place: read_head(files[place]))
    return [
        path
        for place, path in enumerate(files)
        if place in unsaid or suffix_of(path.name) in IMAGE_SUFFIXES
    ]
