"""From the user's words to one configuration: files, recipes, model names, flags, in that order."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade import objectives, recipes
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.sources import KNOWN, Source
from saccade.data.sources.handed import is_handed
from saccade.data.sources.official import OFFICIAL
from saccade.errors import ConfigError
from saccade.models import find, is_foreign
from saccade.models.parts import registry
from saccade.optim import methods, optimizers
from saccade.setup import default_recipe, pretraining
from saccade.setup.ancestor import JUDGED_AT, PATCHED, seek
from saccade.setup.image_side import side_for
from saccade.training.datasets import open_training, open_unlabelled_training

YAML_SUFFIXES = (".yaml", ".yml")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".xz", ".tgz")
PLENTY = 64
"""Side of an image, in pixels, that every network for photographs can learn from: five strides of
two leave maps of 2 x 2.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The request: positional words, flags by dotted field name, and ``--set`` assignments.

    ``data`` and ``val`` are open sources; the flags then name them only for the records. ``out`` is
    the run folder, if known. ``pretrains`` says whether the verb is one of self-supervised
    pretraining; None if both are possible.
    """

    words: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    sets: Sequence[str] = ()
    data: Source | None = None
    val: Source | None = None
    out: str = ""
    pretrains: bool | None = None


@dataclass(frozen=True, slots=True)
class Composed:
    """The configuration, the opened source, and whether the user chose the batch.

    ``val_source`` is an open validation source; None: as in the configuration. ``chosen`` are the
    settings that the user named in words, flags or files.
    """

    config: Config
    source: Source
    explicit_batch: bool
    val_source: Source | None = None
    chosen: tuple[str, ...] = ()


def compose(request: Request) -> Composed:
    """Merge everything into one configuration; raises ConfigError or DataError.

    A word is looked up as a YAML file, then as a recipe, then as a model. If neither file nor
    recipe is named, the recipe that fits the data is the base: one for fine-tuning if the run
    starts from weights. A method of pretraining also names a base. The settings of the weights
    override that base, and the user's settings override both.
    """
    named, asked, based = _layers(request)
    wanted = _stack(_method(request), named, asked).resolve()
    if pretraining.is_meant(request.pretrains, wanted, is_whole=based):
        source, base = _unlabelled(request, wanted, asked, based)
    else:
        source, base = request.data or open_training(wanted), Layers()
        if not based:
            base = default_recipe.fitting_source(source, from_weights=bool(wanted.model.init))
    layers = _followed(base, [named, asked], request)
    ours = {str(path) for path in recipes.paths()}
    chosen = tuple(name for name in layers.names() if layers.origin(name) not in ours)
    config = _settled(layers, request)
    if config.data.processes and is_handed(source.where):
        raise ConfigError(
            "reading processes open the data by its path, but this data was passed from Python",
            where="data.processes",
            fix="use data.processes=0: threads then read it",
        )
    return Composed(config, source, "batch.global" in chosen, request.val, chosen=chosen)


def _unlabelled(
    request: Request, wanted: Config, asked: Layers, based: bool
) -> tuple[Source, Layers]:
    """Open images for training without labels, and return them with the base settings.

    Whether they have labels is added to ``asked``.
    """
    source = request.data
    if source is None:
        source, labels = open_unlabelled_training(wanted)
        if labels:
            asked.add({"data": {"labels": labels}}, "the images (they have no labels)")
    return source, _pretraining_base(request, wanted, based)


def _method(request: Request) -> Layers:
    """Return the recipe of the method of pretraining among the words, empty where there is none."""
    methods = pretraining.methods_in(request.words)
    return default_recipe.read(methods[0]) if methods else Layers()


def _pretraining_base(request: Request, wanted: Config, based: bool) -> Layers:
    """Return the recipe of the method: the named one, else the one for the network, which is named
    or that of the weights.
    """
    if pretraining.methods_in(request.words):
        return _method(request)
    if based:
        return Layers()
    if wanted.pretrain.method != "none":
        return default_recipe.read(wanted.pretrain.method)
    name = "" if wanted.model.name == Config().model.name else wanted.model.name
    if not name and wanted.model.init:
        name = seek(wanted.model.init, request.out).model
    return default_recipe.read(pretraining.method_for(name))


def dry_run(request: Request) -> Config:
    """Return the configuration that ``compose`` would return, without opening data if possible.

    Data is opened only to find the recipe that fits it: if a file, a recipe, or a set of known size
    is named, nothing is read or downloaded.
    """
    named, asked, based = _layers(request)
    wanted = _stack(_method(request), named, asked).resolve()
    name, has_weights = wanted.data.train, bool(wanted.model.init)
    if pretraining.is_meant(request.pretrains, wanted, is_whole=based):
        base = _pretraining_base(request, wanted, based)
        return _settled(_followed(base, [named, asked], request), request)
    # nothing but the images themselves tells which recipe fits them
    if not based and (request.data is not None or name not in OFFICIAL):
        return compose(request).config
    base = Layers()
    if not based:
        num_images, side = OFFICIAL[name].num_train, OFFICIAL[name].side_px
        base = default_recipe.fitting(name, num_images, side, from_weights=has_weights)
    return _settled(_followed(base, [named, asked], request), request)


def _followed(base: Layers, wanted: Sequence[Layers], request: Request) -> Layers:
    """Return all settings: those of the weights in ``model.init`` are between base and wanted.

    For another image size, the strides or patch of the weights are kept, because the weights were
    trained for them.
    """
    plain, asked = _stack(base, *wanted), _stack(*wanted)
    model = plain.resolve().model
    if not model.init:
        return plain
    ancestor, place = seek(model.init, request.out), f"--init {model.init}"
    if ancestor.model.startswith("custom:") and not asked.origin("model.name"):
        raise ConfigError(
            f"these weights belong to your own network {ancestor.model.removeprefix('custom:')}",
            where=place,
            fix="start the training from Python: saccade.train(model=YourNetwork(), init=...)",
        )

    name = model.name if asked.origin("model.name") else ancestor.model or model.name
    ancestor = ancestor.of_network(name)
    if base.value("recipe") in recipes.TUNING and registry.is_known(name):
        side = side_for(name, plain.resolve().device)
        base.add({"data": {"image_size": side}}, base.origin("recipe"))
    if base.value("recipe") in recipes.TUNING and plain.resolve().augment.flip == 0:
        # images whose mirror images are others are not judged by those either
        base.add({"data": {"eval_views": 1}}, base.origin("recipe"))
    settings, known = dict(ancestor.settings), Layers()
    judged_at = settings.pop(JUDGED_AT, 0)
    if judged_at and plain.resolve().pretrain.method == "none":
        settings["data.image_size"] = judged_at
    if (
        asked.origin("model.name")
        and ancestor.model
        and _model(model.name) != _model(ancestor.model)
    ):
        # another network's own affair
        settings = {n: v for n, v in settings.items() if not n.startswith("model.")}
    known.add(_nested(settings), place)
    # with another size the automatic strides or patch would be others than the weights were made
    # for
    side = _stack(base, known, *wanted).resolve().data.image_size
    if "model.name" in settings and ancestor.settings.get("data.image_size", side) != side:
        known.add(_nested(ancestor.shape()), place)

    layers = _stack(base, known, *wanted)
    # the digest is part of the settings: other weights under the same path are another run
    layers.add({"model": {"init_digest": ancestor.digest}}, place)
    return layers


def _settled(layers: Layers, request: Request) -> Config:
    """Check all settings, apply ``--lr``, and use the registered name of the model."""
    config = _resolved(layers)
    if request.flags.get("lr") is not None:
        section = optimizers.with_rate(
            config.optimizer, float(request.flags["lr"]), config.batch.global_
        )
        config = config.model_copy(update={"optimizer": section})
    model = config.model.model_copy(update={"name": _model(config.model.name)})
    return config.model_copy(update={"model": model})


def _resolved(layers: Layers) -> Config:
    """Check all settings, the names of optimisers included; raises ConfigError."""
    config = layers.resolve()
    methods.check(config.optimizer, layers.origin)
    return config


def preview(request: Request) -> Config:
    """Return the settings as far as they are known before any data is opened.

    Raises ConfigError.
    """
    return _resolved(_stack(_method(request), *_layers(request)[:2]))


def settings(request: Request) -> Config:
    """Merge a recipe or a YAML file with flags and assignments, opening no data.

    Raises ConfigError.
    """
    for word in request.words:
        if _settings_of(word) is None and _known_model(word):
            raise ConfigError(
                f"'{word}' is a model; a model alone has no settings",
                where="the command line",
                fix="name a recipe: see `saccade recipes`",
            )
    return preview(request)


def _layers(request: Request) -> tuple[Layers, Layers, bool]:
    """Return the settings of the words, those of flags and ``--set``, and whether a word is a whole
    recipe.

    A named model counts, before or after a recipe.
    """
    named, models = Layers(), Layers()
    based = False
    for word in request.words:
        if word in pretraining.methods_in([word]):
            continue
        path = _settings_of(word)
        if path is None:
            models.add({"model": {"name": _known_model(word)}}, "the command line")
        else:
            named.add_file(path)
            based = True
    named.merge(models)

    asked = Layers()
    # `lr` is a short form that depends on the method, and is applied once all else is settled
    asked.add(
        _nested({n: v for n, v in request.flags.items() if v is not None and n != "lr"}),
        "the command line",
    )
    for assignment in request.sets:
        asked.set(assignment)
    return named, asked, based


def _stack(*layers: Layers) -> Layers:
    total = Layers()
    for layer in layers:
        total.merge(layer)
    _leave_the_cell_of_a_recipe(total)
    _leave_the_patch_of_a_recipe(total)
    _keep_the_smallest_side_of_a_recipe(total)
    return total


def _is_of_a_recipe(layers: Layers, name: str) -> bool:
    """Tell whether a setting comes from a recipe of the package."""
    return layers.origin(name) in map(str, recipes.paths())


def _leave_the_cell_of_a_recipe(layers: Layers) -> None:
    """Remove a recipe's cell if it does not divide the requested batch: it is then chosen
    automatically.
    """
    cell, batch = layers.value("batch.cell"), layers.value("batch.global")
    of_recipe = _is_of_a_recipe(layers, "batch.cell")
    if not of_recipe or layers.origin("batch.global") == layers.origin("batch.cell"):
        return
    if isinstance(batch, int) and isinstance(cell, int) and cell > 0 and batch % cell:
        layers.forget("batch.cell")


def _leave_the_patch_of_a_recipe(layers: Layers) -> None:
    """Remove a recipe's patch size if a network is requested that has its own, or none."""
    name = layers.value("model.name")
    if not _is_of_a_recipe(layers, "model.patch_size") or not isinstance(name, str):
        return
    # a name that means no network is refused later, with the nearest ones
    with contextlib.suppress(ConfigError):
        if is_foreign(name) or find(name).family not in PATCHED:
            layers.forget("model.patch_size")


