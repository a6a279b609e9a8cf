"""Architectures for the terminal: a table of costs, and one architecture stage by stage.

No memory is allocated for any.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.bar import Bar
from rich.table import Table

from saccade import cache, files, models
from saccade.errors import ConfigError, SaccadeError
from saccade.log import Log
from saccade.models import find, is_foreign, meta_model
from saccade.models.parts.cost import cost
from saccade.models.parts.stages import stages
from saccade.report.tables import WIDE, console, form

BAR_WIDTH, REST_WIDTH = 28, 64
LEGEND = (
    "For one image of px x px pixels. MACs: multiply-accumulates. MB/image: memory for the "
    "backward pass in float32; bfloat16 needs about half."
)


def rows(
    names: list[str], num_classes: int, image_size: int | None, log: Log, with_stages: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row per model: the cost of one image of ``image_size`` pixels (None = its usual
    size).

    The second list has the models that cannot use that size, with the reason; for a single model
    that is a ConfigError.
    """
    found, left_out = [], []
    counted = _Counted() if len(names) > 1 else None
    with log.progress("counting", len(names)) as bar:
        for done, name in enumerate(names, 1):
            try:
                found.append(
                    counted.row(name, num_classes, image_size)
                    if counted
                    else _row(name, num_classes, image_size, with_stages)
                )
            except SaccadeError as error:
                if len(names) == 1:
                    raise
                left_out.append(f"{name}: {error.what}")
            bar.update(done, name)

    if counted:
        counted.keep()
    if not found:
        raise ConfigError(
            "none of these models accepts such images", where=f"--image-size {image_size}"
        )
    return found, left_out


class _Counted:
    """A cache of rows, because counting all takes ten seconds.

    It is valid only for the same source code of all networks and the same torch; networks of other
    libraries are counted each time.
    """

    def __init__(self) -> None:
        known = hashlib.sha256(torch.__version__.encode())
        for file in sorted(Path(models.__path__[0]).rglob("*.py")):
            known.update(file.read_bytes())
        self._path = cache.within(f"models-{known.hexdigest()[:16]}.json")
        self._rows: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, SaccadeError):
            self._rows = dict(files.read_json(self._path))
        self._before = len(self._rows)

    def row(self, name: str, num_classes: int, image_size: int | None) -> dict[str, Any]:
        """Return what ``_row`` does, without its stages."""
        if is_foreign(name):
            return _row(name, num_classes, image_size, with_stages=False)
        key = f"{name} {num_classes} {image_size or 0}"
        if key not in self._rows:
            self._rows[key] = _row(name, num_classes, image_size, with_stages=False)
        return self._rows[key]

    def keep(self) -> None:
        """Write the new rows."""
        if len(self._rows) > self._before:
            cache.remember(self._path, self._rows)


def _row(name: str, num_classes: int, image_size: int | None, with_stages: bool) -> dict[str, Any]:
    entry = find(name)
    side = image_size or entry.image_size
    model = meta_model(name, num_classes=num_classes, image_size=side)
    try:
        counts = cost(model, side)
    # a network of another library says in its own way what it cannot take
    except Exception as error:
        if not is_foreign(name):
            raise
        raise ConfigError(
            f"{name} fails on {side} x {side} pixels: {error}", where="--image-size"
        ) from error
    row: dict[str, Any] = {
        "model": entry.name,
        "family": entry.family,
        "image_size": side,
        "params": counts.params,
        "macs": counts.macs,
        "activations": counts.activations,
        "kept_bytes": counts.kept_bytes,
        "last_map": f"{counts.last_map[0]}x{counts.last_map[1]}",
        "source": entry.source,
    }
    return row | ({"stages": [asdict(s) for s in stages(model, side)]} if with_stages else {})


def shown(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the columns for people.

    A narrow terminal has no space for family and source.
    """
    wide = console().width >= WIDE
    return [
        {"model": row["model"]}
        | ({"family": row["family"]} if wide else {})
        | {
            "px": row["image_size"],
            "params": row["params"],
            "MACs": row["macs"],
            "activations": row["activations"],
        }
        | {"MB/image": row["kept_bytes"] / 1e6}
        | ({"source": row["source"]} if wide else {})
        for row in table
    ]


def draw(row: dict[str, Any]) -> None:
    """Print a model stage by stage on stdout: output, blocks, parameters, and the share of the
    multiplications.
    """
    out, side = console(), row["image_size"]
    out.print(f"{row['model']}  ({row['source']})", style="bold", markup=False)
    out.print(
        f"{form(row['params'])} parameters, {form(row['macs'])} MACs, "
        f"{form(row['activations'])} activations and "
        f"{row['kept_bytes'] / 1e6:,.1f} MB kept for the backward pass (float32), for one "
        f"image of {side} x {side} px",
        markup=False,
    )
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for title in ("stage", "output", "blocks", "params", "MACs", "", "share"):
        justify = "left" if title in ("stage", "") else "right"
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_row("image", f"3x{side}x{side}")
    width = min(max(out.width - REST_WIDTH, 4), BAR_WIDTH)
    largest = max(stage["macs"] for stage in row["stages"]) or 1
    for stage in row["stages"]:
        share = stage["macs"] / max(row["macs"], 1)
        table.add_row(
            stage["name"],
            "x".join(map(str, stage["shape"])) or "-",
            str(stage["blocks"] or ""),
            f"{stage['params']:,}" if stage["params"] else "",
            f"{stage['macs'] / 1e6:,.1f} M" if stage["macs"] else "",
            Bar(largest, 0, stage["macs"], width=width, color="cyan"),
            f"{share:.1%}" if stage["macs"] else "",
        )
    out.print(table)
