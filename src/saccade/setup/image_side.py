"""The default image size if a run starts from foreign weights."""

from __future__ import annotations

import torch

from saccade.distributed.world import Devices
from saccade.errors import SaccadeError
from saccade.models import find, meta_model

CPU_SIDE_PX = 160
"""Image side on a CPU, in pixels: half the work of 224 px. docs/LOG.md has the measurements."""


def side_for(model: str, devices: str) -> int:
    """Return the usual side, in pixels, of a network of this name; on a CPU at most `CPU_SIDE_PX`,
    if that changes none of its tensors.

    ``devices`` is the value of ``--devices``.
    """
    usual = find(model).image_size
    if usual <= CPU_SIDE_PX or not _is_cpu(devices):
        return usual
    return CPU_SIDE_PX if _shapes(model, CPU_SIDE_PX) == _shapes(model, usual) else usual


def _is_cpu(devices: str) -> bool:
    kind = Devices.parse(devices).kind
    if kind != "auto":
        return kind == "cpu"
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _shapes(model: str, side: int) -> dict[str, torch.Size]:
    try:
        network = meta_model(model, num_classes=2, image_size=side)
    except SaccadeError:
        return {}
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