def _keep_the_smallest_side_of_a_recipe(layers: Layers) -> None:
    """Raise a recipe's progressive sizes that another image size would make smaller than both 64
    pixels and the smallest of the recipe: its network may have nothing left of such images.
    """
    origin, side = layers.origin("augment.sizes"), layers.value("data.image_size")
    if not _is_of_a_recipe(layers, "augment.sizes") or layers.origin("data.image_size") == origin:
        return
    recipe = default_recipe.read(Path(origin).stem)
    own, sizes = recipe.value("data.image_size"), recipe.value("augment.sizes")
    least = min(min(sizes) * own, PLENTY)
    if isinstance(side, int) and 0 < side < own:
        raised = [min(max(one, least / side), 1.0) for one in sizes]
        layers.add({"augment": {"sizes": raised}}, origin)


def _settings_of(word: str) -> Path | None:
    """Return the settings file that a word names; None if it names none."""
    path = Path(word)
    # an archive is data in the wrong place, which the refusal of the word says
    if path.is_file() and path.suffix not in ARCHIVE_SUFFIXES:
        return path
    return recipes.find(word).path if word in recipes.names() else None


def _known_model(word: str) -> str:
    """Return a word that names a model; raises ConfigError for any other."""
    is_model = registry.is_known(word) or word.startswith("custom:")
    if Path(word).suffix in YAML_SUFFIXES or not is_model:
        raise _unknown_word(word)
    return word


