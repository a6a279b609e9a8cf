"""A quantised network as a graph whose weights are stored as int8, and whose rounding is a pair of
QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import torch

# makes the operators known that ONNX has names for
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx, nn

from saccade.errors import ExportError
from saccade.models.quantized.capturing import Node, nodes_of
from saccade.models.quantized.quantizers import (
    LEVELS,
    MIDDLE,
    Activations,
    Bias,
    Weights,
)

OPS = torch.ops.quantized_decomposed
MOST_BIAS = 2**31 - 1


class Rounded(nn.Module):
    """Activations in 8 bits and back, with a constant scale and zero point."""

    def __init__(self, quantizer: Activations) -> None:
        super().__init__()
        scale, zero = quantizer.scale_and_zero()
        self.scale, self.zero = float(scale), int(zero)
        self.least, self.most, self.kind = 0, LEVELS, torch.uint8
        if quantizer.scheme.power_of_two and self.zero == MIDDLE:
            # the same steps, around zero
            self.zero, self.kind = 0, torch.int8
            self.least, self.most = -MIDDLE, LEVELS - MIDDLE

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of any shape ``(...)``, float32, rounded."""
        how = (self.scale, self.zero, self.least, self.most, self.kind)
        return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *how), *how)


class Stored(nn.Module):
    """Whole numbers, weights (outputs, ...) or a bias (outputs,), and scales (outputs,) or ()."""

    values: Tensor
    scale: Tensor

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        super().__init__()
        limit = torch.iinfo(values.dtype)
        self.range = limit.min, limit.max
        self.register_buffer("values", values)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros_like(scale, dtype=values.dtype))
        # a number of the graph, not a tensor
        self.step = float(scale) if not scale.dim() else 0.0

    def forward(self) -> Tensor:
        """Return them as float32, in their shape ``(outputs, ...)``."""
        if self.scale.dim():
            return OPS.dequantize_per_channel(
                self.values, self.scale, self.zero, 0, *self.range, self.values.dtype
            )
        return OPS.dequantize_per_tensor(self.values, self.step, 0, *self.range, self.values.dtype)


def is_quantized(network: nn.Module) -> bool:
    """Tell whether a network rounds to 8 bits."""
    return any(isinstance(module, Activations) for module in network.modules())


@torch.no_grad()
def stored(network: nn.Module) -> fx.GraphModule:
    """Change a quantised network so that its weights are stored as int8 and its biases as int32,
    and return it.

    Raises ExportError if a bias does not fit into 32 bits.
    """
    assert isinstance(network, fx.GraphModule)
    made: dict[Node, nn.Module] = {}
    for node in nodes_of(network.graph):
        if node.op != "call_module":
            continue
        quantizer = network.get_submodule(node.target)
        given = [network.get_parameter(one.target) for one in node.args if one.op == "get_attr"]
        if isinstance(quantizer, Activations):
            made[node] = Rounded(quantizer)
        elif isinstance(quantizer, Weights):
            made[node] = _weights(given[0], quantizer)
        elif isinstance(quantizer, Bias):
            name = node.args[0].target.rpartition(".")[0]
            made[node] = _bias(given[0], quantizer.scale(given[1]), name)

    for node, module in made.items():
        place, _, last = node.target.rpartition(".")
        network.get_submodule(place).add_module(last, module)
        if isinstance(module, Stored):
            node.args = ()
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _weights(values: Tensor, quantizer: Weights) -> Stored:
    """Return weights (outputs, ...) with their steps, (outputs,) or a scalar."""
    scale, most = quantizer.scale(values), quantizer.scheme.most_weight
    wide = scale.reshape(-1, *[1] * (values.dim() - 1)) if scale.dim() else scale
    whole = (values * (1 / wide)).round().clamp(-most, most)
    return Stored(whole.to(torch.int8), scale)


def _bias(values: Tensor, scale: Tensor, name: str) -> Stored:
    """Return a bias (outputs,) with its steps, float64 (outputs,) or a scalar."""
    whole = (values.double() / scale).round()
    if float(whole.abs().max()) > MOST_BIAS:
        raise ExportError(
            f"the bias of '{name}' does not fit into 32 bits beside its weights, which are almost "
            "zero",
            fix="channels of it are dead: train longer, or a smaller network",
        )
    return Stored(whole.to(torch.int32), scale.float())
