"""CIFAR-10 and CIFAR-100 from their official files, the Python and the binary version alike.

*Source:* Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; the layout of
the files is described on https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from saccade.data.sources.pickled import plain_values
from saccade.data.sources.raw import Batch, Content, Form, reading

SHAPE = (3, 32, 32)
NUM_VALUES = 3072
_Item = TypeVar("_Item")
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))


def _python(
    files: Sequence[Content], _place: Path, *, labels: bytes, names: bytes
) -> tuple[list[str], list[Batch]]:
    """Read pickled batches; the last two files are the test batch and the class names."""
    with reading(files[-1]) as data:
        classes = [name.decode() for name in _list(plain_values(data), names, bytes)]
    batches = []
    for place, file in enumerate(files[:-1]):
        with reading(file) as data:
            values = plain_values(data)
            pixels = values.get(b"data")
            if not isinstance(pixels, np.ndarray) or pixels.shape[1] != NUM_VALUES:
                raise ValueError(f"'data' is not an array of (n, {NUM_VALUES}) bytes")
            numbers = np.array(_list(values, labels, int), np.int64)
        split = "test" if place == len(files) - 2 else "train"
        batches.append(Batch(split, np.ascontiguousarray(pixels).reshape(-1, *SHAPE), numbers))
    return classes, batches


def _list(values: dict[Any, Any], key: bytes, kind: type[_Item]) -> list[_Item]:
    found = values.get(key)
    if not isinstance(found, list) or not all(type(item) is kind for item in found):
        raise ValueError(f"'{key.decode()}' is not a list of {kind.__name__}")
    return found


def _binary(
    files: Sequence[Content], _place: Path, *, label_bytes: int
) -> tuple[list[str], list[Batch]]:
    """Read records of labels and pixels. The last label byte is the fine class.

    The class names come last, as in ``_python``.
    """
    with reading(files[-1]) as data:
        classes = bytes(data).decode().split()
    batches = []
    for place, file in enumerate(files[:-1]):
        with reading(file) as data:
            record = label_bytes + NUM_VALUES
            if not len(data) or len(data) % record:
                raise ValueError(
                    f"{len(data)} bytes are not a whole number of records of {record} bytes: the "
                    "file is truncated"
                )
            rows = np.frombuffer(data, np.uint8).reshape(-1, record)
        split = "test" if place == len(files) - 2 else "train"
        pixels = rows[:, label_bytes:].reshape(-1, *SHAPE)
        batches.append(Batch(split, pixels, rows[:, label_bytes - 1].astype(np.int64)))
    return classes, batches


def _files(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


FORMS = (
    Form(
        "CIFAR-10 (Python version)",
        _files(*_TRAIN, "test_batch", "batches.meta"),
        partial(_python, labels=b"labels", names=b"label_names"),
    ),
    Form(
        "CIFAR-100 (Python version)",
        _files("train", "test", "meta"),
        partial(_python, labels=b"fine_labels", names=b"fine_label_names"),
    ),
    Form(
        "CIFAR-10 (binary version)",
        _files(*(f"{name}.bin" for name in (*_TRAIN, "test_batch")), "batches.meta.txt"),
        partial(_binary, label_bytes=1),
    ),
    Form(
        "CIFAR-100 (binary version)",
        _files("train.bin", "test.bin", "fine_label_names.txt"),
        partial(_binary, label_bytes=2),
    ),
)
