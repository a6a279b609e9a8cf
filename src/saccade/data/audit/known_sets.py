"""Well-known data sets: recognising one by its classes, and its number of images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ARCHIVES = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
}
"""MD5 of archives that are commonly passed on. *Source:* image-net.org, ILSVRC2012 download page.
"""

_IMAGENETTE = (
    "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 "
    "n03888257"
)
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


class Known(NamedTuple):
    """A well-known set: some of its class names, and its numbers.

    ``marks`` are class names, ``side`` is the width and height of all images in pixels or 0,
    ``images`` the number of images by the name of the split. In the splits of ``even`` all classes
    have equally many.
    """

    name: str
    marks: frozenset[str]
    num_classes: int
    side: int
    images: dict[str, int]
    even: tuple[str, ...] = ()

    def uneven(
        self, split: str, classes: Sequence[str], counts: NDArray[np.int64]
    ) -> tuple[int, str] | None:
        """Return how many classes of a split have another size than in this set, and which.

        ``counts`` is int64 (classes,), the images of each. None where all sizes are right or may
        be any. Labels that were mixed up leave the number of all images as it was.
        """
        if split not in self.even:
            return None
        wanted = self.images[split] // self.num_classes
        wrong = np.flatnonzero(counts != wanted).tolist()
        if not wrong:
            return None
        first = ", ".join(f"'{classes[i]}' has {counts[i]:,}" for i in wrong[:3])
        more = f" and {len(wrong) - 3:,} more differ" * (len(wrong) > 3)
        return len(wrong), f"{self.name} has {wanted:,} images in each class; {first}{more}"


_CIFAR100 = "apple beaver castle dolphin keyboard lion maple_tree orchid wolf"


def _known(
    name: str, marks: str, num_classes: int, side: int, train: int, test: int, *tests: str
) -> Known:
    return Known(
        name,
        frozenset(marks.split()),
        num_classes,
        side=side,
        images={"train": train} | dict.fromkeys(tests, test),
    )


KNOWN = (
    _known(
        "ILSVRC2012", _IMAGENETTE, 1000, 0, 1_281_167, 50_000, "val", "validation", "valid"
    )._replace(even=("val", "validation", "valid")),
    _known("Imagenette", _IMAGENETTE, 10, 0, 9_469, 3_925, "val", "validation", "valid", "test"),
    _known("CIFAR-10", _CIFAR10, 10, 32, 50_000, 10_000, "test", "val")._replace(
        even=("train", "test", "val")
    ),
    _known("CIFAR-100", _CIFAR100, 100, 32, 50_000, 10_000, "test", "val")._replace(
        even=("train", "test", "val")
    ),
    _known("MNIST", "0 1 2 3 4 5 6 7 8 9", 10, 28, 60_000, 10_000, "test", "val"),
)
"""*Source:* image-net.org; github.com/fastai/imagenette; Krizhevsky 2009; LeCun et al. 1998."""


def recognise(classes: Collection[str], smallest: int, largest: int) -> Known | None:
    """Return the set that this looks like, by class names and image sides in pixels.

    ``smallest`` and ``largest`` are the sides of all images. A set with nearly half its classes
    missing is still recognised, so that the missing ones can be named.
    """
    for known in KNOWN:
        # more than half of the marks, as some classes may be what is missing
        marked = 2 * len(known.marks & set(classes)) > len(known.marks)
        fits = known.num_classes // 2 < len(classes) <= known.num_classes
        if marked and fits and (not known.side or smallest == largest == known.side):
            return known
    return None
