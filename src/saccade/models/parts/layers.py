"""Blocks that several families share, and the initialisation of all of them from counter keys."""

from __future__ import annotations

import math
import zlib
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from saccade import rng
from saccade.errors import ConfigError
from saccade.rng import Purpose

_CHUNK = 1 << 16  # draws at a time: fits the processor's cache, three times faster than all at once


class DropPath(nn.Module):
    """Skip a residual branch for some samples, keeping the expectation.

    The mask is not drawn here: the training step draws it per sample and sets ``keep``, shape
    ``(batch,)``, values 0 or ``1 / (1 - rate)``, before each forward pass. *Source:* Huang et al.
    2016, section 3; per sample as in Swin.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x``, shape ``(batch, ...)``, by the mask in training.

        Return it as it is in evaluation.
        """
        if not self.training or self.keep is None:
            return x
        return x * self.keep.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


class Permute(nn.Module):
    """Reorder the axes of a tensor, as a layer: 0 2 3 1 puts the channels of a map last."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of ``x`` whose shape is that of ``x`` in the order ``axes``."""
        return x.permute(self.axes)


class BlurPool(nn.Module):
    """Halve the side of a map (B, C, H, W) after a binomial low-pass of 3 x 3, edges reflected.

    *Source:* Zhang 2019, section 3.2, Tri-3.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer(
            "kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone(), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, ceil(H / 2), ceil(W / 2))."""
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return nn.functional.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel alone, in float32 where bfloat16 would be slow on a processor.

    The backward pass of 5x5, 7x7 and strided ones is 2 to 6 times as fast in float32, both casts
    included; that of 3x3 ones of stride 1 is not (`docs/LOG.md`, 2026-11-26).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias
        )
        self.is_slow = kernel > 3 or stride > 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / stride, W / stride)."""
        if not (self.is_slow and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        low = torch.get_autocast_dtype("cpu")
        # else autocast would turn the float32 input back
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(low)


def drop_path_rates(last: float, num_blocks: int) -> list[float]:
    """Return rates rising linearly from 0 to ``last``. *Source:* Huang et al. 2016, section 3.2."""
    return [last * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def normal(shape: torch.Size, std: float, *key_words: int) -> Tensor:
    """Draw a float32 tensor of ``shape`` from N(0, std^2), a pure function of the key words."""
    out = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(out), _CHUNK):
        stop = min(start + _CHUNK, len(out))
        # the start of the chunk is in the key, so chunks do not repeat each other
        draws = rng.uniform(rng.key(Purpose.INIT, *key_words, start), stop - start)
        out[start:stop] = rng.normal(draws) * std
    return torch.from_numpy(out).view(shape)


@runtime_checkable
class Finishing(Protocol):
    """A module that changes its weights, of any shape (...), once they are drawn."""

    def finish_start(self) -> None:
        """Make of the drawn weights what they start as."""


def initialise(model: nn.Module, seed: int, head: nn.Module | None, prefix: str = "") -> None:
    """Set every parameter from the seed: He-normal (fan out) convolutions, unit norms, a head of
    N(0, 0.01^2).

    The last norm of each residual branch (a module with ``ends_branch``) starts at zero, so that
    every block starts as the identity. A module may say otherwise in ``starts`` (see `starting`)
    and have the last word (`Finishing`). Raises AssertionError when a parameter is left without a
    start: a bug of the architecture. *Source:* He et al. 2015, equation 14; Goyal et al. 2017,
    section 5.1 (zero gamma).
    """
    with torch.no_grad():
        for place, module in model.named_modules(prefix=prefix):
            starts = _default_starts(module, head) | getattr(module, "starts", {})
            own = dict(module.named_parameters(recurse=False))
            assert set(own) <= set(starts), f"{place}: {set(own) - set(starts)} have no start"
            for name, parameter in own.items():
                mean, std = starts[name]
                # the name is the key: another layer added elsewhere leaves this one's start as it
                # is
                word = zlib.crc32(
                    place.encode() if name == "weight" else f"{place}.{name}".encode()
                )
                parameter.copy_(
                    normal(parameter.shape, std, seed, word) + mean if std else torch.tensor(mean)
                )
            if isinstance(module, Finishing):
                module.finish_start()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()


def _default_starts(module: nn.Module, head: nn.Module | None) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of the parameters of a layer of torch's."""
    if module is head:
        return {"weight": (0.0, 0.01), "bias": (0.0, 0.0)}
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
        return {"weight": (0.0, math.sqrt(2 / fan_out)), "bias": (0.0, 0.0)}
    if isinstance(module, nn.Linear):
        return {"weight": (0.0, math.sqrt(1 / module.in_features)), "bias": (0.0, 0.0)}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
        return {
            "weight": (0.0 if getattr(module, "ends_branch", False) else 1.0, 0.0),
            "bias": (0.0, 0.0),
        }
    return {}


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def starting(module: ModuleT, **starts: tuple[float, float]) -> ModuleT:
    """Say how parameters of a module start, by attribute name: mean and standard deviation (0 =
    all the mean).
    """
    module.starts = getattr(module, "starts", {}) | starts  # type: ignore[assignment]
    return module


