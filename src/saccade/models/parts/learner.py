"""The networks of training without labels: an encoder, and the modules that only training needs."""

from __future__ import annotations

from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.parts.embedding import NoHead, head_name
from saccade.models.parts.layers import initialise


class Learner(nn.Module):
    """An ``encoder`` and the modules around it: projectors, decoders, teachers.

    The encoder has no head: it maps images (B, 3, S, S) to features (B, d). All state that a resume
    needs is a parameter or a buffer of these modules; a teacher's parameters need no gradient. In
    evaluation mode ``forward`` changes nothing.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, d) of normalised images (B, 3, S, S)."""
        answer = self.encoder(images)
        # auxiliary heads answer in training mode; the main one comes first
        return answer[0] if isinstance(answer, tuple | list) else answer

    def project(self, features: Tensor) -> Tensor:
        """Return the input of the loss for features (B, d), as (B, p); by default the features."""
        return features

    def start(self) -> None:
        """Initialise from the encoder: a teacher becomes its copy.

        Called once in a run, after initial weights are loaded.
        """


def headless(network: nn.Module) -> tuple[nn.Module, int]:
    """Take the last linear layer out of a network, in place; return it and the features' width.

    Raises ConfigError where there is no such layer.
    """
    name = head_name(network)
    head = network.get_submodule(name) if name else None
    if isinstance(head, nn.Linear):
        width = head.in_features
    elif isinstance(head, nn.Conv2d):
        width = head.in_channels
    else:
        raise ConfigError(
            f"{type(network).__name__} does not end in a linear layer, so its features are unknown",
            where="--model",
            fix=(
                "use a network whose last layer is an nn.Linear; `saccade models` lists "
                "Saccade's networks"
            ),
        )
    network.set_submodule(name, NoHead())
    return network, width


def draw(module: nn.Module, seed: int, place: str) -> None:
    """Set the parameters of a module of a learner, called ``place`` there, from the seed."""
    initialise(module, seed, None, place)
