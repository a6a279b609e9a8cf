"""The formats of exported files: how each is written, and how it is run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from saccade._version import __version__
from saccade.errors import ExportError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import onnx_file, state_file, timm_folder, trained_int8
from saccade.exporting.answers import Ask, asking
from saccade.exporting.facts import METADATA, facts
from saccade.exporting.graph import captured
from saccade.exporting.outputs import Outputs
from saccade.exporting.whole import Input, Whole

Contents = dict[str, bytes]


@dataclass(slots=True)
class Material:
    """The inputs of all formats; the graph is captured when it is first needed."""

    classifier: Classifier
    whole: Whole
    facts: Mapping[str, Any]
    _program: ExportedProgram | None = field(default=None, init=False)

    @classmethod
    def of(cls, classifier: Classifier, given: Input) -> Material:
        """Return the material of files with this input."""
        whole = Whole(classifier, given)
        width = whole.width if whole.encodes else 0
        return cls(classifier, whole, facts(classifier.recipe, given, width))

    @property
    def program(self) -> ExportedProgram:
        """The graph of the classifier; raises ExportError if it cannot be captured."""
        if self._program is None:
            self._program = captured(self.whole)
        return self._program

    @property
    def said(self) -> str:
        """The description that the file carries, as JSON."""
        return json.dumps(self.facts, ensure_ascii=False)


Asked = Callable[[Material, Path, int], AbstractContextManager[Ask]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: a file or, without a suffix, a folder.

    ``make`` returns the contents by file name and the entries of the receipt; ``asked`` opens it
    again with a number of threads; ``takes`` is its input format if that cannot be chosen. ``says``
    is what the file must say of itself when it is opened again.
    """

    name: str
    make: Callable[[Material], tuple[Contents, dict[str, Any]]]
    asked: Asked
    require: Callable[[], None] = lambda: None
    takes: Input | None = None
    says: Callable[[Material], Mapping[str, Any]] = lambda _material: {}


def _in_a_process(kind: str) -> Asked:
    return lambda _material, path, threads: asking(kind, path, threads)


def _onnx(material: Material) -> tuple[Contents, dict[str, Any]]:
    output = Outputs.of(material.classifier.recipe).name
    data = onnx_file.onnx_bytes(material.program, {METADATA: material.said}, output)
    said = {"opset": onnx_file.opset(data)}
    return {"model.onnx": data}, said | trained_int8.read_back(data, material.classifier)


def _pt2(material: Material) -> tuple[Contents, dict[str, Any]]:
    out = io.BytesIO()
    torch.export.save(material.program, out, extra_files={f"{METADATA}.json": material.said})
    return {"model.pt2": out.getvalue()}, {"torch": torch.__version__}


def _pt(material: Material) -> tuple[Contents, dict[str, Any]]:
    data, names = state_file.state_bytes(material.whole.network)
    return {"model.pt": data}, {"names": names, "torch": torch.__version__}


def _timm(material: Material) -> tuple[Contents, dict[str, Any]]:
    contents, theirs = timm_folder.contents(material.whole, material.classifier.recipe)
    return contents, {"timm_name": theirs}


def _pickle(material: Material) -> tuple[Contents, dict[str, Any]]:
    out = io.BytesIO()
    try:
        torch.save(material.whole, out)
    except Exception as error:  # any class of any network may have its own way to refuse
        raise ExportError(
            f"the network cannot be pickled: {error}",
            where="--format pickle",
            fix="define its classes in a module of their own, or use --format pt2",
        ) from error
    needs = f"saccade {__version__}; loading it runs code"
    return {"model.pickle": out.getvalue()}, {"needs": needs, "torch": torch.__version__}


FORMATS = {
    "onnx": Format(
        "model.onnx", _onnx, _in_a_process("onnx"), onnx_file.require, says=lambda made: made.facts
    ),
    "pt2": Format("model.pt2", _pt2, _in_a_process("pt2"), says=lambda made: made.facts),
    "pt": Format(
        "model.pt",
        _pt,
        lambda material, path, _threads: state_file.read_back(material.classifier, path),
        takes="float",
    ),
    "timm": Format(
        "timm",
        _timm,
        _in_a_process("timm"),
        timm_folder.require,
        takes="float",
        says=lambda made: timm_folder.says(made.classifier.recipe),
    ),
    "pickle": Format("model.pickle", _pickle, _in_a_process("pickle")),
}


def chosen(names: str) -> list[str]:
    """Read a list of formats such as ``onnx,pt2``; raises UsageError for an unknown one."""
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(
                f"there is no format '{name}'",
                where="--format",
                fix=f"choose from {', '.join(FORMATS)}",
            )
        FORMATS[name].require()
    if not wanted:
        raise UsageError(
            "no format was given",
            where="--format",
            fix="write a format, such as onnx, or remove the option",
        )
    return list(dict.fromkeys(wanted))
