"""A run as a notebook: what its page shows, as code that its reader can change.

The cells use the public functions and the files of a run alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from saccade import files
from saccade.data.sources import Split
from saccade.report.record import Record

NAME = "notebook.ipynb"
_COURSE = "metrics.csv"
_LIMIT_BYTES = 64_000_000
_FORMAT = {"nbformat": 4, "nbformat_minor": 5}
"""*Source:* the notebook format of Jupyter, version 4.5: the first in which cells have names."""

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

Cell = tuple[str, str]
"""The kind of a cell, ``markdown`` or ``code``, and its text."""

_IMPORTS = """\
import csv
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

import saccade
from saccade.data.images.decode import decode{more}

os.chdir({home})  # where paths begin: that of the run, and those of its data
RUN = Path({run})"""

_FIGURES = """\
facts = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
facts.get("result", "there are no figures before the end of the run")"""

_CURVES = """\
with open(RUN / "metrics.csv", encoding="utf-8", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["split"] == {watched}]


def column(name):
    \"\"\"Return a column of numbers; what was not measured leaves a gap in its curve.\"\"\"
    return [float(row[name] or "nan") for row in rows]


panels = {panels}
_, axes = plt.subplots(1, len(panels), figsize=(13, 3.5), layout="constrained")
for axis, (title, names) in zip(axes, panels.items(), strict=True):
    for name in names:
        axis.plot(column({axis}), column(name), marker=".", label=name)
    axis.set(title=title, xlabel={axis})
    axis.legend()
plt.show()"""

_PICTURES = """\
images = saccade.validation_images(RUN)
classes = {classes}


