"""Pretraining: whether a run is one, and the method for a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saccade import recipes
from saccade.config.schema import Config
from saccade.errors import ConfigError, UsageError
from saccade.models import find, is_foreign

OF_FAMILY = {"vit": "mae", "swin": "simmim"}
"""The method of a family of networks; every other network learns by ``JOINT``."""

JOINT = "simclr"
METHODS = (JOINT, "dino", "mae", "simmim")
"""Methods that the command line can name; each has a recipe of the same name."""


def methods_in(words: Sequence[str]) -> list[str]:
    """Return the methods among the words of a command.

    Raises ConfigError if there are two, or if a recipe uses another one.
    """
    found = [word for word in words if word in METHODS and not Path(word).is_file()]
    if not found:
        return []
    for word in words:
        known = word in recipes.names() and not Path(word).is_file()
        other = recipes.find(word).settings.get("pretrain", {}).get("method", "") if known else ""
        if known and other != found[0]:
            what = f"uses the method {other}" if other else "learns from labels"
            raise ConfigError(
                f"'{found[0]}' is a method of pretraining, but the recipe '{word}' {what}",
                where="the command line",
                fix=f"remove one of them; a model can be added: saccade pretrain {found[0]} MODEL",
            )
    return found


def is_meant(verb: bool | None, wanted: Config, *, is_whole: bool) -> bool:
    """Tell whether a run learns without labels, by its settings so far.

    ``verb`` says whether the verb is one of pretraining, None if both are possible; ``is_whole``
    that the settings are a whole recipe. Raises UsageError or ConfigError if the two contradict
    each other.
    """
    method = wanted.pretrain.method
    if method != "none" and verb is False:
        raise UsageError(
            f"these settings are for pretraining without labels ({method})",
            where="pretrain.method",
            fix="use `saccade pretrain` with the same arguments",
        )
    if method == "none" and verb and is_whole:
        raise ConfigError(
            f"the recipe {wanted.recipe or 'you named'} learns from labels",
            where="pretrain.method",
            fix="name a method instead, such as: saccade pretrain simclr resnet18",
        )
    return bool(verb) or method != "none"


def method_for(model: str) -> str:
    """Return the method for a network of this name; "" is any."""
    if not model or model.startswith("custom:") or is_foreign(model):
        return JOINT
    return OF_FAMILY.get(find(model).family, JOINT)
