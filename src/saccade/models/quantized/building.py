"""From a network to the quantised one, and from its weights to the initial weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from saccade.models.parts.layers import initialise
from saccade.models.parts.network import Network
from saccade.models.parts.registry import Entry, Options, find, register_grammar
from saccade.models.quantized import equalising
from saccade.models.quantized.capturing import captured
from saccade.models.quantized.folding import folded
from saccade.models.quantized.naming import PREFIX, name_of
from saccade.models.quantized.placing import quantized
from saccade.models.quantized.quantizers import Activations
from saccade.models.quantized.schemes import SCHEMES, Scheme


def in_8_bits(network: nn.Module, scheme: Scheme, side: int, name: str) -> fx.GraphModule:
    """Return a network that simulates 8-bit arithmetic, with the weights of another.

    ``side`` is the side of its images in pixels. The names of its tensors depend only on the
    structure of ``network``. Its ranges are empty until `watch`. Raises ConfigError.
    """
    return quantized(_in_floats(network, scheme, side, name), scheme)


def take_weights(model: nn.Module, network: nn.Module, scheme: Scheme, side: int) -> None:
    """Copy the present weights of a network into the quantised one that was made from it."""
    floats = _in_floats(network, scheme, side, type(network).__name__)
    if scheme.equalises:
        equalising.equalise(floats)
    _, unknown = model.load_state_dict(floats.state_dict(), strict=False)
    assert not unknown, "the same structure gives the same names"


@torch.no_grad()
def watch(model: nn.Module, batches: Iterable[Tensor], steps: int) -> None:
    """Set the ranges of a quantised network from normalised images, float32 (B, 3, S, S) each.

    In training the ranges follow the batches for ``steps`` steps.
    """
    was_training = model.training
    model.eval()
    found = [module for module in model.modules() if isinstance(module, Activations)]
    for module in found:
        module.watching = True
    for images in batches:
        model(images)
    for module in found:
        module.watching = False
        module.until.fill_(steps)
    model.train(was_training)


def _in_floats(network: nn.Module, scheme: Scheme, side: int, name: str) -> fx.GraphModule:
    module = folded(captured(network, side, name))
    if scheme.equalises:
        equalising.unclip(module)
    return module


def _entry(match: re.Match[str]) -> Entry:
    scheme, base = SCHEMES[match["scheme"]], find(match["base"])
    name = name_of(scheme.name, base.name)

    def build(options: Options) -> nn.Module:
        network = base.build(options)
        if isinstance(network, Network) and torch.get_default_device().type != "meta":
            initialise(network, options.seed, network.head)
        return in_8_bits(network, scheme, options.image_size, base.name)

    return Entry(
        name,
        build,
        family=PREFIX,
        source=base.source,
        image_size=base.image_size,
        smallest=base.smallest,
    )


register_grammar(rf"{PREFIX}:(?P<scheme>{'|'.join(SCHEMES)}):(?P<base>.+)", _entry)
