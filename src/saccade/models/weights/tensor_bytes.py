"""Tensors as safetensors takes them, and as bytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of any shapes ``(...)`` in a form that safetensors accepts: on the CPU,
    row-major, without shared memory.

    Tied weights are one tensor under several names; each name gets its own copy.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        # a conjugate or negative view has the bits of what it is a view of
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in taken else plain
        taken.add(place)
    return found


def contiguous_bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor of any shape ``(...)`` and type, in row-major order, as
    bytes.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def form(tensor: Tensor) -> str:
    """Return the type and shape ``(...)`` of a tensor for people: ``float32[64, 3, 7, 7]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
