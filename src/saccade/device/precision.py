"""The number format of the forward and backward pass."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from saccade.errors import ConfigError


def has_bf16(device: torch.device) -> bool:
    """Tell whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        if platform.machine().lower() in ("x86_64", "amd64"):
            # torch has no public question for it; without these units bf16 is emulated and slower
            # than fp32
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def choose(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return ("bf16" | "fp16" | "fp32", the reason).

    Raises ConfigError if the device does not support the requested format. fp16 is never chosen
    automatically: it needs a loss scale, and it was not measured on devices without bf16.
    """
    able = has_bf16(device)
    if wanted == "auto":
        place = {"cpu": "CPU", "cuda": "GPU"}.get(device.type, device.type)
        return (
            ("bf16", f"this {place} computes it") if able else ("fp32", f"no bf16 on this {place}")
        )
    if wanted == "bf16" and device.type == "mps":
        raise ConfigError(
            "bf16 is not supported on mps", where="precision", fix="use --precision fp32"
        )
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"fp16 needs a GPU of NVIDIA or AMD; this device is {device.type}",
            where="precision",
            fix=f"use --precision {'bf16' if able else 'fp32'}",
        )
    slow = " (slow here: emulated)" if wanted == "bf16" and not able else ""
    return wanted, f"as asked{slow}"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    if precision == "fp16":
        return torch.autocast(device.type, torch.float16)
    return nullcontext()
