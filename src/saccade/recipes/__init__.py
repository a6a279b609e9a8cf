"""Recipes: a YAML file for each, and which one fits the data at hand.

Our own lie in this folder, most of them with a receipt. What was published elsewhere and not run
here lies in ``ported/``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config import plain_yaml
from saccade.errors import ConfigError

_FOLDER = Path(__file__).parent
PORTED = "ported"
"""The folder of recipes that were published elsewhere and not run here."""

WORDS = ("about", "source", "claims")
"""The texts of a recipe; everything else are settings."""

SMALL_IMAGE_PX = 64
FEW, SMALL_SET = 3_000, 200_000
FEW_TO_TUNE, SMALL_TO_TUNE = 1_000, 20_000
TUNING = ("finetune-few", "finetune-small", "finetune")
"""The recipes for runs that start from weights, for ever more images."""
OTHER_SIZE = "finetune-fixres"
"""The recipe for another image size of the same weights."""
LIKE_CIFAR = 20_000
"""So many small images fill batches of 1,000 often enough in an epoch."""


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """One recipe: what it is for.

    For a ported one the ``source`` and what it ``claims`` to have reached.
    """

    name: str
    path: Path
    about: str
    settings: dict[str, Any]
    source: str = ""
    claims: str = ""


def paths() -> list[Path]:
    """Return the files of all recipes, our own and ported ones, sorted by name."""
    files = [*_FOLDER.glob("*.yaml"), *(_FOLDER / PORTED).glob("*.yaml")]
    return sorted(files, key=lambda path: path.stem)


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return [path.stem for path in paths()]


def find(name: str) -> RecipeFile:
    """Read a recipe by name; raises ConfigError with the nearest name."""
    files = {path.stem: path for path in paths()}
    path = files.get(name)
    if path is None:
        near = difflib.get_close_matches(name, files, n=1)
        raise ConfigError(
            f"there is no recipe '{name}'",
            fix=f"did you mean {near[0]}?" if near else "`saccade recipes` lists them",
        )
    tree = plain_yaml.load(path.read_text(encoding="utf-8"))
    about, source, claims = (" ".join(str(tree.pop(word, "")).split()) for word in WORDS)
    return RecipeFile(name, path, about=about, settings=tree, source=source, claims=claims)


def default_for(data_name: str, num_images: int, side_px: int) -> str:
    """Return the recipe for data without one: by size of the set and typical short side of its
    images in pixels.
    """
    if data_name in ("digits", "mnist"):
        return data_name
    if side_px <= SMALL_IMAGE_PX:
        return "cifar10" if num_images >= LIKE_CIFAR else "small-images"
    if num_images < FEW:
        return "photos-few"
    return "photos-small" if num_images < SMALL_SET else "photos"


def for_tuning(num_images: int) -> str:
    """Return the recipe for a run that starts from weights, by the number of training images."""
    return TUNING[(num_images >= FEW_TO_TUNE) + (num_images >= SMALL_TO_TUNE)]
