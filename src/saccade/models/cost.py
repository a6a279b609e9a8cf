"""What a model costs: parameters, multiply-accumulates, activations, computed without allocating it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts for one image: parameters, multiply-accumulates, output elements of convolutions and linear layers.

    ``last_map`` is (height, width) of the last feature map that a convolution wider than 1x1 made, (0, 0) without one;
    1x1 convolutions may follow the pooling.
    """

    params: int
    macs: int
    activations: int
    last_map: tuple[int, int]


def cost(model: nn.Module, image_size: int) -> Cost:
    """Count the cost of one square RGB image of ``image_size`` pixels; the model must be on the meta device."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output)

    spatial: list[Tensor] = []

    def record_map(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        spatial.append(output)

    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(record) for m in counted]
    looks_around = [m for m in counted if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    hooks += [m.register_forward_hook(record_map) for m in looks_around]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, image_size, image_size, device="meta"))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    maps = [o.shape[-2:] for o in spatial]
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        activations=sum(o.numel() for o in outputs),
        last_map=(maps[-1][0], maps[-1][1]) if maps else (0, 0),
    )
