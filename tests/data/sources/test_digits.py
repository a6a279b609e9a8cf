"""The digits that are built in: always the same images in the same order."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.data.images import decode
from saccade.data.sources import open_source


@pytest.mark.spec(39)
def test_digits_are_the_1797_images_in_their_own_order() -> None:
    source = open_source("digits")
    train, test = source.splits["train"], source.splits["test"]
    assert (source.name, len(train), len(test)) == ("digits", 1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    rows = [
        (int(name[:5]), split.labels[i], split.read(i))
        for split in (train, test)
        for i, name in enumerate(split.names)
    ]
    rows.sort(key=lambda row: row[0])
    assert [row[0] for row in rows] == list(range(1797))
    assert [int(row[1]) for row in rows[:12]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.bincount([row[1] for row in rows]).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    pixels = decode.decode(rows[0][2])
    assert pixels.shape == (8, 8, 3) and pixels[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert max(decode.decode(row[2]).max() for row in rows) == 255
    assert test.describe(0) == "test/0/01445.pgm in digits"


def test_digits_never_change() -> None:
    source = open_source("digits")
    found = {name: split.fingerprint[:16] for name, split in source.splits.items()}
    assert found == {"train": "51ff6e1eb775bc32", "test": "17940250a3e29298"}
