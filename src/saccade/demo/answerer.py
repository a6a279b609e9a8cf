"""The model behind the demo: a trained network, or an exported file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.data.images.decode import Pixels
from saccade.errors import CheckpointError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.views import mean_logits


@dataclass(frozen=True, slots=True)
class Answerer:
    """A classifier, whatever computes it.

    ``name`` is shown to people. ``ask`` maps square inputs of the network, uint8 RGB (B, 3, S, S),
    to logits, float32 (B, C). ``ask_whole`` maps one picture of any size, uint8 RGB (H, W, 3), to
    logits (1, C), for a file that resizes it itself; it is None for all others.
    """

    name: str
    recipe: Recipe
    ask: Callable[[Tensor], Tensor]
    ask_whole: Callable[[Pixels], Tensor] | None = None

    @classmethod
    def of(cls, classifier: Classifier, name: str) -> Answerer:
        """Wrap a network; raises CheckpointError for an encoder, which has no classes."""
        recipe, network = classifier.recipe, classifier.network
        if not recipe.learned.answers:
            raise CheckpointError(
                "this encoder has no head, so it cannot predict classes",
                where=name,
                fix="train it on labelled images first: saccade train --init RUN --data IMAGES",
            )

        def ask(squares: Tensor) -> Tensor:
            with torch.inference_mode():
                return mean_logits(network, recipe.normalised(squares), recipe.eval_views)

        return cls(name, recipe, ask)

    def square(self, pixels: Pixels) -> Tensor:
        """Return a picture, uint8 RGB (H, W, 3), as the input of the network: uint8 (3, S, S)."""
        return self.recipe.framing.square(pixels, self.recipe.eval_side)

    def of_picture(self, pixels: Pixels) -> Tensor:
        """Return the probabilities (1, C) for a picture, uint8 RGB (H, W, 3); raises as below."""
        if self.ask_whole is None:
            return self.of_squares(self.square(pixels)[None])
        return self._probabilities(self.ask_whole(pixels))

    def of_squares(self, squares: Tensor) -> Tensor:
        """Return the probabilities (B, C) for square inputs, uint8 RGB (B, 3, S, S).

        Raises CheckpointError if an answer is not a number.
        """
        return self._probabilities(self.ask(squares))

    def _probabilities(self, logits: Tensor) -> Tensor:
        shares = self.recipe.learned.probabilities(logits.float())
        if not bool(torch.isfinite(shares).all()):
            raise CheckpointError(
                "the network's output contains NaN or infinity",
                where=self.name,
                fix="use an earlier checkpoint",
            )
        return shares
