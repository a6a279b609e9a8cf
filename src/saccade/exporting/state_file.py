"""Weights only, under the names of torchvision if it has the network."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from saccade.evaluation.classifier import Classifier
from saccade.exporting.outputs import Outputs
from saccade.models import load_weights
from saccade.models.parts.network import Network
from saccade.models.weights.loading import foreign_state


def state_bytes(network: nn.Module) -> tuple[bytes, str]:
    """Return a file for ``torch.load(..., weights_only=True)``, and whose names it uses."""
    state, names = network.state_dict(), "its own"
    if isinstance(network, Network) and network.foreign_names("torchvision"):
        state, names = foreign_state(network, "torchvision"), "torchvision"
    out = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, out)
    return out.getvalue(), names


@dataclass(slots=True)
class _Again:
    """A network whose weights were read from the file: it takes the input of a network."""

    network: nn.Module
    outputs: Outputs
    views: int
    seconds: list[float] = field(default_factory=list)
    said: str = ""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits or features, float32 (B, k), of normalised images, float32 (B, 3, S, S)."""
        begun = time.perf_counter()
        with torch.inference_mode():
            found = self.outputs.asked(self.network, images, self.views)
        self.seconds.append(time.perf_counter() - begun)
        return found


@contextmanager
def read_back(classifier: Classifier, path: Path) -> Iterator[_Again]:
    """Load the file into a network without weights; raises CheckpointError."""
    network = copy.deepcopy(classifier.network)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    load_weights(network, path, strict=True)
    recipe = classifier.recipe
    yield _Again(network.eval(), Outputs.of(recipe), recipe.eval_views)
