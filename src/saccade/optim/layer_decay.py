"""The layers of a network in order, for learning rates that fall towards its input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from saccade.models.parts.embedding import head_name

CONTAINERS = (nn.Sequential, nn.ModuleList)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return the number of the layer of every parameter by name, 0 at the input.

    It follows from the structure alone. Layers follow the order in which the network names its
    children. A Sequential, a ModuleList, and whatever holds stacked blocks of one kind are looked
    into, everything else is one layer: a residual or transformer block, a convolution, the head.
    What has no weights but vectors (a norm) belongs to the layer before it; parameters of what is
    looked into (position tables, tokens) to layer 0. *Source:* Clark et al. 2020, "ELECTRA",
    appendix B; Bao et al. 2022, "BEiT", for images.
    """
    numbers = {name: 0 for name, _ in model.named_parameters()}
    number = -1
    for place, module in _entries(model, ""):
        number += number < 0 or any(p.dim() > 1 for p in module.parameters())
        numbers |= {f"{place}.{name}": number for name, _ in module.named_parameters()}
    return numbers


def head_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters of the layer that makes the logits; none without one."""
    head = head_name(model)
    own = model.get_submodule(head).named_parameters() if head else ()
    return [f"{head}.{name}" for name, _ in own]


def _entries(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield what counts as one entry below a module, in order, without what has no parameters."""
    for name, child in module.named_children():
        inside = f"{place}.{name}".lstrip(".")
        if isinstance(child, CONTAINERS) or any(_is_stack(c) for c in child.children()):
            yield from _entries(child, inside)
        elif next(child.parameters(), None) is not None:
            yield inside, child


def _is_stack(module: nn.Module) -> bool:
    """Tell whether a module is a row of several blocks of one type, each of several weights.

    A convolution with its norm is a part of a block, not a block.
    """
    blocks = list(module.children()) if isinstance(module, CONTAINERS) else []
    return (
        len(blocks) > 1
        and len({type(b) for b in blocks}) == 1
        and all(sum(p.dim() > 1 for p in b.parameters()) > 1 for b in blocks)
    )
