"""The proof of an exported file: its answers beside the classifier's, on real images."""

from __future__ import annotations

import time
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
from saccade.evaluation.features import sample
from saccade.evaluation.views import mean_logits
from saccade.exporting.answers import Ask
from saccade.exporting.whole import Input
from saccade.log import Log
from saccade.objectives.objective import Result

FLOAT_LIMIT = 1e-3
"""Largest difference of a logit, as a share of the logits' standard deviation."""

IMAGE_DROP = 0.01
"""By so much may the primary figure fall where the file resizes images itself: one in a hundred."""

LONGEST_SECONDS = 120.0
FEWEST = 1000
"""So many images are judged at least where the whole split would take longer than that."""

BATCHES = (1, 3, passes.CELL)
TIMED, TIMED_BATCHES = 15, (1, 32)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared: figures of both, and how far they are apart.

    ``difference`` is the largest one of a logit, as a share of the standard deviation of all logits
    of the classifier; ``changed`` is how many images have another best class. ``images`` of ``of``
    images of the split were judged.
    """

    own: Result
    exported: Result
    difference: float
    changed: int
    split: str
    images: int
    of: int
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "split": self.split,
            "images": self.images,
            "of_images": self.of,
            "classifier": self.own.to_json(),
            "exported": self.exported.to_json(),
            "largest_difference_of_std": self.difference,
            "other_best_class": self.changed,
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True, slots=True)
class Exam:
    """What an exported file is asked: the images of a split, as ``given`` says it takes them.

    Of a split that takes longer than two minutes about 1,000 images or more are judged, of each
    class in proportion. The classifier computes in float32 on the CPU. ``batch_limit`` is how far
    the batch may move a logit, as a share of the logits' standard deviation.
    """

    classifier: Classifier
    given: Input
    split: Split
    readers: Readers
    batch_limit: float = FLOAT_LIMIT

    def of(self, ask: Ask) -> Proof:
        """Ask the classifier and a file of it about every image.

        Raises ExportError where the file answers in another shape, or depends on the batch.
        """
        objective = self.classifier.recipe.learned
        split = objective.matched(self.split)
        pairs = _Pairs(self.classifier, ask, self.given, self.batch_limit)
        some = _affordable(pairs, split, self.readers)

        with Log().progress("proof", len(some)) as bar:
            logits = pairs.of(some, self.readers, lambda done: bar.update(done, ""))
        own, exported = logits.unbind(1)
        if not bool(torch.isfinite(exported).all()):
            raise ExportError(
                "the exported file answers NaN or infinity", fix="choose another --format"
            )

        truth = objective.truth(some)
        return Proof(
            objective.judge(own.clone(), truth),
            objective.judge(exported.clone(), truth),
            difference=float((own - exported).abs().max() / own.std()),
            changed=int((own.argmax(1) != exported.argmax(1)).sum()),
            split=split.name,
            images=len(some),
            of=len(split),
            milliseconds=pairs.timed(),
        )


def require_equal(proof: Proof, exam: Exam) -> None:
    """Raise ExportError where a file of floats does not answer as its classifier does.

    A file that resizes images itself may differ by a grey level here and there: of it only the
    primary figure is asked.
    """
    primary = exam.classifier.recipe.learned.primary
    if exam.given == "image":
        before, after = (primary.score(one.figures) for one in (proof.own, proof.exported))
        is_well = after >= before - IMAGE_DROP
    else:
        is_well = proof.difference <= FLOAT_LIMIT
    if not is_well:
        raise ExportError(
            f"the exported file is another classifier: {primary.title} "
            f"{primary.shown(proof.exported.figures)} instead of "
            f"{primary.shown(proof.own.figures)} on {proof.images:,} images, logits differ by up "
            f"to {proof.difference:.2g} of their standard deviation ({FLOAT_LIMIT:g} is allowed)",
            fix="nothing was written; choose another --format, and report this network",
        )


@dataclass(slots=True)
class _Pairs:
    """Both answers to each image."""

    classifier: Classifier
    ask: Ask
    given: Input
    batch_limit: float

    def of(self, split: Split, readers: Readers, poll: Any = lambda _done: None) -> Tensor:
        """Return the logits of every image, float32 (n, 2, C): the classifier's and the file's."""
        if self.given == "image":
            return self._one_by_one(split, poll)
        flat = passes.looked_at(
            self.classifier.network,
            self.classifier.recipe,
            split,
            readers,
            ask=lambda images: torch.cat([self.own(images), self.exported(images)], 1),
            poll=poll,
        )
        return flat.view(len(flat), 2, -1)

    def own(self, images: Tensor) -> Tensor:
        """Return the classifier's logits of images, uint8 (B, 3, S, S)."""
        recipe = self.classifier.recipe
        inputs = recipe.normalised(images)
        return mean_logits(self.classifier.network, inputs, recipe.eval_views)

    def exported(self, images: Tensor) -> Tensor:
        """Return the file's logits of images, uint8 (B, 3, S, S)."""
        if self.given == "float":
            logits = self.ask(self.classifier.recipe.normalised(images))
        else:
            logits = self.ask(images.permute(0, 2, 3, 1))
        if logits.shape[0] != images.shape[0] or logits.ndim != 2:
            raise ExportError(
                f"the file answers {tuple(logits.shape)} for {images.shape[0]} images",
                fix="report this network",
            )
        return logits

    def require_any_batch(self, images: Tensor) -> None:
        """Raise ExportError where logits of images, uint8 (100, 3, S, S), depend on the batch."""
        whole = self.exported(images)
        for size in BATCHES:
            apart = float((self.exported(images[:size]) - whole[:size]).abs().max() / whole.std())
            if apart > self.batch_limit:
                raise ExportError(
                    f"the file answers otherwise in a batch of {size}: logits differ by "
                    f"{apart:.2g} of their standard deviation",
                    fix="report this network",
                )

    def timed(self) -> dict[str, dict[str, float]]:
        """Return the median milliseconds of both at batch 1 and 32, in turns."""
        recipe = self.classifier.recipe
        side = recipe.eval_side
        found = {}
        for size in TIMED_BATCHES if self.given != "image" else (1,):
            images = torch.zeros(size, 3, side, side, dtype=torch.uint8)
            ours, theirs = [], []
            for _ in range(TIMED):
                begun = time.perf_counter()
                with torch.inference_mode():
                    self.own(images)
                ours.append(time.perf_counter() - begun)
                self.exported(images)
                theirs.append(self.ask.seconds[-1])
            found[str(size)] = {
                "torch": round(1e3 * median(ours), 3),
                "exported": round(1e3 * median(theirs), 3),
            }
        return found

    def _one_by_one(self, split: Split, poll: Any) -> Tensor:
        recipe, rows = self.classifier.recipe, []
        with torch.inference_mode():
            for i in range(len(split)):
                pixels = decode.decode(split.read(i), exif=recipe.exif)
                square = recipe.framing.square(pixels, recipe.eval_side)[None]
                rows.append(
                    torch.stack([self.own(square)[0], self.ask(torch.from_numpy(pixels)[None])[0]])
                )
                poll(i + 1)
        return torch.stack(rows)


def _affordable(pairs: _Pairs, split: Split, readers: Readers) -> Split:
    """Return the split, or as many images of it as two minutes allow, at least 1,000."""
    few = sample(split, passes.CELL)
    pairs.of(few, readers)
    begun = time.perf_counter()
    pairs.of(few, readers)
    seconds = (time.perf_counter() - begun) / len(few)
    if pairs.given != "image":
        cell = next(iter(passes.cells(pairs.classifier.recipe, few, readers))).images
        pairs.require_any_batch(cell)
    return sample(split, max(FEWEST, int(LONGEST_SECONDS / seconds)))
