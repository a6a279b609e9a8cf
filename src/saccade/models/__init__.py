"""Architectures by name."""

from __future__ import annotations

import torch
from torch import nn

from saccade.models import resnet as resnet
from saccade.models.layers import initialise
from saccade.models.registry import Options, find, names

__all__ = ["Options", "create_model", "find", "meta_model", "names"]


def create_model(
    name: str, *, num_classes: int, image_size: int = 0, dropout: float = 0.0, drop_path: float = 0.0, seed: int = 0
) -> nn.Module:
    """Build a model with weights that are a pure function of the seed.

    ``image_size`` is the side in pixels that it will see (0 = its usual one); it decides the strides for small images.
    Raises ConfigError with the nearest names when there is no such model.
    """
    entry = find(name)
    model = entry.build(Options(num_classes, image_size or entry.image_size, 3, dropout, drop_path))
    head = model.get_submodule("fc")
    initialise(model, seed, head)
    return model


def meta_model(name: str, *, num_classes: int, image_size: int) -> nn.Module:
    """Build a model without memory, to count its cost."""
    with torch.device("meta"):
        return find(name).build(Options(num_classes, image_size))
