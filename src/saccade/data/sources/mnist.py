"""MNIST, Fashion-MNIST and what else is published as the same four idx files.

*Source:* LeCun et al. 1998, "The MNIST database of handwritten digits", which describes the idx
format; Xiao et al. 2017, "Fashion-MNIST".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saccade.data.sources.raw import FILE_LIMIT_BYTES, Batch, Content, Data, Form, WrongSet, reading

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt-top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The official names in the order of the labels; ``T-shirt/top`` would be two folders."""

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 4


def _decode(files: Sequence[Content], place: Path) -> tuple[Sequence[str], list[Batch]]:
    """Read images and labels of both splits; a folder that says 'fashion' holds Fashion-MNIST."""
    batches = []
    for split, images, labels in (("train", files[0], files[1]), ("test", files[2], files[3])):
        with reading(images) as data:
            pixels = _idx(data, 3)
        with reading(labels) as data:
            numbers = _idx(data, 1).astype(np.int64)
        _refuse_more_classes(numbers)
        batches.append(Batch(split, pixels[:, None], numbers))
    folder = place.parent.name if place.name == "raw" else place.name  # as torchvision keeps them
    return FASHION if "fashion" in folder.lower() else DIGITS, batches


def _refuse_more_classes(numbers: NDArray[np.int64]) -> None:
    """Raise WrongSet if many labels are not those of ten classes; a few are damage."""
    if 4 * np.count_nonzero(numbers >= len(DIGITS)) > len(numbers):
        raise WrongSet(
            f"the labels go up to {numbers.max()}, but MNIST has {len(DIGITS)} classes; EMNIST "
            "and similar sets have more classes in the same format",
            "write the images out as train/<class>/<image> and test/<class>/<image> (EMNIST's "
            "are rotated by 90 degrees), and use that folder",
        )


def _idx(data: Data, num_axes: int) -> NDArray[np.uint8]:
    """Return the unsigned bytes of an idx file, plain or in gzip, with the shape that its header
    declares.
    """
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16) if data[:2] == _GZIP else None
    length = _HEADER_BYTES * (1 + num_axes)
    try:
        head = inflater.decompress(data, length) if inflater else data[:length]
        shape = _shape(bytes(head), num_axes)
        size = math.prod(shape)
        if inflater:
            body: Data = inflater.decompress(inflater.unconsumed_tail, size + 1)
            if not inflater.eof or inflater.unused_data:
                raise ValueError(
                    "the compressed data is truncated, or there is more than the header declares"
                )
        else:
            body = data[length:]
    except zlib.error as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if len(body) != size:
        raise ValueError(f"the header declares {size} bytes, but there are {len(body)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _shape(head: bytes, num_axes: int) -> tuple[int, ...]:
    if head[:4] != bytes((0, 0, 8, num_axes)) or len(head) < _HEADER_BYTES * (1 + num_axes):
        raise ValueError(
            f"it does not begin like an idx file of unsigned bytes with {num_axes} axes: "
            f"{head[:4]!r}"
        )
    shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4))
    if not 0 < math.prod(shape) <= FILE_LIMIT_BYTES:
        raise ValueError(f"the header declares {' x '.join(map(str, shape))} bytes")
    return shape


def _spellings(stem: str, axes: int) -> tuple[str, ...]:
    return tuple(f"{stem}{dot}idx{axes}-ubyte{suffix}" for suffix in ("", ".gz") for dot in "-.")


FORMS = (
    Form(
        "MNIST",
        tuple(
            _spellings(f"{split}-{what}", axes)
            for split in ("train", "t10k")
            for what, axes in (("images", 3), ("labels", 1))
        ),
        _decode,
    ),
)
