"""The Python interface for frozen features: ``probe`` and ``embed``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from saccade.data import sources
from saccade.data.sources import Source, Split, handed
from saccade.data.sources.unlabelled import NO_LABELS
from saccade.errors import DataError, UsageError
from saccade.log import Log
from saccade.runs import embedding, probing
from saccade.runs.backbone import Backbone
from saccade.runs.foreign import Expected
from saccade.runs.probing import Comparison
from saccade.runs.scoring import find_split


def probe(
    weights: str | Path | Sequence[str | Path],
    data: Any,
    *,
    val: Any = None,
    labels: str | Path = "",
    split_names: str = "",
    best: bool = False,
    limit: int | None = None,
    devices: str = "auto",
    precision: str = "auto",
    module: nn.Module | str | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | None = None,
) -> Comparison:
    """Evaluate the frozen features of one or several networks on the same images.

    ``weights`` is what ``load`` takes, a run of pretraining, ``timm:NAME``, or ``"NAME=FILE"``,
    where NAME is the network of a file from another program; ``data`` and ``val`` are what
    ``train`` takes. Without validation images, every fifth image is used for evaluation. The probe
    learns from at most ``limit`` training images (10,000; 0 = all). ``module`` and the arguments
    after it are for weights from another program, as in ``load``. Raises a SaccadeError with the
    reason and what to do.
    """
    log = Log()
    source = _source(data, labels, split_names)
    judge = None if val is None else _source(val, "", "")
    several = [weights] if isinstance(weights, str | Path) else list(weights)
    expected = Expected.of(module, mean=mean, std=std, bgr=bgr, image_size=image_size)
    compared = len(several) > 1
    found = [Backbone.find(one, expected, best, log=log, others=compared) for one in several]
    both = probing.sides(source, judge, limit)
    return probing.compare(found, both, devices=devices, precision=precision)


def embed(
    weights: str | Path,
    data: Any,
    *,
    out: str | Path,
    labels: str | Path = "",
    split_names: str = "",
    split: str = "",
    best: bool = False,
    devices: str = "auto",
    precision: str = "auto",
    module: nn.Module | str | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Write the features of images into a folder, and return facts about them.

    ``features.npy`` is float32 (n, d), ``softmax.npy`` float32 (n, C) where the network has a head,
    ``labels.npy`` int64 (n,) where the images are labelled; ``names.csv`` names the rows, and
    ``facts.json`` has all other facts. ``weights`` and the arguments after it are as in ``probe``;
    ``split`` selects one split, otherwise all are written. Raises a SaccadeError.
    """
    expected = Expected.of(module, mean=mean, std=std, bgr=bgr, image_size=image_size)
    splits, labelled = _splits(data, split, labels, split_names)
    backbone = Backbone.find(weights, expected, best, log=Log())
    how = backbone.conditions(devices, precision)
    return embedding.write(backbone, splits, Path(out), how, labelled=labelled)


def _source(data: Any, labels: str | Path, split_names: str) -> Source:
    if data is None:
        raise UsageError("no images were given", where="--data", fix="add --data with the images")
    opened = handed.opened(data, "data", "train", Log())
    return opened or sources.open_source(str(data), labels, split_names)


def _splits(
    data: Any, split: str, labels: str | Path, split_names: str
) -> tuple[list[Split], bool]:
    """Return the splits of a source, or the one that is wanted, and whether they have labels."""
    if isinstance(data, Split):
        return [data], True
    labelled = True
    try:
        source = _source(data, labels, split_names)
    except DataError:
        if labels or not isinstance(data, str | Path):
            raise
        source, said = sources.open_unlabelled(str(data), split_names)
        labelled = said != NO_LABELS
    return [find_split(source, split)] if split else list(source.splits.values()), labelled
