"""Blocks that several families share, and the initialisation of all of them from counter keys."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from saccade import rng
from saccade.rng import Purpose

_CHUNK = 1 << 16  # draws at a time: fits the processor's cache, three times faster than all at once


class DropPath(nn.Module):
    """Skip a residual branch for some samples, keeping the expectation.

    The mask is not drawn here: the training step draws it per sample and sets ``keep``, shape ``(batch,)``, values 0
    or ``1 / (1 - rate)``, before each forward pass. *Source:* Huang et al. 2016, section 3; per sample as in Swin.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x``, shape ``(batch, ...)``, by the mask in training; return it as it is in evaluation."""
        if not self.training or self.keep is None:
            return x
        return x * self.keep.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def drop_path_rates(last: float, num_blocks: int) -> list[float]:
    """Return rates rising linearly from 0 to ``last``. *Source:* Huang et al. 2016, section 3.2."""
    return [last * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def normal(shape: torch.Size, std: float, *key_words: int) -> Tensor:
    """Draw a float32 tensor of ``shape`` from N(0, std^2), a pure function of the key words."""
    out = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(out), _CHUNK):
        stop = min(start + _CHUNK, len(out))
        draws = rng.uniform(rng.key(Purpose.INIT, *key_words, start), stop - start)
        out[start:stop] = rng.normal(draws) * std
    return torch.from_numpy(out).view(shape)


def initialise(model: nn.Module, seed: int, head: nn.Module) -> None:
    """Set every parameter from the seed: He-normal (fan out) convolutions, unit norms, a head of N(0, 0.01^2).

    The last norm of each residual branch (a module with ``ends_branch``) starts at zero, so that every block starts as
    the identity. *Source:* He et al. 2015, equation 14; Goyal et al. 2017, section 5.1 (zero gamma).
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            word = zlib.crc32(name.encode())
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
                module.weight.copy_(normal(module.weight.shape, math.sqrt(2 / fan_out), seed, word))
            elif isinstance(module, nn.Linear):
                std = 0.01 if module is head else math.sqrt(1 / module.in_features)
                module.weight.copy_(normal(module.weight.shape, std, seed, word))
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.weight.fill_(0.0 if getattr(module, "ends_branch", False) else 1.0)
            else:
                continue
            if module.bias is not None:
                module.bias.zero_()


def zero_start(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Mark a norm as the end of a residual branch, whose scale starts at zero."""
    norm.ends_branch = True  # type: ignore[assignment]
    return norm
