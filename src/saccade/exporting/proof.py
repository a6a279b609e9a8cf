"""The check of an exported file: its answers beside the classifier's, on real images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from saccade.data.images import decode
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.errors import ExportError
from saccade.evaluation import passes
from saccade.evaluation.classifier import Classifier
from saccade.exporting.answers import Ask
from saccade.exporting.outputs import Outputs
from saccade.exporting.own import Own, outputs_of, spread
from saccade.exporting.whole import Input
from saccade.log import Log
from saccade.objectives.objective import Result

FLOAT_LIMIT = 1e-3
"""Largest difference of a logit, as a share of the logits' standard deviation."""

IMAGE_DROP = 0.01
"""Largest drop of the primary figure if the file resizes images itself: one in a hundred."""

IMAGE_FEATURES = 0.005
"""Largest mean difference of features if the file resizes images itself, as a share of their
standard deviation.
"""

BATCHES = (1, 3, passes.CELL)
TIMED_BATCHES = (1, 32)
MOST_TIMED, FEWEST_TIMED, TIMED_SECONDS = 15, 3, 5.0
"""Number of timed turns at each batch size: the first, or down to the second if the turns take
longer than the third.
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a comparison: the figures of both, and their distance.

    ``difference`` is the largest difference of an output, as a share of the standard deviation of
    all outputs of the network; ``mean_difference`` is the mean one. ``changed`` counts the images
    with another best class, None for an encoder. ``images`` of ``of`` images of the split were
    used.
    """

    own: Result
    exported: Result
    difference: float
    changed: int | None
    split: str
    images: int
    of: int
    mean_difference: float = 0.0
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        figures: dict[str, Any] = {"mean_difference_of_std": self.mean_difference}
        if self.changed is not None:
            figures = {
                "classifier": self.own.to_json(),
                "exported": self.exported.to_json(),
                "other_best_class": self.changed,
            }
        return {
            "split": self.split,
            "images": self.images,
            "of_images": self.of,
            "largest_difference_of_std": self.difference,
            **figures,
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True, slots=True)
class Exam:
    """The questions to an exported file: the images of a split, in its input format ``given``.

    ``own`` holds the network's own answers, in float32 on the CPU; they are computed once for all
    files. ``limit`` bounds the difference of an output from the network's, ``batch_limit`` its
    difference between batch sizes, both as a share of the outputs' standard deviation. ``advice``
    is what to do about a file that answers otherwise.
    """

    classifier: Classifier
    given: Input
    split: Split
    readers: Readers
    own: Own
    limit: float = FLOAT_LIMIT
    batch_limit: float = FLOAT_LIMIT
    advice: str = "use another --format, and report this network"

    def of(self, ask: Ask) -> Proof:
        """Ask a file about every image that the classifier answered.

        Raises ExportError where the file answers in another shape, or depends on the batch.
        """
        outputs, judged = Outputs.of(self.classifier.recipe), self.own.split
        if self.given != "image":
            self._require_any_batch(ask)
        with Log().progress("proof", len(judged)) as bar:
            exported = self._answers(ask, lambda done: bar.update(done, ""))
        if not bool(torch.isfinite(exported).all()):
            raise ExportError(
                "the exported file returns NaN or infinity", fix="use another --format"
            )

        own = self.own.result.logits
        apart = (own - exported).abs() / spread(own)
        changed = int((own.argmax(1) != exported.argmax(1)).sum())
        return Proof(
            self.own.result,
            outputs.judged(exported, judged),
            difference=float(apart.max()),
            mean_difference=float(apart.mean()),
            changed=None if outputs.are_features else changed,
            split=judged.name,
            images=len(judged),
            of=len(self.split),
            milliseconds=self._timed(ask),
        )

    def _answers(self, ask: Ask, poll: Callable[[int], None]) -> Tensor:
        """Return the file's outputs of every image, float32 (n, k)."""
        recipe, judged = self.classifier.recipe, self.own.split
        if self.given != "image":
            return passes.looked_at(
                self.classifier.network,
                recipe,
                judged,
                self.readers,
                ask=lambda images: self._exported(ask, images),
                poll=poll,
            )

        rows = []
        for i in range(len(judged)):
            pixels = decode.decode(judged.read(i), exif=recipe.exif)
            rows.append(ask(torch.from_numpy(pixels)[None])[0])
            poll(i + 1)
        return torch.stack(rows)

    def _exported(self, ask: Ask, images: Tensor) -> Tensor:
        """Return the file's outputs, (B, k), of images, uint8 (B, 3, S, S)."""
        if self.given == "float":
            found = ask(self.classifier.recipe.normalised(images))
        else:
            found = ask(images.permute(0, 2, 3, 1))
        if found.shape[0] != images.shape[0] or found.ndim != 2:
            raise ExportError(
                f"the file answers {tuple(found.shape)} for {images.shape[0]} images",
                fix="report this network",
            )
        return found

    def _require_any_batch(self, ask: Ask) -> None:
        """Raise ExportError if the file's outputs of an image depend on its batch."""
        # the last cell of a small split is padded
        cells = passes.cells(self.classifier.recipe, self.own.few, self.readers)
        images = next(iter(cells)).images
        whole = self._exported(ask, images)
        for size in BATCHES:
            part = self._exported(ask, images[:size])
            apart = float((part - whole[:size]).abs().max() / spread(whole))
            if apart > self.batch_limit:
                name = Outputs.of(self.classifier.recipe).name
                raise ExportError(
                    f"the file answers otherwise in a batch of {size}: {name} differ by "
                    f"{apart:.2g} of their standard deviation",
                    fix="report this network",
                )

    def _timed(self, ask: Ask) -> dict[str, dict[str, float]]:
        """Return the median milliseconds of both at batch 1 and 32, measured in turns, and the
        number of turns.
        """
        side, found = self.classifier.recipe.eval_side, {}
        for size in TIMED_BATCHES if self.given != "image" else (1,):
            images = torch.zeros(size, 3, side, side, dtype=torch.uint8)
            ours: list[float] = []
            theirs: list[float] = []
            until = time.perf_counter() + TIMED_SECONDS

            while len(ours) < MOST_TIMED and (
                len(ours) < FEWEST_TIMED or time.perf_counter() < until
            ):
                begun = time.perf_counter()
                with torch.inference_mode():
                    outputs_of(self.classifier, images)
                ours.append(time.perf_counter() - begun)
                self._exported(ask, images)
                theirs.append(ask.seconds[-1])

            found[str(size)] = {
                "torch": round(1e3 * median(ours), 3),
                "exported": round(1e3 * median(theirs), 3),
                "n": len(ours),
            }
        return found


