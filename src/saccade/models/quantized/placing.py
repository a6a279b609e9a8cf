"""The places of a captured network that are rounded to 8 bits."""

from __future__ import annotations

from torch import fx, nn

from saccade.models.quantized.capturing import ATEN, Node, nodes_of
from saccade.models.quantized.folding import BIAS_PLACE, CONVOLUTIONS, LINEAR
from saccade.models.quantized.quantizers import Activations, Bias, Weights
from saccade.models.quantized.schemes import Scheme

LAYERS = (*CONVOLUTIONS, LINEAR)
PRODUCTS = (ATEN.matmul.default, ATEN.bmm.default)
SUM = ATEN.add.Tensor

ORDERED = (
    ATEN.relu.default,
    ATEN.hardtanh.default,
    ATEN.clamp.default,
    ATEN.relu6.default,
    ATEN.max_pool2d.default,
)
"""Operations that preserve the order of values: rounding can as well come behind them."""

MOVED = (
    ATEN.max_pool2d.default,
    ATEN.flatten.using_ints,
    ATEN.view.default,
    ATEN.reshape.default,
    ATEN.permute.default,
    ATEN.transpose.int,
)
"""Operations that only move values: what was rounded before is still rounded."""

QUANTIZERS = "quantizers"


def quantized(module: fx.GraphModule, scheme: Scheme) -> fx.GraphModule:
    """Return a folded network that rounds the inputs and the weights of its layers, and the outputs
    of convolutions and of the sums between them.

    The logits are not rounded, and neither is anything that is not next to a layer with weights.
    Its tensors are those of ``module``.
    """
    graph = module.graph
    sums = _sums_of_maps(graph)
    layers = [node for node in nodes_of(graph) if node.target in LAYERS]

    # in the order of the graph, each place once
    rounded: dict[Node, None] = {}
    for node in nodes_of(graph):
        if node.target in CONVOLUTIONS or node in sums:
            end = _behind_ordered(node)
            if not _is_answer(end):
                rounded[end] = None
    for node in (*layers, *sums, *(n for n in nodes_of(graph) if n.target in PRODUCTS)):
        inputs = node.args[:1] if node in layers else node.args[:2]
        for given in inputs:
            if _source(given) not in rounded:
                rounded[given] = None

    module.add_module(QUANTIZERS, nn.ModuleDict())
    for number, node in enumerate([n for n in nodes_of(graph) if n in rounded]):
        _insert(module, node, Activations(scheme), f"a{number}")
    for number, layer in enumerate(layers):
        _round_layer(module, layer, scheme, number)
    graph.lint()
    module.recompile()
    return module


def _insert(module: fx.GraphModule, node: Node, quantizer: nn.Module, name: str) -> None:
    """Replace the output of a node by its rounded value everywhere."""
    module.get_submodule(QUANTIZERS).add_module(name, quantizer)
    with module.graph.inserting_after(node):
        made = module.graph.call_module(f"{QUANTIZERS}.{name}", (node,))
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def _round_layer(module: fx.GraphModule, layer: Node, scheme: Scheme, number: int) -> None:
    """Round the weights of a layer, and its bias if it has one."""
    weight = layer.args[1]
    # weights that two layers share are rounded once
    if weight.op == "get_attr":
        _insert(module, weight, Weights(scheme), f"w{number}")
    rounded = layer.args[1]
    bias = layer.args[BIAS_PLACE] if len(layer.args) > BIAS_PLACE else None
    if bias is None or bias.op != "get_attr":
        return
    given, weights = (module.get_submodule(one.target) for one in (_source(layer.args[0]), rounded))
    assert isinstance(given, Activations) and isinstance(weights, Weights)
    name = f"{QUANTIZERS}.b{number}"
    module.get_submodule(QUANTIZERS).add_module(f"b{number}", Bias(given, weights))
    with module.graph.inserting_before(layer):
        made = module.graph.call_module(name, (bias, rounded.args[0]))
    layer.args = (*layer.args[:BIAS_PLACE], made, *layer.args[BIAS_PLACE + 1 :])


def _behind_ordered(node: Node) -> Node:
    """Return the last of the order-preserving operations behind a node."""
    while len(node.users) == 1:
        (user,) = node.users
        if user.target not in ORDERED or user.args[0] is not node:
            break
        node = user
    return node


def _source(node: Node) -> Node:
    """Return the node that computed the values of a node."""
    while node.op == "call_function" and node.target in MOVED:
        node = node.args[0]
    return node


def _is_answer(node: Node) -> bool:
    """Tell whether a node is the output of the network."""
    return any(user.op == "output" for user in node.users)


def _sums_of_maps(graph: fx.Graph) -> list[Node]:
    """Return the sums that directly follow a convolution or another such sum: those of residual
    blocks.
    """
    found: dict[Node, None] = {}
    for node in nodes_of(graph):
        if node.target is not SUM or not all(isinstance(one, fx.Node) for one in node.args[:2]):
            continue
        if any(_made_by(one) in found or _made_by(one).target in CONVOLUTIONS for one in node.args):
            found[node] = None
    return list(found)


def _made_by(node: Node) -> Node:
    """Return the node before the operations that preserve order or only move values."""
    while node.op == "call_function" and node.target in (*ORDERED, *MOVED):
        node = node.args[0]
    return node
