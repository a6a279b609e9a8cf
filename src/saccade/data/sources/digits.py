"""The built-in digits: 1,797 handwritten digits of 8x8 pixels, written by 43 people.

*Source:* Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, CC BY 4.0; its test set in the file's order. Each line of ``digits.csv.gz``
holds 64 gray values from 0 to 16, row by row, and the digit.
"""

from __future__ import annotations

import gzip
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np

from saccade.data.sources.encode import GRAY, netpbm_header
from saccade.data.sources.split import Source, assemble

NAME = "digits"
NUM_TRAIN = 1437
"""The first rows are for training; the last 360, by other writers, for the test."""

SIDE = 8
MAX_GRAY = 16


def open_digits() -> Source:
    """Return the digits with the splits ``train`` (1,437) and ``test`` (360).

    Each image is an 8-bit PGM file.
    """
    text = gzip.decompress(files(__package__).joinpath("digits.csv.gz").read_bytes()).decode()
    rows = np.array([line.split(",") for line in text.splitlines()], np.int64)
    gray = np.rint(rows[:, :-1] * 255 / MAX_GRAY).astype(np.uint8)
    header = netpbm_header(SIDE, SIDE, GRAY)
    records = [header + pixels.tobytes() for pixels in gray]
    paths = [
        f"{'train' if row < NUM_TRAIN else 'test'}/{digit}/{row:05d}.pgm"
        for row, digit in enumerate(rows[:, -1])
    ]
    sizes = np.array([len(record) for record in records], np.int64)
    return assemble(
        Path(NAME),
        paths,
        sizes,
        folders=(),
        read=records.__getitem__,
        ignored=Counter(),
        stamp=NAME,
    )
