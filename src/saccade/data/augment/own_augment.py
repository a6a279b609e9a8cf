"""The user's own augmentation: a function of an image and a generator."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saccade import rng
from saccade.errors import ConfigError, SaccadeError
from saccade.rng import Purpose

Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class OwnAugment:
    """A user's function and the seed of the run; ``called`` is its name in messages.

    The function gets an image, uint8 (H, W, 3), and a generator, and returns an image of the same
    form. It runs after crop, flip, rotation and our colour operations, and before the image goes to
    the device, where it is erased, mixed and normalised. Several reading threads call it at the
    same time and in any order, so each image has its own generator.
    """

    function: Augment
    called: str
    seed: int

    def change_all(
        self,
        squares: Sequence[Tensor],
        drawn: NDArray[np.int64],
        places: Iterable[int],
        describe: Callable[[int], str],
    ) -> None:
        """Change the images at some places of a batch, each as ``change`` does.

        ``drawn`` is (epoch, sample) of all images of the batch, shape (2, B).
        """
        for place in places:
            epoch, sample = drawn[:, place].tolist()
            self.change(squares[place], epoch, sample, describe)

    def change(
        self, square: Tensor, epoch: int, sample: int, describe: Callable[[int], str]
    ) -> None:
        """Change an image of a batch in place: uint8 (1, 3, S, S) in channels_last order.

        Raises ConfigError where the function fails or returns something else; ``describe`` gives
        the name of a sample.
        """
        pixels = square[0].permute(1, 2, 0).numpy()
        try:
            # a copy: the memory of a batch is used again
            changed = self.function(pixels.copy(), self.generator(epoch, sample))
        except SaccadeError:
            raise
        except Exception as error:  # any code may run here
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}, image {describe(sample)}"
            raise self._error(f"failed: {type(error).__name__}: {error}", where) from error

        if not _is_like(changed, pixels):
            what = f"returned {_form(changed)} for an image that is uint8 {pixels.shape}"
            raise self._error(what, f"image {describe(sample)}")
        pixels[:] = changed

    def generator(self, epoch: int, sample: int) -> np.random.Generator:
        """Return the generator of an image in an epoch: a pure function of the two and the seed."""
        # Philox counts up from its key, as our own draws do: no state goes from image to image
        key = rng.key(self.seed, Purpose.OWN_AUGMENT, epoch, sample)
        return np.random.Generator(np.random.Philox(key=int(key)))

    def _error(self, what: str, where: str) -> ConfigError:
        return ConfigError(
            f"the augmentation {self.called} {what}",
            where=where,
            fix="it gets an image, uint8 (H, W, 3), and a numpy Generator, and returns an image of "
            "the same shape and type",
            finding="augment-fails",
        )


def _is_like(changed: Any, pixels: NDArray[np.uint8]) -> bool:
    """Tell whether something is an array of the form of an image, uint8 (H, W, 3)."""
    return (
        isinstance(changed, np.ndarray)
        and changed.shape == pixels.shape
        and changed.dtype == np.uint8
    )


def _form(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}" if value is not None else "None"
