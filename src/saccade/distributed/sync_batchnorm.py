"""BatchNorm over the cells (micro-batches) of all ranks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from saccade.distributed.world import ALONE, World


class SyncedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm that takes mean and variance over the cells that all ranks compute at the same
    time.

    Twice in each pass it waits for the other ranks. Not torch's SyncBatchNorm, which needs GPUs.
    *Source:* Peng et al. 2018, "MegDet", section 3.3.
    """

    world: ClassVar[World] = ALONE

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; B, H and W must be the same on all ranks."""
        if not self.training or self.world.size == 1:
            return super().forward(x)
        count = x.numel() // x.shape[1] * self.world.size
        # in float32: sums over many places lose their last bits in 16-bit numbers
        values = x.float()
        # the mean first and then the squares around it: the difference of two large sums is inexact
        mean = _Total.apply(values.sum((0, 2, 3)), self.world) / count
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3)), self.world) / count
        # the running variance is the unbiased one, as in torch's BatchNorm
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.bias is not None:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Total(torch.autograd.Function):
    """The sum of a tensor over all ranks; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, world: World) -> Tensor:
        ctx.world = world
        total = values.clone()
        world.sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        ctx.world.sum_([total])
        return total, None


def convert(model: nn.Module, world: World) -> None:
    """Let every BatchNorm of a model share its statistics from now on.

    Names, weights and copies stay as they are.
    """
    SyncedBatchNorm.world = world
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # the class and not the module is replaced, so optimiser and average keep their tensors
            module.__class__ = _synced(type(module))


def _synced(kind: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    """Return a kind of BatchNorm that shares its statistics and is otherwise as it was."""
    return (
        SyncedBatchNorm
        if kind is nn.BatchNorm2d
        else type(f"Synced{kind.__name__}", (SyncedBatchNorm, kind), {})
    )
