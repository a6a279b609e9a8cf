"""Features of images as files: NumPy arrays, and a table with the names of the rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from saccade import files
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.errors import DataError, UsageError
from saccade.evaluation import passes
from saccade.evaluation.views import mean_logits
from saccade.log import Log
from saccade.models.parts.embedding import embed, embed_and_answer
from saccade.objectives.objective import Objective, heads
from saccade.printable import cell
from saccade.runs.backbone import Backbone
from saccade.runs.scoring import known_by_wnid
from saccade.runs.subject import Conditions

FEATURES, SOFTMAX, LABELS, NAMES, FACTS = (
    "features.npy",
    "softmax.npy",
    "labels.npy",
    "names.csv",
    "facts.json",
)


def write(
    backbone: Backbone, splits: Sequence[Split], out: Path, how: Conditions, *, labelled: bool
) -> dict[str, Any]:
    """Write the features of every image of some splits into a folder; return the contents of
    ``facts.json``.

    ``features.npy`` is float32 (n, d), ``softmax.npy`` float32 (n, C) where the network has a head,
    ``labels.npy`` int64 (n,) where the images are labelled, and ``names.csv`` has a line for each
    row. Labels are columns of the softmax if the network knows all classes, else indices in
    ``classes``. Raises UsageError if it is not a folder, or already has features.
    """
    _refuse_taken(out)
    recipe = backbone.classifier.recipe
    objective = recipe.learned if backbone.has_head else None
    splits, classes, columns = _labelled(backbone, splits, objective)
    count = sum(map(len, splits))

    shapes = {}
    with how.computing() as readers, ExitStack() as stack, Log().progress("features", count) as bar:
        written: dict[str, BinaryIO] = {}
        rows = 0
        for parts in _parts(backbone, splits, readers, how):
            for name, part in parts.items():
                if name not in written:
                    written[name] = stack.enter_context(files.aside(out / name))
                    shapes[name] = (count, part.shape[1])
                    _begin(written[name], shapes[name])
                written[name].write(np.ascontiguousarray(part.numpy(), "<f4").data)
            rows += len(parts[FEATURES])
            bar.update(rows, out.name)

    labels = np.concatenate([split.labels for split in splits])
    if labelled:
        files.write_bytes(out / LABELS, _npy(labels))
    files.write_bytes(out / NAMES, _table(splits, labelled=labelled))
    facts = {
        "weights": backbone.name,
        "model": recipe.model,
        "image_size": recipe.eval_side,
        "mean": recipe.mean,
        "std": recipe.std,
        "channels": recipe.channels,
        "precision": how.precision,
        "images": count,
        "width": shapes[FEATURES][1],
        "splits": {split.name: len(split) for split in splits},
        "classes": classes if labelled else None,
        "softmax": recipe.classes if SOFTMAX in shapes else None,
        "labels_are_columns": columns if labelled and SOFTMAX in shapes else None,
    }
    files.write_json(out / FACTS, facts)
    return facts


def _refuse_taken(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(
            "this is a file, not a folder", where=str(out), fix="name a folder with --out"
        )
    # parts of other features would stay beside the new ones
    taken = [name for name in (FEATURES, SOFTMAX, LABELS, NAMES, FACTS) if (out / name).exists()]
    if taken:
        raise UsageError(
            f"this folder already holds features: {', '.join(taken)}",
            where=str(out),
            fix="name another folder with --out, or remove these files",
        )


def _labelled(
    backbone: Backbone, splits: Sequence[Split], objective: Objective | None
) -> tuple[list[Split], tuple[str, ...], bool]:
    """Return splits with common classes, these classes, and whether they are the network's."""
    names = sorted({name for split in splits for name in split.classes})
    if objective is not None:
        try:
            known = [
                known_by_wnid(backbone.classifier, split).with_classes(objective.outputs)
                for split in splits
            ]
            return known, objective.outputs, True
        except DataError:
            pass  # other classes than the network's: they keep their own names
    return [split.with_classes(names) for split in splits], tuple(names), False


def _parts(
    backbone: Backbone, splits: Sequence[Split], readers: Readers, how: Conditions
) -> Iterator[dict[str, Tensor]]:
    """Yield rows for each file, float32 (k, d) and (k, C), in the order of the splits."""
    recipe = backbone.classifier.recipe
    network = backbone.classifier.network.to(how.device)
    widths: list[int] = []

    def ask(images: Tensor) -> Tensor:
        if not backbone.has_head:
            return embed(network, images).float()
        features, answer = embed_and_answer(network, images)
        logits = heads(answer)[0]
        if recipe.eval_views > 1:
            logits = mean_logits(network, images, recipe.eval_views)
        widths[:] = [features.shape[1]]
        return torch.cat([features.float(), logits.float()], 1)

    for split in splits:
        for seen in passes.row_by_row(
            network, recipe, split, readers, ask=ask, precision=how.precision, device=how.device
        ):
            if not backbone.has_head:
                yield {FEATURES: seen}
                continue
            shares = recipe.learned.probabilities(seen[:, widths[0] :])
            yield {FEATURES: seen[:, : widths[0]], SOFTMAX: shares}


def _begin(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the header of an array, float32 of shape ``(n, k)``; its rows follow."""
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def _npy(values: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, values, allow_pickle=False)
    return out.getvalue()


def _table(splits: Sequence[Split], *, labelled: bool) -> bytes:
    """Return the table of names: row, split, path, and the class where there are labels."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "split", "path", *(["class"] * labelled)])
    row = 0
    for split in splits:
        first = row
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            found = [split.classes[label]] * labelled
            place = (
                [split.folder, *found, name] if not split.origins else [split.origins[row - first]]
            )
            path = "/".join(filter(None, place))
            writer.writerow([row, split.name, cell(path, path=True), *map(cell, found)])
            row += 1
    return out.getvalue().encode()
