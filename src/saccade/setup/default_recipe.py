"""The default recipe of a run: it depends on the data, and on whether the run starts from
weights."""

from __future__ import annotations

import statistics

import numpy as np

from saccade import recipes
from saccade.config.layers import Layers
from saccade.data.images import decode
from saccade.data.sources import Source, train_split


def read(name: str) -> Layers:
    """Return the settings of a recipe; raises ConfigError if there is none of this name."""
    layers = Layers()
    layers.add_file(recipes.find(name).path)
    return layers


def fitting(name: str, num_images: int, side_px: int, *, from_weights: bool) -> Layers:
    """Return the settings of the recipe for ``num_images`` training images of typical short side
    ``side_px``, in a set called ``name``.
    """
    usual = recipes.default_for(name, num_images, side_px)
    if not from_weights:
        return read(usual)

    tuning = recipes.for_tuning(num_images)
    layers = read(tuning)
    # what the set is known for holds here, too: mirrored digits are none
    flip = recipes.find(usual).settings.get("augment", {}).get("flip")
    if flip is not None:
        layers.add({"augment": {"flip": flip}}, str(recipes.find(tuning).path))
    return layers


def fitting_source(source: Source, *, from_weights: bool) -> Layers:
    """Return the settings of the recipe that fits the training images of a source."""
    num_images = len(train_split(source))
    return fitting(source.name, num_images, typical_side(source), from_weights=from_weights)


def typical_side(source: Source) -> int:
    """Return the median short side, in pixels, of 15 images spread over the training split.

    224 if none is readable.
    """
    split = train_split(source)
    sides = []
    for i in np.linspace(0, len(split) - 1, min(15, len(split))).astype(int):
        try:
            sides.append(min(decode.size(split.read(int(i)))))
        except decode.BadImage:
            continue  # preflight reports it by name
    return int(statistics.median(sides)) if sides else 224
