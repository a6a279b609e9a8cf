"""Weights from another program as a classifier: network, preprocessing, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade.data.sources import Split, ilsvrc
from saccade.errors import CheckpointError, UsageError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.log import Log
from saccade.models import Report, backends, create_model, find, meta_model
from saccade.models.parts.learner import headless
from saccade.models.parts.running_statistics import named_statistics
from saccade.models.weights import content, loading, stored
from saccade.models.weights.content import MODEL_FILE
from saccade.models.weights.loading import load_tables
from saccade.models.weights.preprocessing import IMAGENET
from saccade.models.weights.readings import heads_of, listed, plain_name, unwrapped
from saccade.setup.ancestor import Ancestor, find_weights, written
from saccade.setup.flags import read_colours
from saccade.training import checkpoint

USUAL_CROP = 0.875
"""Side of the central crop over the short side. *Source:* Krizhevsky et al. 2012, section 2."""

USUAL_SIDE = 224
SHOWN = 5
"""Classes in the line that says for what answers are taken."""

MOST_CLASSES = 1 << 20
_NOT_ASKED = (None, "", False)


@dataclass(frozen=True, slots=True)
class Expected:
    """The user's facts about weights from another program: their network and its preprocessing.

    ``network`` is its name or the network itself, None if nothing is given. ``mean`` and ``std``
    are for RGB values in 0..1, ``image_size`` is a side in pixels, 0 = the network's usual one.
    """

    network: str | nn.Module | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    bgr: bool = False
    image_size: int = 0

    @classmethod
    def of(cls, network: str | nn.Module | None, **pixels: Any) -> Expected:
        """Read flags or keywords; None means not given.

        Raises ConfigError for colours that are not numbers.
        """
        colours = {n: read_colours(n, v) for n, v in pixels.items() if n in ("mean", "std") and v}
        return cls(
            network or None,
            colours.get("mean"),
            colours.get("std"),
            bgr=bool(pixels.get("bgr")),
            image_size=int(pixels.get("image_size") or 0),
        )

    def says_pixels(self) -> str:
        """Return the first flag about pixels that was given, empty for none."""
        given = {"mean": self.mean, "std": self.std, "bgr": self.bgr, "image-size": self.image_size}
        return next((f"--{name}" for name, value in given.items() if value), "")


def is_foreign(weights: str | Path, expected: Expected) -> bool:
    """Tell whether weights are from another program.

    Raises UsageError if flags contradict own weights, and CheckpointError if foreign weights come
    without the name of their network.
    """
    text, flag = str(weights), expected.says_pixels()
    if backends.is_backend(text):
        return True

    path = Path(text).expanduser()
    ours = is_ours(path)
    named = isinstance(expected.network, str)
    if ours and (named or flag):
        raise UsageError(
            "this file already says its network and preprocessing",
            where=flag or "--model",
            fix="remove it; it is for weights from another program",
        )
    if not ours and path.is_file() and expected.network is None:
        raise CheckpointError(
            "this file was not written by saccade, and it does not say its network",
            where=str(path),
            fix="name the network: --model resnet50, or timm:NAME (in Python module=)",
        )
    return not ours and (named or path.is_file())


def is_ours(path: Path) -> bool:
    """Tell whether weights are in a run folder or checkpoint, or in a file that saccade wrote."""
    if checkpoint.is_one(path) or (path / "checkpoints").is_dir():
        return True
    file = path / MODEL_FILE if path.is_dir() else path
    try:
        return file.suffix == ".safetensors" and "saccade" in stored.header(file).remarks
    except CheckpointError:
        return False


def classifier(
    weights: str | Path, expected: Expected, split: Split | None, log: Log
) -> Classifier:
    """Build a network with all foreign weights, and log one line about them.

    ``split`` are the images to evaluate, whose classes are used; without them, a head of 1,000 has
    ImageNet's classes, any other has numbers. Raises CheckpointError if a part of the network would
    stay random, or if its head has other classes than the data.
    """
    found = _Found.of(str(weights), expected)
    name = found.network if isinstance(found.network, str) else "NAME"
    if not found.head_width:
        raise _headless(found.source, name)
    classes = _classes(found.head_width, split, found.source, name)
    if split is not None and classes == split.classes and classes != ilsvrc.wnids():
        names = listed(classes, SHOWN)
        log.fact(
            "classes",
            (f"the weights have no class names; their outputs are taken as {names}, in this order"),
        )

    model, recipe = _built(found.network, classes, expected, found.source)
    report = load_tables(model, found.tree, str(weights))
    _refuse_random(model, report, recipe.model, where=str(weights))
    return found.ready(model, recipe, report, log)


def encoder(weights: str | Path, expected: Expected, log: Log) -> Classifier:
    """Build a network with foreign weights up to its head, and log what was loaded.

    If the weights have no head, the network returns its features. Raises CheckpointError if a part
    before the head would stay random.
    """
    found = _Found.of(str(weights), expected)
    classes = _classes(found.head_width or 2, None, found.source)

    model, recipe = _built(found.network, classes, expected, found.source)
    report = load_tables(model, found.tree, str(weights))
    _refuse_random(model, report, recipe.model, where=str(weights), but=report.fresh)
    if report.fresh:
        model, _ = headless(model)
    return found.ready(model, recipe, report, log)


@dataclass(frozen=True, slots=True)
class _Found:
    """Foreign weights and their network.

    ``tree`` is their content, ``head_width`` the number of classes of their head, 0 without one.
    """

    source: Ancestor
    network: str | nn.Module
    tree: Any
    head_width: int

    @classmethod
    def of(cls, weights: str, expected: Expected) -> _Found:
        """Read weights; raises CheckpointError if they do not fit the expected network."""
        source, network = _source(weights, expected.network)
        tree = content.tensors_of(source.path) if source.path else backends.pretrained(source.text)
        shape = network if isinstance(network, nn.Module) else _meta(network, expected)
        return cls(source, network, tree, loading.head_width(shape, tree, weights))

    def ready(self, model: nn.Module, recipe: Recipe, report: Report, log: Log) -> Classifier:
        """Return the classifier with these weights, and log what was loaded."""
        said = f"{self.source.phrase}; {report.summary}; {_seen_as(recipe, self.source, log)}"
        resized = ", resized bicubically" * (recipe.interpolation == "bicubic")
        log.fact("weights", f"{said}{recipe.image_size} px{resized}")
        return Classifier(model.to(memory_format=torch.channels_last).eval(), recipe)


def _source(weights: str, network: str | nn.Module | None) -> tuple[Ancestor, str | nn.Module]:
    """Find the weights and the network that they belong to."""
    try:
        known = find_weights(weights)
    except FileNotFoundError as error:
        raise CheckpointError(
            "there are no weights at this path",
            where=weights,
            fix="give a .safetensors, .pth or .pt file, timm:NAME or torchvision:NAME",
        ) from error
    network = unwrapped(network) if isinstance(network, nn.Module) else network or known.model
    if isinstance(network, nn.Module):
        return known, network
    return known.of_network(find(network).name), find(network).name


def _meta(name: str, expected: Expected) -> nn.Module:
    # any width will do: the head of the file is what is looked for
    return meta_model(name, num_classes=2, image_size=expected.image_size)


def _classes(width: int, split: Split | None, source: Ancestor, name: str = "") -> tuple[str, ...]:
    """Return the classes of a head; ``name`` is the name of the network."""
    imagenet = width == len(ilsvrc.wnids())
    if split is None:
        return ilsvrc.wnids() if imagenet else tuple(f"class {i}" for i in range(width))
    if imagenet and ilsvrc.by_wnid(split) is not None:
        return ilsvrc.wnids()
    if width == len(split.classes):
        return split.classes

    names = listed(split.classes, loading.FEW)
    knows = "ImageNet's 1,000 classes" if imagenet else f"{width:,} classes"
    others = ", which are not among them" * imagenet
    raise CheckpointError(
        f"the head of these weights has {knows}, but the data has {len(split.classes):,} "
        f"({names}){others}",
        where=source.text,
        fix=f"fine-tune the weights on your classes: saccade train {name} --init "
        f"{source.text} --data {split.where}",
    )


def _built(
    network: str | nn.Module, classes: Sequence[str], expected: Expected, source: Ancestor
) -> tuple[nn.Module, Recipe]:
    """Return the network and its preprocessing."""
    name = f"custom:{type(network).__name__}" if isinstance(network, nn.Module) else network
    facts = backends.preprocessing(name) if backends.is_backend(name) else None
    usual = USUAL_SIDE if isinstance(network, nn.Module) else find(name).image_size
    side = expected.image_size or (facts.image_size if facts else usual)

    if isinstance(network, nn.Module):
        model = network
    else:
        model = create_model(name, num_classes=len(classes), image_size=side)
    recipe = Recipe(
        model=name,
        classes=tuple(classes),
        image_size=side,
        eval_crop=facts.eval_crop if facts else USUAL_CROP,
        mean=expected.mean or _said(source, "data.mean", IMAGENET[0]),
        std=expected.std or _said(source, "data.std", IMAGENET[1]),
        exif="ignore",
        # what others computed in is not known, and this loses nothing
        precision="fp32",
        channels="bgr" if expected.bgr else "rgb",
        interpolation=facts.interpolation if facts else "bilinear",
    )
    return model, recipe


def _seen_as(recipe: Recipe, source: Ancestor, log: Log) -> str:
    """Return the preprocessing as a text, empty if it is the known one of the weights; warn if it
    differs.
    """
    used = {"mean": list(recipe.mean), "std": list(recipe.std)}
    known = {name: source.settings.get(f"data.{name}") for name in used}
    if known == used and recipe.channels == "rgb":
        return ""
    for name, value in used.items():
        if known[name] not in (None, value):
            log.warn(
                f"these weights were trained with {name} {written(known[name])}, but now get "
                f"images with {written(value)}"
            )
    order = " in BGR order" * (recipe.channels == "bgr")
    return "images with " + ", ".join(f"{n} {written(v)}" for n, v in used.items()) + f"{order}; "


def _said(
    source: Ancestor, name: str, usual: tuple[float, float, float]
) -> tuple[float, float, float]:
    red, green, blue = source.settings.get(name, usual)
    return red, green, blue


def _headless(source: Ancestor, name: str) -> CheckpointError:
    return CheckpointError(
        "these weights have no head, and a random head would give random answers",
        where=source.text,
        fix=f"train a head: saccade train {name} --init {source.text} --data PHOTOS",
    )


def _refuse_random(
    model: nn.Module, report: Report, name: str, *, where: str, but: Sequence[str] = ()
) -> None:
    """Raise CheckpointError if a tensor of the network, called ``name``, is not in the file.

    ``but`` are tensors that may be missing.
    """
    auxiliary = tuple(f"{name}." for name in heads_of(model)[1:])
    random = [
        tensor
        for tensor in (*report.missing, *report.head, *(n for n, _ in report.misshaped))
        if not tensor.startswith(auxiliary or "\0") and tensor not in but
    ]
    if not random:
        return
    text = f"{len(random)} tensors of the network would stay random: {listed(random, loading.FEW)}"
    fix = f"{name} is not the network of these weights; name theirs with --model"
    if {*random} <= {plain_name(tensor) for tensor in named_statistics(model)}:
        text = f"the running statistics of norms are missing: {listed(random, loading.FEW)}"
        fix = "save all of model.state_dict(), buffers included, and use that file"
    raise CheckpointError(text, where=where, fix=fix)
