"""Channels of neighbouring layers scaled to similar ranges, so that one scale fits all."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from saccade.models.quantized.capturing import ATEN, Node, nodes_of
from saccade.models.quantized.folding import BIAS_PLACE, CONVOLUTIONS, LINEAR

ROUNDS = 3
"""Repetitions: a scale between two layers changes the ranges of their neighbours."""

HARMLESS = (ATEN.relu.default, ATEN.max_pool2d.default, ATEN.flatten.using_ints)
"""Operations whose output scales with their input, channel by channel, for a factor above 0."""

CLIPPED = (ATEN.hardtanh.default, ATEN.relu6.default)


def unclip(module: fx.GraphModule) -> None:
    """Replace ReLU6 by ReLU: a limit in the middle of a network does not scale with its channels.

    *Source:* Nagel et al. 2019, section 5.1.1. The ranges of 8 bits are limits, too.
    """
    for node in nodes_of(module.graph):
        if node.op == "call_function" and node.target in CLIPPED:
            low = node.args[1] if len(node.args) > 1 else 0.0
            if node.target is ATEN.relu6.default or low == 0.0:
                node.target, node.args = ATEN.relu.default, node.args[:1]
    module.recompile()


@torch.no_grad()
def equalise(module: fx.GraphModule) -> int:
    """Scale the channels between neighbouring layers of a folded network; its outputs do not
    change.

    Returns the number of pairs. *Source:* Nagel et al. 2019, "Data-free quantization through weight
    equalization and bias correction", section 4.1.
    """
    pairs = list(_pairs(module.graph))
    for _ in range(ROUNDS):
        for first, second in pairs:
            _equalise(module, first, second)
    return len(pairs)


def _pairs(graph: fx.Graph) -> list[tuple[Node, Node]]:
    """Return the layers whose output goes to one other layer only, with that one."""
    found = []
    layers = [node for node in nodes_of(graph) if node.target in (*CONVOLUTIONS, LINEAR)]
    for first in layers:
        node = first
        while len(node.users) == 1:
            (node,) = node.users
            if node.target not in HARMLESS:
                break
        if node in layers and node.args[0] is not first.args[0] and _is_alone(first, node):
            found.append((first, node))
    return found


def _is_alone(first: Node, second: Node) -> bool:
    """Tell whether the weights of two layers are used nowhere else, and whether their channels
    match.
    """
    weights = [layer.args[1] for layer in (first, second)]
    if any(w.op != "get_attr" or len(w.users) != 1 for w in weights):
        return False
    # a flattened map has several inputs for each channel
    return first.target in CONVOLUTIONS and second.target in CONVOLUTIONS


def _equalise(module: fx.GraphModule, first: Node, second: Node) -> None:
    one, other = (module.get_parameter(layer.args[1].target) for layer in (first, second))
    groups = second.args[6] if len(second.args) > 6 else 1
    gives, takes = _largest(one), _largest_of_inputs(other, groups)
    # dead on either side: nothing to balance
    is_alive = (gives > 0) & (takes > 0)
    factor = torch.where(is_alive, torch.sqrt(takes / gives.clamp(min=1e-30)), 1.0)

    one.mul_(factor.reshape(-1, *[1] * (one.dim() - 1)))
    bias = first.args[BIAS_PLACE] if len(first.args) > BIAS_PLACE else None
    if bias is not None:
        module.get_parameter(bias.target).mul_(factor)
    inputs = other.shape[1]
    rows = factor.reshape(groups, 1, inputs).expand(groups, len(other) // groups, inputs)
    other.div_(rows.reshape(len(other), inputs, *[1] * (other.dim() - 2)))


def _largest(weight: Tensor) -> Tensor:
    """Return the largest magnitude of each output channel of weights (outputs, ...): (outputs,)."""
    return weight.abs().flatten(1).amax(1)


def _largest_of_inputs(weight: Tensor, groups: int) -> Tensor:
    """Return the largest magnitude of each input channel of weights (outputs, inputs / groups,
    ...): (inputs,).
    """
    outputs, inputs = weight.shape[:2]
    grouped = weight.abs().reshape(groups, outputs // groups, inputs, -1)
    return grouped.amax((1, 3)).reshape(-1)
