"""A graph as one ONNX file."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from importlib import metadata

from torch.export import ExportedProgram

from saccade.errors import ExportError, UsageError
from saccade.exporting.attention import translations

INPUT = "images"
LARGEST_BYTES = 2_000_000_000
"""Largest protobuf file, in bytes: above it, the weights need a second file."""

INSTALL = "pip install onnx onnxruntime 'onnxscript>=0.7.2'"
OLDEST_ONNXSCRIPT = (0, 7, 2)


def require() -> None:
    """Raise UsageError if a package for ONNX is missing or too old."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ONNX needs a package that is not installed: {error.name}",
            where="--format onnx",
            fix=INSTALL,
        ) from error

    found = metadata.version("onnxscript")
    if tuple(map(int, re.findall(r"\d+", found)[:3])) < OLDEST_ONNXSCRIPT:
        raise UsageError(
            f"onnxscript {found} is too old: it gives two norms that are folded one name, and the "
            "file answers at random",
            where="--format onnx",
            fix=INSTALL,
        )


def onnx_bytes(
    program: ExportedProgram, remarks: Mapping[str, str], output: str = "logits"
) -> bytes:
    """Return the file: standard operators only, with ``remarks`` in its metadata.

    ``output`` is the name of its output.

    Raises ExportError if it is not valid ONNX, needs other operators, is too large for one file, or
    has a constant in place of a free dimension.
    """
    import onnx
    import torch.onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # of the exporter about itself; what is wrong is found below
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[output],
            external_data=False,
            verbose=False,
            custom_translation_table=translations(program),
        )
    assert made is not None, "without a file the program is returned"
    model = made.model_proto

    if model.ByteSize() > LARGEST_BYTES:
        raise ExportError("the network is too large for one ONNX file", fix="use --format pt2")
    # what the exporter noted of its own work is larger than the weights of a small network
    for node in model.graph.node:
        del node.metadata_props[:]
    for key, value in remarks.items():
        model.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the exporter wrote an invalid ONNX file: {error}", fix="use --format pt2"
        ) from error
    _refuse_strangers(model)
    _refuse_constants(model)
    return bytes(model.SerializeToString())


def opset(data: bytes) -> int:
    """Return the version of the standard operators that a file needs."""
    import onnx

    model = onnx.load_model_from_string(data)
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def _refuse_strangers(model: object) -> None:
    """Raise ExportError if a node is not a standard operator."""
    nodes = list(model.graph.node)  # type: ignore[attr-defined]
    for function in model.functions:  # type: ignore[attr-defined]
        nodes += function.node
    strange = sorted({n.op_type for n in nodes if n.domain not in ("", "ai.onnx")})
    if strange:
        raise ExportError(
            f"the file needs operators that only some programs support: {', '.join(strange)}",
            fix="use --format pt2",
        )


def _refuse_constants(model: object) -> None:
    """Raise ExportError if no dimension of the input is free."""
    shape = model.graph.input[0].type.tensor_type.shape.dim  # type: ignore[attr-defined]
    if not any(one.dim_param for one in shape):
        raise ExportError(
            "the batch size became a constant in the ONNX file",
            fix="use --format pt2, and report this network",
        )