def zero_start(norm: ModuleT) -> ModuleT:
    """Mark a norm as the end of a residual branch, whose scale starts at zero."""
    norm.ends_branch = True  # type: ignore[assignment]
    return norm


def rounded(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of ``divisor``, never below 90 % of it.

    *Source:* Sandler et al. 2018, the published code.
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def conv_norm(
    c_in: int,
    c_out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Return convolution (padded to keep the side, no bias), BatchNorm and, unless None, an
    activation.

    The places in the Sequential are 0, 1, 2, as in torchvision's Conv2dNormActivation.
    """
    conv = (
        DepthwiseConv(c_in, kernel, stride, bias=False)
        if groups == c_in == c_out
        else nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    )
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(c_out, eps=eps, momentum=momentum)]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm and activation, named ``conv``, ``bn`` and ``act``.

    Without ``padding`` the side is kept (at stride 1). Maps (B, c_in, H, W) to (B, c_out, H', W').
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | None = None,
        act: nn.Module | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        around = (height // 2, width // 2) if padding is None else padding
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, around, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=eps)
        self.act = act or nn.ReLU(inplace=True)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the means of all channels.

    *Source:* Hu et al. 2018, section 3. Names are torchvision's.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        act: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = act(inplace=True)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(means))))


def grid_means(x: Tensor, height: int, width: int) -> Tensor:
    """Return means (B, C, height, width) of windows that cover a map (B, C, H, W) evenly: adaptive
    average pooling.

    As two matrix products, because torch's backward pass adds in random order on CUDA.
    """
    rows, columns = (
        _windows(*sides, x) for sides in zip(x.shape[-2:], (height, width), strict=True)
    )
    return rows @ x @ columns.mT


def _windows(length: int, count: int, like: Tensor) -> Tensor:
    """Return the weight of each of ``length`` places in each of ``count`` windows, (count, length).

    Window i goes from floor(i length / count) to ceil((i + 1) length / count).
    """
    place, number = (
        torch.arange(length, device=like.device),
        torch.arange(count, device=like.device)[:, None],
    )
    first, end = number * length // count, ((number + 1) * length + count - 1) // count
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def resized_sum(weights: Tensor, height: int, width: int) -> Tensor:
    """Resize weights of a sum over places, (H, W), bilinearly to (height, width).

    What they add up to stays.
    """
    if weights.shape == (height, width):
        return weights
    resized = nn.functional.interpolate(weights[None, None], (height, width), mode="bilinear")[0, 0]
    return (resized - resized.mean() + weights.mean()) * (weights.numel() / (height * width))


def strides_for(image_size: int, given: tuple[int, ...] = ()) -> tuple[int, int, int, int, int]:
    """Return the strides of the five places where ImageNet networks halve the side: stem, pool,
    three stages.

    Below 48 px 1 1 1 2 2, from 48 to 95 px 2 1 2 2 2 (no pool), from 96 px 2 2 2 2 2; ``given``
    wins. Raises ConfigError unless it holds five strides of 1 or 2.
    """
    if given:
        if len(given) != 5 or not set(given) <= {1, 2}:
            raise ConfigError(
                f"strides {' '.join(map(str, given))} are not five numbers that are 1 or 2",
                where="model.strides",
                fix="write for example [1, 1, 1, 2, 2]: stem, pool, and three stages",
            )
        return given[0], given[1], given[2], given[3], given[4]
    if image_size < 48:
        return 1, 1, 1, 2, 2
    return (2, 1, 2, 2, 2) if image_size < 96 else (2, 2, 2, 2, 2)
