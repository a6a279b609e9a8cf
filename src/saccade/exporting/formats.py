"""The kinds of files that a classifier leaves as, and how each is made."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram

from saccade.errors import UsageError
from saccade.exporting import onnx_file
from saccade.exporting.facts import METADATA
from saccade.exporting.graph import captured
from saccade.exporting.whole import Whole


@dataclass(slots=True)
class Material:
    """What files are made from; the graph is captured when it is first asked for."""

    whole: Whole
    facts: Mapping[str, Any]
    _program: ExportedProgram | None = field(default=None, init=False)

    @property
    def program(self) -> ExportedProgram:
        """The graph of the classifier; raises ExportError where there is none."""
        if self._program is None:
            self._program = captured(self.whole)
        return self._program

    @property
    def said(self) -> str:
        """What the file says of itself, as JSON."""
        return json.dumps(self.facts, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its name, how it is made, and ``kind``, how it is asked."""

    file: str
    make: Callable[[Material], tuple[bytes, dict[str, Any]]]
    kind: str
    require: Callable[[], None] = lambda: None


def _onnx(material: Material) -> tuple[bytes, dict[str, Any]]:
    data = onnx_file.onnx_bytes(material.program, {METADATA: material.said})
    return data, {"opset": onnx_file.opset(data)}


def _pt2(material: Material) -> tuple[bytes, dict[str, Any]]:
    out = io.BytesIO()
    torch.export.save(material.program, out, extra_files={f"{METADATA}.json": material.said})
    return out.getvalue(), {"torch": torch.__version__}


FORMATS = {
    "onnx": Format("model.onnx", _onnx, "onnx", onnx_file.require),
    "pt2": Format("model.pt2", _pt2, "pt2"),
}


def chosen(names: str) -> list[str]:
    """Read a list of formats such as ``onnx,pt2``; raises UsageError for one that is not known."""
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(
                f"there is no format '{name}'", where="--format", fix=f"give {', '.join(FORMATS)}"
            )
        FORMATS[name].require()
    if not wanted:
        raise UsageError("no format is named", where="--format", fix="give onnx, or leave it out")
    return list(dict.fromkeys(wanted))
