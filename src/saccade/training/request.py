"""From what the user typed to one configuration: files, recipes, model names, flags, in that order."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saccade import recipes
from saccade.config import Config, Layers
from saccade.config_optim import OptimizerSection
from saccade.data import images
from saccade.data.sources import Source, open_source, train_split
from saccade.errors import ConfigError
from saccade.models import find, registry
from saccade.training import optim


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: positional words, flags by dotted field name, and ``--set`` assignments."""

    words: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    sets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """The configuration, the opened source, and whether the user chose the batch."""

    config: Config
    source: Source
    explicit_batch: bool


def compose(request: Request) -> Composed:
    """Merge everything into one configuration; raises ConfigError or DataError.

    A word is looked up as a YAML file, then as a recipe, then as a model. Where neither file nor recipe is named, the
    recipe that fits the data is the base.
    """
    named, asked, based = _layers(request)
    final = _stack(named, asked).resolve()
    source = open_source(final.data.train, final.data.labels)
    base = Layers()
    if not based:
        recipe = recipes.find(_default_recipe(source))
        base.add_file(recipe.path)
    layers = _stack(base, named, asked)
    config = layers.resolve()
    if request.flags.get("lr") is not None:
        config = _with_rate(config, float(request.flags["lr"]))
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": _model(config.model.name)})})
    return Composed(config, source, layers.origin("batch.global") not in ("", *map(str, recipes.paths())))


def preview(request: Request) -> Config:
    """Return the settings as far as they are known before any data is opened; raises ConfigError."""
    return _stack(*_layers(request)[:2]).resolve()


def settings(request: Request) -> Config:
    """Merge a recipe or a YAML file with flags and assignments, opening no data; raises ConfigError."""
    for word in request.words:
        if not _add_word(Layers(), word):
            raise ConfigError(
                f"'{word}' is a model, and a model alone has no settings", where="the command line",
                fix="name a recipe: see `saccade recipes`",
            )  # fmt: skip
    return preview(request)


def _layers(request: Request) -> tuple[Layers, Layers, bool]:
    """Return what the words say, what flags and ``--set`` say, and whether a word is a whole recipe."""
    named = Layers()
    based = False
    for word in request.words:
        based |= _add_word(named, word)
    asked = Layers()
    asked.add(_nested({n: v for n, v in request.flags.items() if v is not None and n != "lr"}), "the command line")
    for assignment in request.sets:
        asked.set(assignment)
    return named, asked, based


def _stack(*layers: Layers) -> Layers:
    total = Layers()
    for layer in layers:
        total.merge(layer)
    return total


def _add_word(layers: Layers, word: str) -> bool:
    """Merge a positional word; returns whether it is a whole recipe rather than just a model."""
    if Path(word).suffix in (".yaml", ".yml") or Path(word).is_file():
        layers.add_file(Path(word))
        return True
    if word in recipes.names():
        layers.add_file(recipes.find(word).path)
        return True
    if not registry.is_known(word) and not word.startswith("custom:"):
        raise ConfigError(
            f"'{word}' is neither a YAML file, nor a recipe, nor a model",
            where="the command line",
            fix="see `saccade recipes` and `saccade models`",
        )
    layers.add({"model": {"name": word}}, "the command line")
    return False


def _model(name: str) -> str:
    return name if name.startswith("custom:") else find(name).name


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        inner = tree
        *sections, last = name.split(".")
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree


def _default_recipe(source: Source) -> str:
    split = train_split(source)
    return recipes.default_for(source.name, len(split), typical_side(source))


def typical_side(source: Source) -> int:
    """Return the median short side, in pixels, of 15 images spread over the training split; 224 if none is readable."""
    split = train_split(source)
    sides = []
    for i in np.linspace(0, len(split) - 1, min(15, len(split))).astype(int):
        try:
            sides.append(min(images.size(split.read(int(i)))))
        except images.BadImage:
            continue  # preflight reports it by name
    return int(statistics.median(sides)) if sides else 224


def _with_rate(config: Config, lr: float) -> Config:
    """Apply ``--lr``: the effective rate of the main group, never scaled; Muon's other rate keeps its proportion."""
    section = config.optimizer
    update: dict[str, Any] = {"lr": repr(lr)}
    if section.name == "muon":
        before, _ = optim.peak(section, config.batch.global_)
        rest, _ = optim.rest_peak(section, config.batch.global_)
        update["rest_lr"] = repr(rest * lr / before) if before else section.rest_lr
    checked = OptimizerSection.model_validate(section.model_dump() | update)
    return config.model_copy(update={"optimizer": checked})
