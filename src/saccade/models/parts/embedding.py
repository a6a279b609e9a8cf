"""The features of an image before the head, for any network: ours, those of libraries, and your
own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.network import Network


class NoHead(nn.Identity):
    """Replaces a head that was removed: features pass through."""


def head_name(network: nn.Module) -> str:
    """Return the dotted name of the layer that makes the logits, empty where none is found.

    It is a linear layer or a 1x1 convolution: the one that our networks and timm's name, else the
    last linear layer, else the last 1x1 convolution, in the order in which they were registered.
    """
    if isinstance(network, Network):
        return network.head_name
    named = list(network.named_modules())
    if callable(told := getattr(network, "get_classifier", None)):
        classifier = told()
        return next((n for n, module in named if module is classifier and _is_linear(module)), "")

    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    pointwise = [name for name, module in named if _is_linear(module)]
    return (linear or pointwise or [""])[-1]


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Return the input of a network's head for images (B, 3, H, W): features, (B, d).

    Tokens and positions of a map are averaged. A network without a head returns its features. In
    training mode dropout may have changed them, so switch to evaluation mode first. Raises
    ConfigError for a network whose features cannot be found.
    """
    if isinstance(network, Network):
        return network.embed(images)
    return embed_and_answer(network, images)[0]


def embed_and_answer(network: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
    """Return the features (B, d) of images (B, 3, H, W) and the output of the network, in one pass.

    The output is None for a network without a head. Raises ConfigError as ``embed`` does.
    """
    name = head_name(network)
    head = network.get_submodule(name) if name else None
    if head is None or any(isinstance(module, NoHead) for module in network.modules()):
        return _flat(_without_head(network, images), network), None

    received: list[Tensor] = []

    def keep(_head: nn.Module, inputs: tuple[Any, ...]) -> None:
        received.append(inputs[0])

    hook = head.register_forward_pre_hook(keep)
    try:
        answer = network(images)
    finally:
        hook.remove()
    if not received:
        raise _untold(network, f"its last linear layer '{name}' is not used")

    # a 1x1 convolution mixes channels, which come before the places of a map
    seen = received[-1]
    return _flat(seen.movedim(1, -1) if isinstance(head, nn.Conv2d) else seen, network), answer


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return tuple(module.kernel_size) == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _without_head(network: nn.Module, images: Tensor) -> Any:
    """Return the output of a network without a single head; for timm's networks, their features."""
    if any(isinstance(module, NoHead) for module in network.modules()):
        return network(images)
    tokens, pooled = (getattr(network, n, None) for n in ("forward_features", "forward_head"))
    if callable(tokens) and callable(pooled):
        return pooled(tokens(images), pre_logits=True)
    return network(images)


def _flat(seen: Any, network: nn.Module) -> Tensor:
    """Return features (B, ..., d) as (B, d): the mean over everything between."""
    if not isinstance(seen, Tensor) or seen.dim() < 2:
        raise _untold(network, f"it returns {type(seen).__name__} instead of rows of numbers")
    return seen.flatten(1, -2).mean(1) if seen.dim() > 2 else seen


def _untold(network: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"the features of {type(network).__name__} cannot be found: {reason}",
        where="its forward pass",
        fix=(
            "let the network end in one nn.Linear that computes the logits, or in features "
            "(B, d) without a head"
        ),
    )
