"""Which buffers of a network follow the statistics of its batches, as those of BatchNorm do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

_RUNNING = re.compile(r"(running|moving)_")


def is_running_statistic(module: nn.Module, name: str, buffer: Tensor) -> bool:
    """Tell whether a buffer of any shape ``(...)`` follows statistics of the batches slowly.

    These are the floating buffers of torch's norms, and others whose names say it:
    ``running_var``, ``moving_mean``.
    """
    if not buffer.is_floating_point():
        return False
    return isinstance(module, _NormBase) or bool(_RUNNING.match(name))


def named_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of a model that are running statistics, of any shape ``(...)``, by
    name.
    """
    return {
        f"{place}.{name}".lstrip("."): buffer
        for place, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and is_running_statistic(module, name, buffer)
    }


def running_statistics(model: nn.Module) -> set[int]:
    """Return the ``id`` of every buffer of a model that is a running statistic."""
    return {id(buffer) for buffer in named_statistics(model).values()}


@contextmanager
def averaged_anew(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Let BatchNorms forget their statistics and take the mean over all cells seen in training mode
    inside the ``with`` block, which gets these norms.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # what torch calls the cumulative mean
    try:
        yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def has_batch_statistics(model: nn.Module) -> bool:
    """Tell whether the output of a network for an image in training depends on the other images of
    its cell (micro-batch).
    """
    averaged = running_statistics(model)
    for module in model.modules():
        if not module.training or isinstance(module, _InstanceNorm):
            continue
        if isinstance(module, _BatchNorm) or any(
            id(b) in averaged for b in module._buffers.values()
        ):
            return True
    return False
