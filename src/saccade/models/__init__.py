"""Architectures by name."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from saccade.errors import ConfigError
from saccade.models import airbench as airbench
from saccade.models import alexnet as alexnet
from saccade.models import backends, registered
from saccade.models import convnext as convnext
from saccade.models import darknet as darknet
from saccade.models import efficientnet as efficientnet
from saccade.models import googlenet as googlenet
from saccade.models import inception as inception
from saccade.models import lenet as lenet
from saccade.models import mobilenet_v1 as mobilenet_v1
from saccade.models import mobilenet_v2 as mobilenet_v2
from saccade.models import mobilenet_v3 as mobilenet_v3
from saccade.models import regnet as regnet
from saccade.models import resnet as resnet
from saccade.models import shufflenet as shufflenet
from saccade.models import spatialnet as spatialnet
from saccade.models import swin as swin
from saccade.models import vgg as vgg
from saccade.models import vit as vit
from saccade.models.parts.layers import initialise
from saccade.models.parts.network import Network
from saccade.models.parts.registry import Options, find, names
from saccade.models.quantized import building as building
from saccade.models.registered import is_foreign as is_foreign
from saccade.models.registered import is_registered as is_registered
from saccade.models.registered import register_model
from saccade.models.weights.loading import Report, foreign_state, load_weights

__all__ = [
    "Network",
    "Options",
    "Report",
    "create_model",
    "find",
    "foreign_state",
    "list_models",
    "load_weights",
    "meta_model",
    "names",
    "register_model",
]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of models that match a shell pattern, sorted.

    ``timm:vit_*`` looks into timm, if installed.
    """
    if backends.is_backend(pattern):
        return backends.names(pattern)
    return sorted([*names(pattern), *registered.names(pattern)])


def create_model(
    name: str,
    *,
    num_classes: int,
    image_size: int = 0,
    in_channels: int = 3,
    dropout: float | None = None,
    drop_path: float | None = None,
    strides: tuple[int, ...] = (),
    patch_size: int = 0,
    checkpointing: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Build a model with weights that are a pure function of the seed.

    ``image_size`` is the side in pixels that it will see (0 = its usual one); it decides the
    strides, or the patch, for small images unless ``strides`` or ``patch_size`` say otherwise.
    ``None`` leaves the rates of dropout to the paper. Raises ConfigError with the nearest names
    when there is no such model, or when the images are too small for it.
    """
    options = Options(
        num_classes,
        image_size,
        in_channels,
        dropout=dropout,
        drop_path=drop_path,
        strides=strides,
        patch_size=patch_size,
        seed=seed,
    )
    model = _build(name, options)
    if isinstance(model, Network):
        initialise(model, seed, model.head)
        model.checkpointing = checkpointing
    # networks of others have switches of their own, or none
    elif checkpointing:
        backends.checkpoint_blocks(model, name)
    return model


def meta_model(
    name: str,
    *,
    num_classes: int,
    image_size: int = 0,
    strides: tuple[int, ...] = (),
    patch_size: int = 0,
) -> nn.Module:
    """Build a model without memory, to count its cost."""
    with torch.device("meta"):
        return _build(
            name, Options(num_classes, image_size, strides=strides, patch_size=patch_size)
        )


def _build(name: str, options: Options) -> nn.Module:
    entry = find(name)
    side = options.image_size or entry.image_size
    if side < entry.smallest:
        raise ConfigError(
            f"{entry.name} takes images of at least {entry.smallest} px, not {side}",
            where="data.image_size",
            fix=(
                f"use --image-size {entry.smallest} or more, or a model for smaller images such "
                "as resnet20"
            ),
        )
    return entry.build(replace(options, image_size=side))
