"""What would make the run fail, or worse, end with a meaningless number: found before the first
step.

Names and sizes are always checked completely, contents by :mod:`saccade.data.audit.sample`, the
model without memory, and speed and the first loss by :mod:`saccade.preflight.trial`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from saccade import objectives
from saccade.config.schema import Config
from saccade.data.audit import sample
from saccade.data.audit.sample import OVERLAP_LIMIT, Ledger
from saccade.data.audit.unreadable import ADVICE, is_blank
from saccade.data.images.fit import Fit
from saccade.data.loader import TrainingView
from saccade.data.order import Order
from saccade.data.sources import Split
from saccade.distributed.world import Devices, World
from saccade.errors import SaccadeError
from saccade.findings import Finding, is_error, listed, refuse, tell
from saccade.log import Log
from saccade.models import backends, find, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.metrics import wilson_interval
from saccade.objectives.objective import Objective
from saccade.preflight import census, descent, out_of_memory, own_network
from saccade.preflight.trial import trial
from saccade.preflight.unused import left_out
from saccade.setup import agreement, build, cells
from saccade.setup.compose import Composed
from saccade.setup.initial_weights import start
from saccade.training import datasets
from saccade.training.datasets import Data

__all__ = ["Finding", "check", "examine", "inspect", "trial"]

FEW_IMAGES = 100
SMALLEST_MAP = 2
LITTLE = 0.7
"""Share of the typical image: where the evaluation view sees less, it is said."""

UPSCALING = 2.0
USUAL_SMALLEST = 32
"""Fewer pixels than networks are made for: smaller images are enlarged to this with good reason."""


def examine(
    config: Config, data: Data, module: nn.Module | None, log: Log, shrunk: str = ""
) -> list[Finding]:
    """Check everything that needs no training step.

    Print warnings and notes, raise the first error.

    ``module`` is the user's own network, ``shrunk`` the sentence about a default batch that was
    made smaller.
    """
    findings = inspect(config, data, module, log=log, shrunk=shrunk)
    tell(findings, log)
    refuse(findings)
    return findings


def inspect(
    config: Config, data: Data, module: nn.Module | None, log: Log, shrunk: str = ""
) -> list[Finding]:
    """Return all that ``examine`` checks as findings, raising nothing that is one.

    Say what the data is taken for.
    """
    objective = objectives.build(config, data.train)
    census.tell(data, objective, log)
    findings = [
        *objective.inspect(data.train, data.val, held_out=config.data.holdout > 0),
        *left_out(data),
        *cells.inspect(config, len(data.train), shrunk, module),
        *_network(config, data.train, module, objective),
    ]
    read = _read_contents(data, log)
    findings += [*_contents(read, config, data), *_blank(data), *_validation_size(data.val)]
    return findings + descent.findings(config, data)


def check(composed: Composed, log: Log) -> list[Finding]:
    """Check all that training would check, the trial step included, and print it.

    Errors are returned, not raised.

    Leaves no run folder behind, and torch's number of threads as it was.
    """
    findings: list[Finding] = []
    try:
        data = datasets.open_data(composed.config, composed.source, composed.val_source)
        config, shrunk = build.shrink_batch(
            composed.config, len(data.train), composed.explicit_batch
        )
        count = max(Devices.parse(config.device).count, 1)
        agreement.check_number(config, World(size=count, local_size=count))
        findings += inspect(config, data, None, log=log, shrunk=shrunk)
        tell(findings, log)
        if not any(map(is_error, findings)):
            findings += _rehearse(config, data, log)
    except SaccadeError as error:
        findings.append(Finding.of(error))
    for finding in filter(is_error, findings):
        where = f" ({finding.where})" if finding.where else ""
        log.say(f"error [{finding.id}] {finding.message}{where}; {finding.fix}")
    return findings


def _rehearse(config: Config, data: Data, log: Log) -> list[Finding]:
    threads = torch.get_num_threads()
    folder = build.run_folder(config, data, build.model_name(config, None), "", fresh=False)
    with out_of_memory.building(config):
        run = build.build(config, data, folder, resolved=build.resolve(config, None), module=None)
    try:
        start(run, log)
        return trial(run, log, lambda: None)
    finally:
        run.readers.close()
        torch.set_num_threads(threads)


def _network(
    config: Config, train: Split, module: nn.Module | None, objective: Objective
) -> list[Finding]:
    """Check the width of the head and the last feature map without allocating the model."""
    classes, wanted = objective.head, config.model.num_classes
    if wanted not in (0, classes):
        return [
            _width(
                wanted,
                classes,
                "model.num_classes",
                "leave model.num_classes out: the head follows the data",
            )
        ]
    section = config.data
    view = TrainingView(
        train,
        Order(1, 0),
        config.augment,
        image_size=section.image_size,
        total_steps=1,
        exif=section.exif,
    )
    judged = section.eval_size or section.image_size
    smallest = min(judged, section.image_size, *view.sides)
    findings: list[Finding] = []
    for side in dict.fromkeys((section.image_size, judged, smallest)):
        seen = (
            _named_network(config, side, classes)
            if module is None
            else _own_network(module, side, classes)
        )
        if any(map(is_error, seen)):
            usual = side == section.image_size
            return (
                seen
                if usual
                else [_at(finding, side, judged, section.image_size) for finding in seen]
            )
        findings = seen if side == smallest else findings
    return findings


def _at(finding: Finding, side: int, judged: int, image_size: int) -> Finding:
    """Blame the setting that brings another size in: at ``image_size`` (pixels) the network
    works.
    """
    where, fix = "data.eval_size", "leave it out, or take a model that sees images of any size"
    if side != judged:
        where, fix = (
            "augment.sizes",
            "--set augment.sizes=[1] trains at one size alone (Python: augment__sizes=[1])",
        )
    message = f"{finding.message} (that size is of {where}; at {image_size} px it works)"
    return dataclasses.replace(finding, message=message, where=where, fix=fix)


def _named_network(config: Config, side: int, classes: int) -> list[Finding]:
    name = config.model.name
    network = meta_model(
        name, num_classes=classes, image_size=config.data.image_size, **config.shape
    )
    strange = backends.is_backend(name)
    try:
        last_map = cost(network, side).last_map
        if strange:  # auxiliary heads work in training only
            network.train()(torch.empty(2, 3, side, side, device="meta"))
    except Exception as error:  # any code may run here
        return [
            Finding(
                "model-fails",
                "error",
                f"{name} fails on images of {side} x {side} pixels: {error}",
                where="data.image_size",
                fix="use another --image-size",
                status=78,
            )
        ]
    return _last_map(last_map, side, name, own=strange or bool(config.model.strides))


def _own_network(module: nn.Module, side: int, classes: int) -> list[Finding]:
    """Run a copy of the user's network on nothing but shapes, or on zeros where it cannot do
    that.
    """
    if findings := own_network.unusable(module):
        return findings
    name = type(module).__name__
    answers: list[object] = []
    last_map = (0, 0)
    try:
        shadow = duplicate(module).eval()
        shadow.register_forward_hook(lambda _module, _inputs, output: answers.append(output))
        last_map = cost(shadow.to("meta"), side).last_map
    # any code may run here, and much of it knows no meta device: only real tensors tell
    except Exception:
        try:
            with torch.no_grad():
                answers.append(duplicate(module).cpu().eval()(torch.zeros(1, 3, side, side)))
        except Exception as error:
            fix = "it must map float32 images (B, 3, S, S) to logits (B, classes)"
            if other := {str(p.dtype) for p in module.parameters()} - {"torch.float32"}:
                fix = (
                    f"it has weights of the type {', '.join(sorted(other))}: hand over "
                    "module.float()"
                )
            return [
                Finding(
                    "model-fails",
                    "error",
                    f"{name} fails on one image of {side} x {side} pixels: {error}",
                    where=name,
                    fix=fix,
                    status=78,
                )
            ]
    answer = answers[-1]
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        form = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        return [
            Finding(
                "head-width",
                "error",
                f"{name} answers with {form} instead of logits (1, {classes})",
                where=name,
                fix="return one row of logits per image",
                status=78,
            )
        ]
    if answer.shape[1] != classes:
        return [_width(answer.shape[1], classes, name, f"build it with {classes} outputs")]
    return own_network.doubtful(module) + _last_map(last_map, side, name, own=True)


def _width(width: int, classes: int, where: str, fix: str) -> Finding:
    message = f"the head is {width:,} wide, but the training images have {classes:,} classes"
    return Finding("head-width", "error", message, where=where, fix=fix, status=78)


def _last_map(last: tuple[int, int], side: int, name: str, *, own: bool) -> list[Finding]:
    """Judge the last feature map.

    A user's own network may be meant like that, so it is only warned of.
    """
    if last == (0, 0) or min(last) >= SMALLEST_MAP:
        return []
    enough = -(-side * SMALLEST_MAP // max(min(last), 1))
    return [
        Finding(
            "last-map-too-small",
            "warning" if own else "error",
            f"the last feature map of {name} is {last[0]} x {last[1]} at {side} px: hardly "
            "any place is left to look at",
            where="data.image_size",
            fix=f"use --image-size {enough} or a model for smaller images",
            status=0 if own else 78,
        )
    ]


def _read_contents(data: Data, log: Log) -> Ledger:
    total = sum(len(places) for places in sample.choose(data.train, data.val))
    with log.progress("checking the images", total) as bar:
        read = sample.audit(
            data.train, data.val, lambda done: bar.update(done, "read, hashed, decoded")
        )
    took = "as found before; some read again" if read.cached else f"{read.seconds:.1f} s"
    log.fact(
        "checked",
        f"{read.scope}: {read.unreadable.count:,} unreadable, {read.overlap.count:,} of "
        f"{read.compared:,} validation images also in training ({took})",
    )
    return read


def _contents(read: Ledger, config: Config, data: Data) -> list[Finding]:
    """Turn what is inside the files into findings, each with what it is based on."""
    findings = []
    if names := data.dropped:
        findings.append(
            Finding(
                "dropped-images",
                "warning",
                f"{len(names):,} training image(s) cannot be read and are left out: "
                f"{listed(names, len(names))}",
                where=data.train.where,
                fix="repair them",
                items=names,
            )
        )
    if other := read.changed:
        findings.append(
            Finding(
                "content-changed",
                "warning",
                f"{other.count:,} image(s) have other bytes than when they were last "
                "checked, under the same "
                f"names, sizes and times: {listed(other.first, other.count)}; everything was "
                "checked again",
                where=data.train.where,
                fix="compare them with a good copy: the disk may be failing",
                items=other.first,
            )
        )
    where = (
        f"{data.train.where} and {data.val.where}"
        if data.train.where != data.val.where
        else data.train.where
    )
    if bad := read.unreadable:
        findings.append(
            Finding(
                "unreadable-image",
                "error",
                f"{bad.count:,} image(s) cannot be read ({read.scope}): "
                f"{listed(bad.first, bad.count)}",
                where=where,
                fix=ADVICE,
                items=bad.first,
                status=65,
            )
        )
    if twice := read.overlap:
        much = twice.count > OVERLAP_LIMIT * read.compared
        findings.append(
            Finding(
                "train-val-overlap",
                "error" if much else "warning",
                f"{twice.count:,} of {read.compared:,} validation images are also training "
                f"images ({read.scope}): "
                f"{listed(twice.first, twice.count, 2)}",
                where=where,
                fix="remove the copies from one side",
                items=twice.first,
                status=65 if much else 0,
            )
        )
    if torn := read.conflicts:
        findings.append(
            Finding(
                "duplicate-images",
                "warning",
                f"{torn.count:,} training image(s) are there twice with different labels "
                f"({read.scope}): {listed(torn.first, torn.count, 2)}",
                where,
                items=torn.first,
            )
        )
    if read.turned and config.data.exif == "ignore":
        findings.append(
            Finding(
                "exif-orientation",
                "note",
                f"{read.turned:,} image(s) ({read.scope}) are to be turned by their EXIF "
                "orientation, which is ignored as in torchvision and timm",
                where=where,
                fix="--set data.exif=apply turns them",
            )
        )
    seen = Fit.of(config.data.fit, config.data.eval_crop, config.data.mean).seen(read.shape)
    if 0 < seen < LITTLE:
        findings.append(
            Finding(
                "view-sees-little",
                "note",
                f"evaluation sees the central square, {seen:.0%} of the typical image "
                f"({read.scope})",
                where="data.fit",
                fix="--set data.fit=squash or data.fit=pad shows all of it",
            )
        )
    enough = max(_smallest_size(config), read.short_side)
    if 0 < read.short_side * UPSCALING < config.data.image_size and enough < config.data.image_size:
        findings.append(
            Finding(
                "image-size-above-source",
                "note",
                f"images of typically {read.short_side} px are enlarged to "
                f"{config.data.image_size} px, which costs time and adds nothing ({read.scope})",
                where="data.image_size",
                fix=f"consider --image-size {enough}",
            )
        )
    return findings


def _blank(data: Data) -> list[Finding]:
    return [
        Finding(
            "blank-images",
            "error",
            f"the images of '{split.name}' are all of one and the same colour: nothing can be "
            "learned from them or judged by them",
            where=split.where,
            fix="look at how they were made or copied",
            status=65,
        )
        for split in dict.fromkeys((data.train, data.val))
        if is_blank(split)
    ]


def _smallest_size(config: Config) -> int:
    """Return the smallest side in pixels that the network takes and that leaves it something to
    look at.
    """
    name = config.model.name
    return (
        USUAL_SMALLEST if name.startswith("custom:") else max(find(name).smallest, USUAL_SMALLEST)
    )


def _validation_size(val: Split) -> list[Finding]:
    if len(val) == 0:
        return [
            Finding(
                "no-val-split",
                "error",
                f"'{val.name}' holds no image",
                where=val.where,
                fix="hold out a larger share",
                status=65,
            )
        ]
    if len(val) >= FEW_IMAGES:
        return []
    low, high = wilson_interval(len(val) // 2, len(val))
    return [
        Finding(
            "too-few-images",
            "note",
            f"{len(val)} validation images: each is {1 / len(val):.1%}, and chance alone moves "
            f"the accuracy by up to {(high - low) / 2:.0%} up or down (95 %)",
            val.where,
        )
    ]
