"""8 bits for a trained classifier, without further training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saccade.data.sources import Split
from saccade.errors import ExportError, UsageError
from saccade.exporting import calibration, int8_file
from saccade.exporting.calibration import Ranges
from saccade.exporting.drop import Drop
from saccade.exporting.proof import Exam, Proof

NAME, FILE = "int8", "model-int8.onnx"

BATCH_LIMIT = 0.5
"""Largest difference of a logit between batch sizes, as a fraction of the logits' standard
deviation: rounding of a sum sometimes decides between two neighbouring 8-bit values.
"""

CALIBRATION, MAX_DROP = 512, 1.0


@dataclass(frozen=True, slots=True)
class Int8:
    """The options of an 8-bit file.

    ``images`` is the number of calibration images, ``max_drop`` the largest allowed fall of the
    primary figure in percentage points. Weights have one scale per output channel, or one per
    tensor.
    """

    train: Split
    images: int = CALIBRATION
    max_drop: float = MAX_DROP
    per_channel: bool = True

    def made(self, data: bytes, exam: Exam) -> tuple[bytes, dict[str, Any]]:
        """Return a float ONNX file in 8 bits, and the receipt of how it was made.

        Raises ExportError, UsageError and DataError.
        """
        recipe, readers = exam.classifier.recipe, exam.readers
        train = recipe.learned.matched(self.train)
        chosen = calibration.drawn(train, exam.split, self.images)

        def measured(model: Any, names: list[str]) -> Ranges:
            fed = calibration.fed(recipe, chosen, readers, exam.given)
            return calibration.ranges(model, names, fed)

        made = int8_file.int8_bytes(data, measured, per_channel=self.per_channel)
        return made, {
            "calibration": {
                "split": train.name,
                "images": len(chosen),
                "of_images": len(train),
                "fingerprint": chosen.fingerprint,
                "ranges": "smallest and largest number of 99 % of the images",
            },
            "per_channel": self.per_channel,
            **int8_file.read_back(made, len(data)),
        }

    def judged(self, proof: Proof, exam: Exam) -> dict[str, Any]:
        """Return the loss of the classifier, as JSON; raises ExportError if it is too large."""
        drop = Drop.of(proof, exam.classifier.recipe.learned)
        if drop.points > self.max_drop:
            advice = "train in 8 bits: saccade quantize RUN; or allow more with --max-drop"
            if not self.per_channel:
                advice = (
                    "remove --per-tensor: one scale per channel is more accurate; or equalise the "
                    "channels and train: saccade quantize RUN --scheme power-of-two"
                )
            raise ExportError(
                f"in 8 bits the classifier loses {drop.shown} of {proof.images:,} images; "
                f"--max-drop allows {self.max_drop:g}",
                fix=f"nothing was written; {advice}",
            )
        return {**drop.to_json(), "max_drop": self.max_drop}


def refuse(formats: list[str], given: str) -> None:
    """Raise UsageError for a request that has no 8-bit form."""
    if "onnx" not in formats:
        raise UsageError(
            "--int8 works only with ONNX",
            where="--int8",
            fix="add onnx to --format, or remove --int8",
        )
    if given == "image":
        raise UsageError(
            "--int8 does not include resizing",
            where="--input image",
            fix="use --input uint8 or float with --int8",
        )
