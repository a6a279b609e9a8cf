"""Checking that the network fits the data: the width of its head and its last feature map.

Built-in networks are checked without memory for weights, on torch's "meta" device.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from saccade.config.finetune import BUT_LAST_NORM
from saccade.config.schema import Config
from saccade.data.loader import TrainingView
from saccade.data.order import Order
from saccade.data.sources import Split
from saccade.findings import Finding, is_error
from saccade.models import is_foreign, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.objective import Objective
from saccade.preflight import own_network

SMALLEST_MAP = 2


def findings(
    config: Config, train: Split, module: nn.Module | None, objective: Objective
) -> list[Finding]:
    """Check the head and the last feature map at every image size of the run.

    ``module`` is the user's own network, None for a registered one.
    """
    classes, wanted = objective.head, config.model.num_classes
    if objective.answers and wanted not in (0, classes):
        fix = "remove model.num_classes: the head then fits the data"
        return [_width(wanted, classes, "model.num_classes", fix)]

    # The usual size comes first: where that works, another one is to blame.
    section = config.data
    view = TrainingView(
        train,
        Order(1, 0),
        config.augment,
        image_size=section.image_size,
        total_steps=1,
        exif=section.exif,
    )
    eval_size = section.eval_size or section.image_size
    smallest = min(eval_size, section.image_size, *view.sides)

    found: list[Finding] = []
    for side in dict.fromkeys((section.image_size, eval_size, smallest)):
        if module is None:
            seen = _named(config, side, classes)
        else:
            seen = _handed_over(module, side, classes if objective.answers else 0)
        if any(map(is_error, seen)):
            if side == section.image_size:
                return seen
            return [_at(finding, side, eval_size, section.image_size) for finding in seen]

        # Warnings are those of the smallest side, where a map is smallest.
        if side == smallest:
            found = seen
    return found


def rest_untrained(config: Config, module: nn.Module | None) -> list[Finding]:
    """Warn if a frozen part has random weights, because no initial weights are named.

    It is an error if almost all of the network is frozen.
    """
    section = config.finetune
    # a network that is handed over may bring its weights
    if config.model.init or module is not None or not (section.rests or section.norms == "frozen"):
        return []
    what = f"{section.freeze} is frozen" if section.rests else "norms keep their running statistics"
    return [
        Finding(
            "rests-untrained",
            "error" if section.freeze == BUT_LAST_NORM else "warning",
            f"{what}, but this run starts from random weights",
            where="finetune.freeze" if section.rests else "finetune.norms",
            fix="name weights to start from with --init, or train the whole network",
            status=78,
        )
    ]


def _at(finding: Finding, side: int, eval_size: int, image_size: int) -> Finding:
    """Name the setting that requests another size than ``image_size`` pixels, which works."""
    if side == eval_size:
        where = "data.eval_size"
        fix = "remove --freeze, or use a model that accepts images of any size"
    else:
        where = "augment.sizes"
        fix = "--set augment.sizes=[1] trains at one size alone (Python: augment__sizes=[1])"
    message = f"{finding.message} (this size comes from {where}; {image_size} px works)"
    return dataclasses.replace(finding, message=message, where=where, fix=fix)


def _named(config: Config, side: int, classes: int) -> list[Finding]:
    name = config.model.name
    network = meta_model(
        name, num_classes=classes, image_size=config.data.image_size, **config.shape
    )
    strange = is_foreign(name)
    try:
        last_map = cost(network, side).last_map
        if strange:  # auxiliary heads work in training only
            network.train()(torch.empty(2, 3, side, side, device="meta"))
    except Exception as error:  # any code may run here
        what = f"{name} fails on images of {side} x {side} pixels: {error}"
        fix = "use another --image-size"
        return [Finding("model-fails", "error", what, where="data.image_size", fix=fix, status=78)]
    return _last_map(last_map, side, name, own=strange or bool(config.model.strides))


def _handed_over(module: nn.Module, side: int, classes: int) -> list[Finding]:
    """Run a copy of the user's network on one image, without memory if possible.

    With 0 ``classes`` its head is removed and can have any width.
    """
    if found := own_network.unusable(module):
        return found
    name = type(module).__name__
    try:
        answer, last_map = _answer(module, side)
    except Exception as error:  # any code may run here
        what = f"{name} fails on one image of {side} x {side} pixels: {error}"
        fix = "it must map float32 images (B, 3, S, S) to logits (B, classes)"
        if other := {str(p.dtype) for p in module.parameters()} - {"torch.float32"}:
            fix = f"its weights have the type {', '.join(sorted(other))}: pass module.float()"
        return [Finding("model-fails", "error", what, where=name, fix=fix, status=78)]

    if not isinstance(answer, Tensor) or answer.dim() != 2:
        form = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        what = f"{name} returns {form} instead of logits (1, {classes})"
        fix = "return one row of logits per image"
        return [Finding("head-width", "error", what, where=name, fix=fix, status=78)]
    if classes and answer.shape[1] != classes:
        return [_width(answer.shape[1], classes, name, f"build it with {classes} outputs")]
    return own_network.doubtful(module) + _last_map(last_map, side, name, own=True)


def _answer(module: nn.Module, side: int) -> tuple[object, tuple[int, int]]:
    """Return the output of a copy of a network for one image, and the height and width of its last
    map.

    The map is (0, 0) if unknown.
    """
    answers: list[object] = []
    try:
        shadow = duplicate(module).eval()
        shadow.register_forward_hook(lambda _module, _inputs, output: answers.append(output))
        last_map = cost(shadow.to("meta"), side).last_map
    # Any code may run here, and much of it knows no meta device: only real tensors tell.
    except Exception:
        with torch.no_grad():
            return duplicate(module).cpu().eval()(torch.zeros(1, 3, side, side)), (0, 0)
    return answers[-1], last_map


def _width(width: int, classes: int, where: str, fix: str) -> Finding:
    message = f"the head has {width:,} outputs, but the training images have {classes:,} classes"
    return Finding("head-width", "error", message, where=where, fix=fix, status=78)


def _last_map(last: tuple[int, int], side: int, name: str, *, own: bool) -> list[Finding]:
    """Refuse a last feature map with almost no resolution; only warn for the user's own network."""
    if last == (0, 0) or min(last) >= SMALLEST_MAP:
        return []
    # rounded up; the map grows in proportion to the side
    enough = -(-side * SMALLEST_MAP // max(min(last), 1))
    return [
        Finding(
            "last-map-too-small",
            "warning" if own else "error",
            f"{name} ends at {last[0]} x {last[1]} at {side} px: the last feature map has almost "
            "no spatial resolution",
            where="data.image_size",
            fix=f"use --image-size {enough} or a model for smaller images",
            status=0 if own else 78,
        )
    ]
