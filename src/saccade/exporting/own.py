"""The answers of the network itself to the images on which its exported files are checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.errors import ExportError
from saccade.evaluation import passes
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.features import sample
from saccade.exporting.outputs import Outputs
from saccade.log import Log
from saccade.objectives.objective import Result

LONGEST_SECONDS = 60.0
"""Longest time of the classifier on the images; a file takes about as long again."""

FEWEST = 1000
"""Smallest number of images if the whole split would take longer than that."""


@dataclass(frozen=True, slots=True)
class Own:
    """The classifier's own answers: computed once for any number of files.

    ``split`` holds the checked images, ``few`` at most about a cell of them; ``result`` has the
    logits or features, float32 (n, k), and the figures.
    """

    split: Split
    few: Split
    result: Result

    @classmethod
    def of(cls, classifier: Classifier, split: Split, readers: Readers) -> Own:
        """Evaluate a classifier, in float32 on the CPU, on the images of a split.

        If this would take longer than a minute, it uses about 1,000 images or more, from each class
        in proportion. Raises ExportError if an answer is NaN or infinite.
        """
        outputs = Outputs.of(classifier.recipe)
        split = outputs.matched(split)
        few = sample(split, passes.CELL)
        # one image of each of 1,000 classes would be ten times as many
        places = np.linspace(0, len(few) - 1, min(len(few), passes.CELL))
        few = few.at(places.round().astype(np.int64))

        # the first pass warms up
        answers(classifier, few, readers)
        begun = time.perf_counter()
        answers(classifier, few, readers)
        seconds = (time.perf_counter() - begun) / len(few)
        judged = sample(split, max(FEWEST, int(LONGEST_SECONDS / seconds)))

        with Log().progress(outputs.noun, len(judged)) as bar:
            found = answers(classifier, judged, readers, lambda done: bar.update(done, ""))
        if not bool(torch.isfinite(found).all()):
            raise ExportError(
                f"the {outputs.noun} itself answers NaN or infinity",
                fix="take weights from before they broke, such as --best",
            )
        return cls(judged, few, outputs.judged(found, judged))


def answers(
    classifier: Classifier,
    split: Split,
    readers: Readers,
    poll: Callable[[int], None] = lambda _done: None,
) -> Tensor:
    """Return the network's logits or features of every image, float32 (n, k)."""
    return passes.looked_at(
        classifier.network,
        classifier.recipe,
        split,
        readers,
        ask=lambda images: outputs_of(classifier, images),
        poll=poll,
    )


def outputs_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the logits or features, float32 (B, k), of images, uint8 (B, 3, S, S)."""
    recipe = classifier.recipe
    seen = recipe.normalised(images)
    return Outputs.of(recipe).asked(classifier.network, seen, recipe.eval_views)


def spread(outputs: Tensor) -> float:
    """Return the standard deviation of outputs (n, k); 1 if all of them are equal."""
    return float(outputs.std()) or 1.0
