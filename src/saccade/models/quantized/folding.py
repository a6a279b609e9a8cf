"""BatchNorm folded into the weights of the layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from saccade.models.quantized.capturing import ATEN, Node, assembled, held, nodes_of

CONVOLUTIONS = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)
LINEAR = ATEN.linear.default
NORM = ATEN.batch_norm.default
BIAS_PLACE = 2


def folded(module: fx.GraphModule) -> fx.GraphModule:
    """Return a captured network whose BatchNorms are folded into the convolutions and linear layers
    right before them; its outputs do not change.

    A norm behind something else keeps its statistics. Layers without a bias get one.
    """
    graph, tensors = module.graph, held(module)
    # it names tensors that this module does not have
    graph.owning_module = None
    wanted = {n for n, p in module.named_parameters() if p.requires_grad}
    for node in nodes_of(graph):
        layer = node.args[0] if node.target is NORM else None
        if layer is None or not _takes(layer):
            continue
        bias = _fold(node, layer, tensors)
        with graph.inserting_before(layer):
            place = graph.get_attr(bias)
        wanted.add(bias)
        layer.args = (*layer.args[:BIAS_PLACE], place, *layer.args[BIAS_PLACE + 1 :])
        node.replace_all_uses_with(layer)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    return assembled(graph, tensors, wanted)


def _takes(layer: Node) -> bool:
    """Tell whether the output of a layer goes to one place only, and its weights are used once."""
    if layer.target not in (*CONVOLUTIONS, LINEAR) or len(layer.users) != 1:
        return False
    weight = layer.args[1]
    if weight.op != "get_attr":
        return False
    uses = [node for node in nodes_of(layer.graph) if node.target == weight.target]
    return len(uses) == 1 and len(weight.users) == 1


@torch.no_grad()
def _fold(norm: Node, layer: Node, tensors: dict[str, tuple[Tensor, bool]]) -> str:
    """Replace the weights and the bias of a layer; return the name of the bias.

    *Source:* Jacob et al. 2018, section 3.2.
    """
    gain, shift, mean, variance = (_value(one, tensors) for one in norm.args[1:5])
    eps = norm.args[7]
    factor = (gain if gain is not None else 1.0) / torch.sqrt(variance + eps)

    name = layer.args[1].target
    weight = tensors[name][0]
    before = _value(layer.args[BIAS_PLACE], tensors) if len(layer.args) > BIAS_PLACE else None
    bias = factor * ((before if before is not None else 0.0) - mean)
    bias = bias + shift if shift is not None else bias

    # in another tensor: the network that it is from stays as it is
    shaped = factor.reshape(-1, *[1] * (weight.dim() - 1))
    tensors[name] = nn.Parameter(weight * shaped, requires_grad=False), True
    place = f"{name.rpartition('.')[0]}.bias".lstrip(".")
    tensors[place] = nn.Parameter(bias, requires_grad=False), True
    return place


def _value(given: Any, tensors: dict[str, tuple[Tensor, bool]]) -> Any:
    """Return the value of a node that does not depend on the image: a tensor ``(...)``, a number or
    None.
    """
    if not isinstance(given, fx.Node):
        return given
    node: Node = given
    if node.op == "get_attr":
        return tensors[node.target][0].detach()
    assert node.op == "call_function", "a norm does not depend on the images"
    return node.target(*(_value(one, tensors) for one in node.args), **node.kwargs)
