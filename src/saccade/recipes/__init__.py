"""Recipes: one YAML file per claimed result, with its receipt.

And which one fits the data at hand.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config import plain_yaml
from saccade.errors import ConfigError

_FOLDER = Path(__file__).parent
WORDS = ("about", "source", "claims")
"""What a recipe says in words; everything else are settings."""

SMALL_IMAGE_PX = 64
FEW, SMALL_SET = 3_000, 200_000
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


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml"))


def paths() -> list[Path]:
    """Return the files of all recipes."""
    return [_FOLDER / f"{name}.yaml" for name in names()]


def find(name: str) -> RecipeFile:
    """Read a recipe by name; raises ConfigError with the nearest name."""
    path = _FOLDER / f"{name}.yaml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        raise ConfigError(
            f"there is no recipe '{name}'",
            fix=f"did you mean {near[0]}?" if near else "`saccade recipes`",
        )
    tree = plain_yaml.load(path.read_text(encoding="utf-8"))
    about, source, claims = (" ".join(str(tree.pop(word, "")).split()) for word in WORDS)
    return RecipeFile(name, path, about, tree, source, claims)


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
