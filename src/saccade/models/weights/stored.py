"""Files of tensors from unknown authors: claims are checked before anything is allocated."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from saccade.errors import CheckpointError

LARGEST_TENSORS = 200_000
"""Largest number of tensors in one file; the largest networks in use have a few thousand."""

LIST_OF_PARTS = ".index.json"
"""Name of the index that Hugging Face's libraries write for weights in several files."""

_FLOATING = ("F", "BF")
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a ``.safetensors`` file: (type, shape) by name, any shape ``(...)``, and its
    metadata.

    The length of the file was compared with that of the tensors, so its size bounds the memory for
    reading it.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    remarks: dict[str, str]

    def is_floating(self, name: str) -> bool:
        """Tell whether a tensor holds floating-point numbers."""
        return self.tensors[name][0].startswith(_FLOATING)


def header(file: Path) -> Header:
    """Read the header of a ``.safetensors`` file.

    Raises CheckpointError if there is none, or if it does not fit the file.
    """
    try:
        with _spelled(file) as path, safetensors.safe_open(path, "pt") as handle:
            names = list(handle.keys())
            if len(names) > LARGEST_TENSORS:
                raise ValueError(f"it lists {len(names):,} tensors")
            slices = {name: handle.get_slice(name) for name in names}
            tensors = {
                name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()
            }
            return Header(tensors, dict(handle.metadata() or {}))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"this is not a .safetensors file, or it is cut off or damaged ({error})",
            where=str(file),
            fix="copy or download it again, or use another file or a run folder",
        ) from error


def refuse_list_of_parts(file: Path) -> None:
    """Raise CheckpointError for an index of weights that are spread over several files."""
    if file.name.endswith(LIST_OF_PARTS):
        raise CheckpointError(
            "this is an index of weights in several files; it contains no tensors",
            where=str(file),
            fix="collect the tensors of all its files in one dict in Python, write it with "
            'safetensors.torch.save_file(tensors, "weights.safetensors"), and use that file',
        )


@contextlib.contextmanager
def _spelled(file: Path) -> Iterator[str]:
    """Return a path that safetensors accepts: it refuses one that is not UTF-8, and Linux has
    another path for each file.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        with file.open("rb") as stream:
            yield f"/proc/self/fd/{stream.fileno()}"
    else:
        yield str(file)


def read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file by name, in their own shapes ``(...)`` and
    types, on the CPU.
    """
    with _spelled(file) as path, safetensors.safe_open(path, "pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping


def first_not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor, of any shape ``(...)``, that holds NaN or infinity, or
    an empty string.
    """
    floats = ((name, t) for name, t in tensors.items() if t.is_floating_point() or t.is_complex())
    return next((name for name, t in floats if not bool(torch.isfinite(t).all())), "")


def is_honest_zip(file: Path) -> bool:
    """Tell whether a .pth is a zip, as today's files are.

    Raises ValueError if it would unpack to more than its own size. ``torch.save`` stores without
    compression, so a small file that claims large tensors was made to do harm.
    """
    with file.open("rb") as stream:
        # files of torch before 1.6 are no zips
        if stream.read(len(_ZIP)) != _ZIP:
            return False
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its part {packed[0]} is compressed, but torch.save never compresses")
    # parts that share bytes are how a zip bomb grows without compression
    if sum(m.file_size for m in members) > file.stat().st_size:
        raise ValueError("its parts overlap: together they are larger than the file")
    return True