def require_said(said: str, wanted: Mapping[str, Any], noun: str = "classifier") -> None:
    """Raise ExportError if a file does not say of itself what its network, the ``noun``, is.

    ``said`` is JSON that was read from the file; ``wanted`` is empty if such files say nothing.
    """
    found = json.loads(said) if wanted else {}
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise ExportError(
            f"the exported file describes another {noun}: its '{differing[0]}' is not that of "
            f"the {noun}",
            fix="nothing was written; use another --format, and report this network",
        )


def require_equal(proof: Proof, exam: Exam) -> None:
    """Raise ExportError if a file of floats does not answer as its network does.

    A file that resizes images itself may differ by a grey level here and there: for it only the
    primary figure is compared, or the mean difference of features.
    """
    outputs = Outputs.of(exam.classifier.recipe)
    limit, resizes = exam.limit, exam.given == "image"
    figures, largest = "", proof.difference
    if outputs.are_features:
        if resizes:
            limit, largest = IMAGE_FEATURES, proof.mean_difference
        is_well = largest <= limit
    else:
        primary = outputs.objective.primary
        before, after = (primary.score(one.figures) for one in (proof.own, proof.exported))
        is_well = after >= before - IMAGE_DROP if resizes else largest <= limit
        figures = (
            f"{primary.title} {primary.shown(proof.exported.figures)} instead of "
            f"{primary.shown(proof.own.figures)}, "
        )

    if not is_well:
        how = "in the mean" if outputs.are_features and resizes else "by up to"
        raise ExportError(
            f"the exported file differs from the {outputs.noun}: {figures}{outputs.name} of "
            f"{proof.images:,} images differ {how} {largest:.2g} of their standard deviation "
            f"({limit:g} is allowed)",
            fix=f"nothing was written; {exam.advice}",
        )
