"""Weights rounded one after another, so that later ones make up for what earlier ones lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from saccade.models.quantized.capturing import ATEN, Node, nodes_of
from saccade.models.quantized.folding import LINEAR
from saccade.models.quantized.quantizers import Weights

CONVOLUTION = ATEN.conv2d.default

NARROW = 256
"""Layers with more inputs for each output are left out: their many errors cancel by themselves, and
the work grows with the cube of the inputs.
"""

DAMPING = 1e-4
"""Added to the second moments, as a share of their mean. *Source:* the ``percdamp`` of GPTQ's code
is 1e-2, which is for moments of few samples.
"""


@torch.no_grad()
def compensate(model: fx.GraphModule, batches: Iterable[Tensor]) -> int:
    """Round the weights of the narrow layers of a quantised network, given normalised images,
    float32 (B, 3, S, S) each, and return how many layers these are.

    A weight is one of the steps of its layer afterwards. The rounding error of a weight is made up
    for by the weights of the same output that are not rounded yet, as far as inputs go together.
    *Source:* Frantar et al. 2022, "GPTQ", algorithm 1.
    """
    was_training = model.training
    model.eval()
    layers = {node: _weight_of(node) for node in nodes_of(model.graph) if _is_narrow(model, node)}
    watched = _Watched(model, list(layers))
    for images in batches:
        watched.run(images)

    for node, (name, quantizer) in layers.items():
        weight, moments = model.get_parameter(name), watched.moments[node]
        scale = quantizer.scale(weight).double()
        groups, inputs = moments.shape[:2]
        rows = weight.double().reshape(groups, -1, inputs)
        made = rounded(rows, moments, scale, quantizer.scheme.most_weight)
        weight.copy_(made.reshape(weight.shape))
    model.train(was_training)
    return len(layers)


def rounded(weights: Tensor, moments: Tensor, scale: Tensor, most: int) -> Tensor:
    """Return float64 weights (groups, outputs, inputs) in whole steps of ``scale``, a scalar,
    at most ``most`` of them.

    ``moments``, float64 (groups, inputs, inputs), are the second moments of the inputs. The mean
    squared error of the outputs is far smaller than that of the nearest steps where inputs go
    together, as neighbouring pixels do.
    """
    inputs = weights.shape[2]
    power = moments.diagonal(dim1=1, dim2=2)
    # the strongest inputs first: more are left to make up for them
    order = power.mean(0).argsort(descending=True, stable=True)
    damping = DAMPING * power.mean(1).clamp(min=1e-12)
    damped = moments[:, order][:, :, order] + damping[:, None, None] * torch.eye(
        inputs, dtype=moments.dtype, device=moments.device
    )
    shares = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)

    left, made = weights[:, :, order], torch.empty_like(weights)
    for place in range(inputs):
        given = left[:, :, place]
        whole = (given / scale).round().clamp(-most, most) * scale
        made[:, :, order[place]] = whole
        lost = (given - whole) / shares[:, None, place, place]
        left = left - lost[:, :, None] * shares[:, None, place]
    return made


class _Watched(fx.Interpreter):
    """A network that sums up the second moments of what some of its layers take."""

    def __init__(self, model: fx.GraphModule, layers: list[Node]) -> None:
        super().__init__(model)
        self.layers = set(layers)
        self.moments: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n in self.layers:
            (x, weight, *_), _ = self.fetch_args_kwargs_from_env(n)
            patches = _patches(n, x, weight)
            made = (patches @ patches.mT).double()
            self.moments[n] = self.moments.get(n, 0.0) + made
        return super().run_node(n)


def _patches(layer: Node, x: Tensor, weight: Tensor) -> Tensor:
    """Return what each output of a layer is summed up from: (groups, inputs, places)."""
    if layer.target is LINEAR:
        return x.flatten(0, -2).T[None]
    stride, padding, dilation, groups = _geometry(layer)
    found = functional.unfold(x, weight.shape[2:], dilation, padding, stride)
    return found.reshape(len(x), groups, weight[0].numel(), -1).permute(1, 2, 0, 3).flatten(2)


def _geometry(layer: Node) -> list[Any]:
    """Return stride, padding, dilation and groups of a convolution; defaults are left out of its
    node.
    """
    return [*layer.args[3:7], *(1, 0, 1, 1)[len(layer.args[3:7]) :]]


def _is_narrow(model: nn.Module, node: Node) -> bool:
    """Tell whether a node is a layer with few inputs, whose weights are used here alone."""
    if node.target not in (CONVOLUTION, LINEAR) or node.args[1].op != "call_module":
        return False
    given = node.args[1].args[0]
    if given.op != "get_attr" or len(given.users) > 2 or len(node.args[1].users) != 1:
        return False
    return bool(model.get_parameter(given.target)[0].numel() <= NARROW)


def _weight_of(layer: Node) -> tuple[str, Weights]:
    """Return the name of a layer's weights, and what rounds them."""
    node = layer.args[1]
    quantizer = layer.graph.owning_module.get_submodule(node.target)
    assert isinstance(quantizer, Weights)
    return node.args[0].target, quantizer
