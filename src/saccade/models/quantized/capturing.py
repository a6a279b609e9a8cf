"""Any network as a graph of plain operations, without dropout and in-place operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from saccade.errors import ConfigError

ATEN = torch.ops.aten
MOST_BATCH = 1 << 16

Node = Any
"""A node of a torch.fx graph; its arguments may be anything."""


def nodes_of(graph: fx.Graph) -> list[Node]:
    """Return the nodes of a graph, in order."""
    return list(graph.nodes)


def captured(network: nn.Module, side: int, name: str) -> fx.GraphModule:
    """Return a network in evaluation mode as a graph for images of any number and size.

    ``side`` is the side of an example in pixels. Parameters and buffers keep their names, and are
    shared with the network. Raises ConfigError if it cannot be captured.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    example = torch.zeros(2, 3, side, side, device=device)
    axes = {0: Dim("batch", max=MOST_BATCH), 2: Dim.AUTO, 3: Dim.AUTO}
    with _at_rest(network):
        try:
            with torch.no_grad():
                program = torch.export.export(network, (example,), dynamic_shapes=(axes,))
        except Exception as error:  # any operation of any network may have its own way to refuse
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
            raise ConfigError(
                f"{name} cannot be captured as a graph: {type(error).__name__}: {reason}",
                where="--model",
                fix="write its forward pass without Python decisions on values, and x.shape[0] "
                "instead of len(x)",
            ) from error
        given = program.module()
    assert isinstance(given, fx.GraphModule)
    graph = given.graph
    graph.owning_module = None
    graph.set_codegen(fx.graph.CodeGen())
    _only_numbers(graph)
    _nothing_in_place(graph)
    wanted = {n for n, p in network.named_parameters() if p.requires_grad}
    return assembled(graph, held(given), wanted)


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode without gradients inside the ``with`` block: the attention
    of some networks cannot be captured otherwise.
    """
    modes = {module: module.training for module in network.modules()}
    wanted = {p: p.requires_grad for p in network.parameters()}
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, was_wanted in wanted.items():
            parameter.requires_grad_(was_wanted)


def held(module: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """Return every tensor of a module by its name, of any shape ``(...)``, and whether it is saved
    with the module.
    """
    saved = set(module.state_dict())
    named: list[tuple[str, Tensor]] = [*module.named_parameters(remove_duplicate=False)]
    named += module.named_buffers(remove_duplicate=False)
    return {name: (tensor, name in saved) for name, tensor in named}


def assembled(
    graph: fx.Graph, tensors: dict[str, tuple[Tensor, bool]], wanted: set[str]
) -> fx.GraphModule:
    """Return a module that computes a graph, with tensors of any shape by name, see `held`.

    The ``wanted`` ones are trained parameters.
    """
    root = nn.Module()
    for node in nodes_of(graph):
        # tensors without values, and the folders of this machine
        node.meta.clear()
        if node.op != "get_attr":
            continue
        *path, last = node.target.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        tensor, is_saved = tensors[node.target]
        if isinstance(tensor, nn.Parameter):
            parameter = nn.Parameter(tensor.detach(), requires_grad=node.target in wanted)
            place.register_parameter(last, parameter)
        else:
            place.register_buffer(last, tensor, persistent=is_saved)
    return fx.GraphModule(root, graph)


def _only_numbers(graph: fx.Graph) -> None:
    """Remove shape checks and operations without effect in evaluation; keep one output."""
    for node in nodes_of(graph):
        name = str(node.target)
        if node.op == "call_function" and node.target in (
            ATEN.dropout.default,
            ATEN.feature_dropout.default,
        ):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.op == "call_module" or name.startswith(("aten._assert", "aten.sym_constrain")):
            graph.erase_node(node)
        elif node.op == "output":
            (answer,) = node.args
            node.args = (answer[0],) if isinstance(answer, tuple | list) else (answer,)
    graph.eliminate_dead_code()


def _nothing_in_place(graph: fx.Graph) -> None:
    """Replace operations that change their input by ones that make a new tensor, if nothing else
    uses it.
    """
    for node in nodes_of(graph):
        made = _without_change(node)
        if made is not None and list(node.args[0].users) == [node]:
            node.target = made


def _without_change(node: Node) -> Any:
    """Return the counterpart of an in-place operation that makes a new tensor; None for any other
    operation.
    """
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    if not packet.endswith("_") or packet.endswith("__"):
        return None
    return getattr(getattr(ATEN, packet[:-1], None), overload, None)
