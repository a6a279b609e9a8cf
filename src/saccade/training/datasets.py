"""The training and validation data of a run, and how the network sees its images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from saccade import rng
from saccade.config.schema import Config
from saccade.data.audit import sample
from saccade.data.audit.unreadable import without_unreadable
from saccade.data.augment.chain import cuts_decoded_images
from saccade.data.augment.own_augment import OwnAugment
from saccade.data.decoded_cache import Decoded
from saccade.data.images.fit import Fit
from saccade.data.loader import TrainingView
from saccade.data.order import EVERYTHING, Order, RankSlice
from saccade.data.sources import (
    Source,
    Split,
    hold_out,
    open_source,
    open_unlabelled,
    train_split,
    validation_split,
)
from saccade.data.sources.split_names import shared
from saccade.errors import ConfigError, DataError
from saccade.log import Log
from saccade.rng import Purpose

HELD_OUT, LEAST_HELD_OUT, MOST_HELD_OUT = 0.02, 16, 0.2
"""Of images without a validation set, the share on which pretraining measures its loss: at least so
many of them, where these are not more than the last share.
"""


@dataclass(frozen=True)
class Data:
    """The splits of a run: ``train`` for training, ``val`` for the final evaluation, ``chosen_on``
    to choose the best checkpoint: ``val``, a part of it, or images held out of training.

    ``dropped`` lists skipped training images that cannot be read, with the reasons.
    """

    source: Source
    train: Split
    val: Split
    chosen_on: Split
    val_source: Source
    dropped: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """One digest over both sets."""
        return f"{self.train.fingerprint[:16]}-{self.val.fingerprint[:16]}"

    @cached_property
    def contents(self) -> str:
        """A digest of the bytes of some images of both sets, read when it is first asked for."""
        return sample.contents(self.train, self.val)


def open_training(config: Config) -> Source:
    """Open the training data of a configuration; raises DataError and ConfigError."""
    section = config.data
    return open_source(
        section.train, section.labels, shared(section.split_names, apart=bool(section.val))[0]
    )


def open_unlabelled_training(config: Config) -> tuple[Source, str]:
    """Open the data of a run without labels, and return the value of `data.labels`.

    Raises DataError and ConfigError.
    """
    section = config.data
    if section.labels:
        return open_training(config), ""
    said = shared(section.split_names, apart=bool(section.val))[0]
    return open_unlabelled(section.train, said)


def open_any_training(config: Config) -> Source:
    """Open the training data of a run, with or without labels; raises DataError and ConfigError."""
    if config.pretrain.method == "none":
        return open_training(config)
    return open_unlabelled_training(config)[0]


def open_data(config: Config, source: Source, val_source: Source | None = None) -> Data:
    """Find the training and validation splits.

    Raises DataError if there is no valid validation set. ``val_source`` is an open validation
    source; without it, the configuration names the validation data.
    """
    section = config.data
    if val_source is None:
        said = shared(section.split_names, apart=True)[1]
        val_source = source
        if section.val and config.pretrain.method != "none":
            val_source = open_unlabelled(section.val, said)[0]
        elif section.val:
            val_source = open_source(section.val, split_names=said)

    train = train_split(source)
    dropped: tuple[str, ...] = ()
    if section.unreadable == "drop":
        with Log().progress("looking for unreadable images", len(train)) as bar:
            train, dropped = without_unreadable(
                train, lambda done: bar.update(done, "read, decoded")
            )

    # validation data is given, or held out of the training images; there is no third way
    val = validation_split(val_source, section.split, named=bool(section.val))
    if section.holdout:
        # a split in the same source may be ignored on request, a folder that was named may not
        if val is not None and val_source is not source:
            raise ConfigError(
                "--val and --holdout exclude each other",
                where="data.holdout",
                fix="use one of them",
            )
        train, val = hold_out(train, section.holdout, config.seed, Purpose.HOLDOUT)
    if val is None and config.pretrain.method != "none":
        few = min(LEAST_HELD_OUT / max(len(train), 1), MOST_HELD_OUT)
        train, val = hold_out(train, max(HELD_OUT, few), config.seed, Purpose.HOLDOUT)
    if val is None:
        raise no_validation(source)

    # the same number may be written 7 in one source and 007 in the other
    val = val.called_as(train.classes)
    chosen_on = _part_of(val, config)
    # the best epoch is then chosen on images that the final figure has not seen
    if section.minival:
        train, chosen_on = hold_out(train, section.minival, config.seed, Purpose.MINIVAL)
    return Data(
        source, train=train, val=val, chosen_on=chosen_on, val_source=val_source, dropped=dropped
    )


def _part_of(val: Split, config: Config) -> Split:
    """Return the validation images for evaluations during training: a fixed random subset.

    Raises ConfigError together with ``minival``.
    """
    wanted = num_of(config.data.eval_images, len(val))
    if wanted and config.data.minival:
        raise ConfigError(
            "data.eval_images and --minival both say what is scored during training",
            where="data.eval_images",
            fix="give one of them; the size of --minival is a fraction of the training images",
        )
    if not 0 < wanted < len(val):
        return val
    keys = rng.key(config.seed, int(Purpose.EVAL_IMAGES), np.arange(len(val)))
    return val.subset(np.argsort(keys, kind="stable")[:wanted], f"{wanted} of {val.name}")


def num_of(amount: float, whole: int) -> int:
    """Return the number of images for an amount of ``whole``: a fraction below 1, or a count."""
    return max(round(amount * whole), 1) if 0 < amount < 1 else int(amount)


def no_validation(source: Source) -> DataError:
    """Return the error for a missing validation set: accuracy on training images means nothing."""
    held = [f"'{name}' with {_classes_of(split)}" for name, split in source.splits.items()]
    found = "; ".join([*held, *source.notes])
    return DataError(
        f"no validation split found: looked for val/, validation/, valid/ and test/, found {found}",
        where=source.where,
        fix=(
            "add a validation split, name one with --val PATH, or hold out a fraction of the "
            "training images with --holdout 10%"
        ),
        finding="no-val-split",
    )


def _classes_of(split: Split) -> str:
    """Name the first classes, which show whether a folder was misread."""
    first, count = ", ".join(split.classes[:4]), len(split.classes)
    return f"the class{'es' * (count > 1)} {first}" + f" and {count - 4:,} more" * (count > 4)


def offset_in_steps(offset: int, config: Config) -> float:
    """Return an offset in samples as steps of this batch; it can be a fraction."""
    batch = config.batch.global_
    return offset / batch if offset % batch else offset // batch


def training_order(config: Config, num_train: int, offset: int = 0) -> Order:
    """Return the order of the given number of training images."""
    return Order(
        num_train,
        seed=config.seed,
        repeats=config.augment.repeats,
        epoch_size=num_of(config.data.epoch_size, num_train),
        offset=offset,
    )


def training_view(
    config: Config,
    split: Split,
    order: Order,
    steps: int,
    rank_slice: RankSlice = EVERYTHING,
    own: OwnAugment | None = None,
) -> TrainingView:
    """Return how a training of ``steps`` steps sees the images of a split.

    ``rank_slice`` is the part of a rank, ``own`` the user's own augmentation.
    """
    section, augmentation = config.data, config.augment
    fit = Fit.of(section.fit, section.eval_crop, section.mean)
    ahead = offset_in_steps(order.offset, config)
    view = TrainingView(
        split,
        order,
        augment=augmentation,
        image_size=section.image_size,
        total_steps=steps,
        exif=section.exif,
        rank_slice=rank_slice,
        fit=fit,
        ahead=ahead,
        own=own,
    )
    if not cuts_decoded_images(augmentation):
        return view
    # small images are decoded once and cut from memory: reading `cifar10` became six times as fast
    return replace(view, decoded=Decoded.of(split, section.exif, min(view.sides)))
