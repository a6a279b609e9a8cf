"""The untrained network that weights are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.evaluation import passes
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import sample
from saccade.models import create_model
from saccade.models.parts.embedding import embed
from saccade.models.parts.running_statistics import averaged_anew
from saccade.models.parts.whitening import Whitening

FITTED = 200
"""Images that an untrained network is fitted to, where parts of it are."""


def count(network: nn.Module) -> int:
    """Return how many ``networks`` there are for one such as this."""
    return 1 + any(isinstance(part, _BatchNorm) for part in network.modules())


def networks(
    recipe: Recipe, train: Split, readers: Readers, *, device: torch.device
) -> list[nn.Module]:
    """Return the untrained networks of a recipe, in evaluation mode; the best one is the floor.

    The first one has its whitening layer fitted to some images of ``train``, a second one also the
    statistics of BatchNorm, if it has any. Either may look far worse than the other. Raises
    ConfigError for a network that is not registered.
    """
    network = create_model(
        recipe.model,
        num_classes=len(train.classes),
        image_size=recipe.image_size,
        strides=recipe.strides,
        patch_size=recipe.patch_size,
    )
    network = network.eval().to(device)
    few = sample(train, FITTED)

    def show(ask: Callable[[Tensor], Tensor]) -> None:
        passes.rows(network, recipe, few, readers, ask=ask, precision="fp32", device=device)

    if layers := [layer for layer in network.modules() if isinstance(layer, Whitening)]:
        seen: list[Tensor] = []

        def keep(images: Tensor) -> Tensor:
            seen.append(images)
            return images[:, 0, 0, :1]

        show(keep)
        for layer in layers:
            layer.fit(torch.cat(seen)[: len(few)])
    if count(network) == 1:
        return [network]

    plain = copy.deepcopy(network)
    with averaged_anew(network) as norms:

        def follow(images: Tensor) -> Tensor:
            # these alone: dropout would draw
            for norm in norms:
                norm.train()
            return embed(network, images)

        show(follow)
    return [plain, network]