def show(places, titles):
    \"\"\"Draw validation images, each below its title.\"\"\"
    _, axes = plt.subplots(2, 4, figsize=(13, 8), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, place, title in zip(axes.flat, places, titles, strict=False):
        axis.imshow(decode(images.read(place)))
        axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    plt.show()


places = torch.linspace(0, len(images) - 1, 8).long().unique().tolist()
{truth}"""

_TRUTH = """\
true = [{shown} for place in places]"""

_PREDICT = """\
classifier = saccade.load(RUN)
answers = saccade.predict(classifier, [images.read(place) for place in places], top=5)
said = [[f"{name} {share:.0%}" for name, share in answer.top] for answer in answers]
titles = [[f"true: {name}", *lines] for name, lines in zip(true, said, strict=True)]
show(places, ["\\n".join(lines) for lines in titles])"""

_SAVED = """\
logits = load_file(RUN / "predictions.safetensors")["logits"].float()
shares, best = logits[places].{probabilities}.topk(min(5, len(classes)))
said = [
    [f"{classes[i]} {share:.0%}" for i, share in zip(row, values, strict=True)]
    for row, values in zip(best.tolist(), shares.tolist(), strict=True)
]
titles = [[f"true: {name}", *lines] for name, lines in zip(true, said, strict=True)]
show(places, ["\\n".join(lines) for lines in titles])"""

_MISTAKES = """\
answers = load_file(RUN / "predictions.safetensors")
labels, shares = answers["labels"].tolist(), answers["logits"].float().softmax(1)
surest, said = shares.max(1)
wrong = (said != answers["labels"]).nonzero()[:, 0]
worst = wrong[surest[wrong].argsort(descending=True)][:8].tolist()

print(f"{len(wrong):,} of {len(said):,} images are answered wrongly; these are the surest of them")
lines = [f"said: {classes[said[i]]} {surest[i]:.0%}\\ntrue: {classes[labels[i]]}" for i in worst]
if worst:
    show(worst, lines)"""

_MISTAKES_OF_SEVERAL = """\
answers = load_file(RUN / "predictions.safetensors")
labels, shares = answers["labels"].float(), answers["logits"].float().sigmoid()
off, which = (shares - labels).abs().max(1)
worst = off.argsort(descending=True)[:8].tolist()

lines = []
for i in worst:
    held = "there" if labels[i, which[i]] else "not there"
    lines.append(f"{classes[which[i]]}: said {shares[i, which[i]]:.0%}\\ntrue: {held}")
show(worst, lines)"""

_OWN = """\
## A picture of your own

```python
for answer in saccade.predict(classifier, "cat.jpg"):
    print(answer.top)
```"""

_OWN_NETWORK = """\
The network of this run is your own, so the answers below are those that the run saved. To ask the
network itself: `classifier = saccade.load(RUN, module=YourNetwork())`."""

_NO_PICTURES = """\
There are no pictures here: the run is not finished, answers for no single images, or its validation
images were not found. Train to the end, or go to the folder where the run was started, and write
this notebook again: `saccade report RUN --notebook`."""


def write_notebook(run: Path, split: Split | None = None) -> tuple[Path, bool]:
    """Write ``notebook.ipynb`` in a run folder, and tell whether it is as it was just written.

    One that is there already and differs is kept: somebody may have changed or executed it.
    ``split`` are the validation images, None where they are not found. Raises UsageError when the
    folder is no run, DiskError.
    """
    record = Record.read(run, split)
    path = files.within(run, NAME)
    written = files.json_bytes(notebook(cells(record, Path.cwd())))
    if path.exists() and path.read_bytes() != written:
        return path, False
    files.write_bytes(path, written)
    return path, True


def notebook(texts: Iterable[Cell]) -> dict[str, Any]:
    """Return cells as a notebook that was not executed yet, for JSON."""
    return {"cells": [*map(_cell, texts)], "metadata": _METADATA, **_FORMAT}


def cells(record: Record, home: Path) -> Iterator[Cell]:
    """Yield the cells about a run, whose path begins in ``home``."""
    named = "\nfrom saccade.data.sources.ilsvrc import class_name" if _by_wnid(record) else ""
    where = {"home": _quoted(str(home)), "run": _quoted(str(record.folder))}
    yield (
        "markdown",
        f"# {record.name}\n\nA look into this run. Run the cells from top to bottom; change what "
        "you like.",
    )
    yield "code", _IMPORTS.format(more=named, **where)
    yield "markdown", "## Figures"
    yield "code", _FIGURES

    if panels := _panels(record):
        yield "markdown", f"## Curves\n\nOne point for each evaluation on `{record.watched}`."
        rows = [f"    {_quoted(title)}: {json.dumps(names)},\n" for title, names in panels.items()]
        shown = {"watched": _quoted(str(record.watched)), "axis": _quoted(record.axis)}
        yield "code", _CURVES.format(panels="{\n" + "".join(rows) + "}", **shown)
    yield from _looks(record)


def _looks(record: Record) -> Iterator[Cell]:
    """Yield the cells about single images, where there are answers for them."""
    if record.answers is None or record.split is None or not record.parts:
        yield "markdown", _NO_PICTURES
        return

    several = record.answers.labels.ndim > 1
    known = 'facts["dataset"]["classes"]'
    classes = f"[class_name(name) for name in {known}]" if _by_wnid(record) else known
    name = "images.classes[images.labels[place]]"
    shown = f"class_name({name})" if _by_wnid(record) else name
    truth = _TRUTH.format(shown=shown)
    yield "markdown", "## Validation images and the five best answers"
    yield "code", _PICTURES.format(classes=classes, truth=truth)

    is_own = str(record.section("model").get("name", "")).startswith("custom:")
    if is_own:
        yield "markdown", _OWN_NETWORK
        yield "code", _SAVED.replace("{probabilities}", "sigmoid()" if several else "softmax(1)")
    else:
        asks_by_wnid = _PREDICT.replace("{name} {share", "{class_name(name)} {share")
        yield "code", asks_by_wnid if _by_wnid(record) else _PREDICT
    yield "markdown", "## The worst mistakes"
    yield "code", _MISTAKES_OF_SEVERAL if several else _MISTAKES
    if not is_own:
        yield "markdown", _OWN


def _panels(record: Record) -> dict[str, list[str]]:
    """Return the plots, each with its columns of ``metrics.csv``; none without that file."""
    try:
        text = files.read_text(record.folder / _COURSE, _LIMIT_BYTES)
    except (OSError, ValueError):
        return {}
    there = next(csv.reader(text.splitlines()), [])
    objective = record.objective
    wanted = {
        "Loss": ["train_loss", "val_loss"],
        objective.curves_title: [measure.name for measure in objective.curves],
        **{course.label: [course.name] for course in objective.courses},
        "Learning rate": ["lr"],
    }
    kept = {title: [name for name in names if name in there] for title, names in wanted.items()}
    return {title: names for title, names in kept.items() if names} if record.axis in there else {}


def _quoted(text: str) -> str:
    """Return a text as Python and JSON write it."""
    return json.dumps(text, ensure_ascii=False)


def _by_wnid(record: Record) -> bool:
    """Tell whether the classes are ImageNet's, which people know by other names."""
    return record.titles != record.classes


def _cell(cell: Cell) -> dict[str, Any]:
    kind, text = cell
    own: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    # a name that follows from the text: the same run gives the same file
    name = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    lines = text.splitlines(keepends=True)
    return {"cell_type": kind, "id": name, "metadata": {}, **own, "source": lines}
