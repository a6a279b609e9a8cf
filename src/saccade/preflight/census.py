"""A summary of a data set in a few lines: its classes and the images of each split."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.data.sources import Split
from saccade.data.sources.ilsvrc import class_name
from saccade.log import Log
from saccade.objectives.objective import Objective
from saccade.training.datasets import Data
from saccade.units import human_count

SHOWN = 5
LONGEST = 24
"""Letters of a class name in a line that is read at a glance."""


def tell(data: Data, objective: Objective, log: Log) -> None:
    """Print the classes, then one line for each split with its rarest and commonest class.

    It shows a misread folder: classes named ``train`` and ``test``, or one class too many.
    """
    if objective.answers:
        log.fact(objective.noun, f"{objective.head:,}: {names(objective.outputs)}")
    elif len(data.train.classes) > 1:
        found = f"{len(data.train.classes):,}: {names(data.train.classes)}"
        log.fact("classes", f"{found} (not learned from)")
    for source in dict.fromkeys((data.source, data.val_source)):
        if source.read_as:
            log.fact("read as", source.read_as)
    used = {split.name: split for split in (data.train, data.chosen_on, data.val)}
    for name, split in used.items():
        log.fact(name, spread(split, objective))
    sources = data.source.splits | data.val_source.splits
    left = [f"'{n}' ({human_count(len(s), 'image')})" for n, s in sources.items() if n not in used]
    if left:
        log.fact("unused", ", ".join(left))


def names(classes: Sequence[str]) -> str:
    """Return the first class names and the last: ``ant, bee, cat, dog, elk ... yak``."""
    first = ", ".join(_short(name) for name in classes[:SHOWN])
    rest = classes[SHOWN:]
    return f"{first}{', ' if len(rest) == 1 else ' ... '}{_short(rest[-1])}" if rest else first


def spread(split: Split, objective: Objective) -> str:
    """Say how many images a split has, and the smallest and largest number per class."""
    named, counts = objective.prevalence(split)
    fewest, most = int(counts.argmin()), int(counts.argmax())
    low, high = int(counts[fewest]), int(counts[most])
    total = human_count(len(split), "image")
    if len(named) == 1 and not objective.answers:
        return f"{total} without labels"
    if low == high:
        return f"{total}: {low:,} of each class"
    few, many = _short(named[fewest]), _short(named[most])
    return f"{total}: fewest {low:,} of '{few}', most {high:,} of '{many}'"


def _short(name: str) -> str:
    title = class_name(name)
    return title if len(title) <= LONGEST else title[: LONGEST - 3] + "..."
