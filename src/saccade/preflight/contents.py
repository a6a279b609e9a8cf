"""Problems of the images themselves: unreadable, duplicate, blank, or too few."""

from __future__ import annotations

from collections.abc import Iterator

from saccade.config.schema import Config
from saccade.data.audit import sample
from saccade.data.audit.sample import OVERLAP_LIMIT, Ledger
from saccade.data.audit.unreadable import ADVICE, is_blank
from saccade.data.images.fit import Fit
from saccade.data.sources import Split
from saccade.findings import Finding, listed
from saccade.log import Log
from saccade.models import find
from saccade.objectives.metrics import wilson_interval
from saccade.objectives.objective import TOP1, Primary
from saccade.training.datasets import Data
from saccade.units import human_count

FEW_IMAGES = 100
LITTLE = 0.7
"""Fraction of the typical image: evaluation that sees less than this is worth a note."""

UPSCALING = 2.0
USUAL_SMALLEST = 32
"""Image side, in pixels, up to which enlarging smaller images helps: networks expect no less."""


def findings(data: Data, config: Config, log: Log, primary: Primary = TOP1) -> list[Finding]:
    """Read the images, or a sample of a large set, and return their problems.

    ``primary`` is the primary figure of the run.
    """
    read = _read(data, log)
    return [
        *changes(read, data),
        *copies(read, data),
        *views(read, config, data),
        *_blank(data),
        *_validation_size(data.val, primary),
    ]


def _read(data: Data, log: Log) -> Ledger:
    total = sum(len(places) for places in sample.choose(data.train, data.val))
    with log.progress("checking the images", total) as bar:
        read = sample.audit(
            data.train, data.val, lambda done: bar.update(done, "read, hashed, decoded")
        )

    took = "from the cache; some read again" if read.cached else f"{read.seconds:.1f} s"
    log.fact(
        "checked",
        f"{read.scope}: {read.unreadable.count:,} unreadable, {read.overlap.count:,} of "
        f"{read.compared:,} validation images also in training ({took})",
    )
    return read


def _both(data: Data) -> str:
    train, val = data.train.where, data.val.where
    return train if train == val else f"{train} and {val}"


def changes(read: Ledger, data: Data) -> Iterator[Finding]:
    """Yield damaged images: skipped, changed since the last check, or unreadable."""
    if names := data.dropped:
        yield Finding(
            "dropped-images",
            "warning",
            f"{len(names):,} training image(s) cannot be read and are skipped: "
            f"{listed(names, len(names))}",
            where=data.train.where,
            fix="repair them",
            items=names,
        )

    # Other bytes under the same size and time: nobody edits a file like that, a failing disk does.
    if other := read.changed:
        yield Finding(
            "content-changed",
            "warning",
            f"{other.count:,} image(s) changed since the last check, although names, sizes and "
            f"times are the same: {listed(other.first, other.count)}; all images were checked "
            "again",
            where=data.train.where,
            fix="compare them with a good copy: the disk may be failing",
            items=other.first,
        )

    if bad := read.unreadable:
        yield Finding(
            "unreadable-image",
            "error",
            f"{bad.count:,} image(s) cannot be read ({read.scope}): {listed(bad.first, bad.count)}",
            where=_both(data),
            fix=ADVICE,
            items=bad.first,
            status=65,
        )


def copies(read: Ledger, data: Data) -> Iterator[Finding]:
    """Yield duplicate images: on both sides, or in training with different labels."""
    if twice := read.overlap:
        much = twice.count > OVERLAP_LIMIT * read.compared
        yield Finding(
            "train-val-overlap",
            "error" if much else "warning",
            f"{twice.count:,} of {read.compared:,} validation images are also training images "
            f"({read.scope}): {listed(twice.first, twice.count, 2)}",
            where=_both(data),
            fix="remove the copies from one of the splits",
            items=twice.first,
            status=65 if much else 0,
        )

    if torn := read.conflicts:
        yield Finding(
            "duplicate-images",
            "warning",
            f"{torn.count:,} training image(s) occur twice with different labels ({read.scope}): "
            f"{listed(torn.first, torn.count, 2)}",
            where=_both(data),
            items=torn.first,
        )


def views(read: Ledger, config: Config, data: Data) -> Iterator[Finding]:
    """Yield unexpected preprocessing: rotated, cropped or enlarged images."""
    section = config.data
    if read.turned and section.exif == "ignore":
        yield Finding(
            "exif-orientation",
            "note",
            f"{read.turned:,} image(s) ({read.scope}) have an EXIF rotation that is ignored, as in "
            "torchvision and timm",
            where=_both(data),
            fix="--set data.exif=apply rotates them",
        )

    seen = Fit.of(section.fit, section.eval_crop, section.mean).seen(read.shape)
    if 0 < seen < LITTLE:
        yield Finding(
            "view-sees-little",
            "note",
            f"evaluation crops the central square, {seen:.0%} of a typical image ({read.scope})",
            where="data.fit",
            fix="--set data.fit=squash or data.fit=pad uses the whole image",
        )

    # Nothing is proposed below what the network needs: small images are enlarged to that anyway.
    enough = max(_smallest_size(config), read.short_side)
    if 0 < read.short_side * UPSCALING < section.image_size and enough < section.image_size:
        yield Finding(
            "image-size-above-source",
            "note",
            f"images of typically {read.short_side} px are enlarged to {section.image_size} px: "
            f"this costs time and adds no detail ({read.scope})",
            where="data.image_size",
            fix=f"consider --image-size {enough}",
        )


def _smallest_size(config: Config) -> int:
    """Return the smallest side in pixels for which the network has a useful last feature map."""
    name = config.model.name
    if name.startswith("custom:"):
        return USUAL_SMALLEST
    return max(find(name).smallest, USUAL_SMALLEST)


def _blank(data: Data) -> list[Finding]:
    return [
        Finding(
            "blank-images",
            "error",
            f"all images of '{split.name}' have the same single colour: they cannot be used for "
            "training or evaluation",
            where=split.where,
            fix="check how these files were made or copied",
            status=65,
        )
        for split in dict.fromkeys((data.train, data.val))
        if is_blank(split)
    ]


def _validation_size(val: Split, primary: Primary) -> list[Finding]:
    if len(val) == 0:
        return [
            Finding(
                "no-val-split",
                "error",
                f"'{val.name}' contains no images",
                where=val.where,
                fix="hold out a larger fraction",
                status=65,
            )
        ]
    if len(val) >= FEW_IMAGES:
        return []

    # at an accuracy of one half the interval is widest; of other figures none is known
    low, high = wilson_interval(len(val) // 2, len(val))
    few = f"{human_count(len(val), 'validation image')}: "
    if primary == TOP1:
        few += f"one image is {1 / len(val):.1%}, and the accuracy is uncertain by up to "
        few += f"{(high - low) / 2:.0%} in both directions (95 % interval)"
    else:
        few += f"so few images make {primary.title} uncertain"
    return [
        Finding(
            "too-few-images",
            "note",
            few,
            val.where,
        )
    ]