def _unknown_word(word: str) -> ConfigError:
    """Refuse a positional word, with a suggestion: data, a file beside it, a recipe, a model."""
    path = Path(word)
    what, place = f"'{word}' is neither a YAML file, nor a recipe, nor a model", "the command line"
    if word in KNOWN or path.exists():
        return ConfigError(what, where=place, fix=f"for a data set, write --data {word}")
    if path.suffix in YAML_SUFFIXES:
        what = f"there is no YAML file '{word}'"

    beside = {
        p.name.lower(): str(p) for s in YAML_SUFFIXES for p in sorted(path.parent.glob(f"*{s}"))
    }
    data = {name: f"--data {name}" for name in KNOWN}
    known = data | registry.aliases() | beside | {name: name for name in recipes.names()}
    texts = [path.name.lower()] + [path.stem.lower()] * (path.suffix in YAML_SUFFIXES)
    # a word may be a typing error of any of them, with or without its suffix
    near = [
        known[m] for text in texts for m in difflib.get_close_matches(text, known, n=3, cutoff=0.6)
    ]
    # the place of images, as other trainers have it, rather than the name of a recipe
    if "/" in word and path.suffix not in YAML_SUFFIXES and not set(near) & set(beside.values()):
        what = f"there is no file or folder '{word}'"
        fix = f"for a folder or archive of images, write --data {word}"
        return ConfigError(what, where=place, fix=fix)
    fix = f"did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?" if near else ""
    kinds = f"methods of `saccade pretrain` are {', '.join(objectives.METHODS)}"
    if path.suffix in YAML_SUFFIXES:
        fix = fix or "check the path"
    fix = fix or f"see `saccade recipes` and `saccade models`; {kinds}"
    return ConfigError(what, where=place, fix=fix)


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
