"""A network on the device where it trains."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from saccade.device.narrow_conv import stay_in_bounds
from saccade.device.small_map_conv import use_strips

M = TypeVar("M", bound=nn.Module)


def placed(model: M, precision: str, device: torch.device) -> M:
    """Move a network to its device, with the layout and the convolutions that train there, and
    return it.
    """
    model = model.to(device).to(memory_format=torch.channels_last)
    # first: what it replaces, the other leaves alone
    stay_in_bounds(model, device)
    use_strips(model, precision, device)
    return model
