"""An ONNX file in 8 bits: weights int8, activations uint8, as pairs of QuantizeLinear and
DequantizeLinear.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from saccade.errors import ExportError
from saccade.exporting.calibration import Ranges

LIMITS = ("Relu", "Clip")
"""Operators that become the ends of a range: otherwise what stands before them is rounded, too, to
coarser steps, as it reaches further.
"""

IN_8_BITS = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    *LIMITS,
)
"""Operators whose inputs and outputs are quantised; scale and bias of a norm must stay floats."""

SMALLER = 3
"""The file must be smaller than the float file by this factor; otherwise weights are still floats.
"""

NODES_BYTES = 100_000
"""Bytes of the graph description, which the comparison ignores."""

_MARK = "onnx.infer"


def int8_bytes(
    data: bytes, measured: Callable[[Any, list[str]], Ranges], *, per_channel: bool = True
) -> bytes:
    """Return a float ONNX file in 8 bits, with its metadata.

    ``measured`` returns the ranges of the tensors that it is given. Weights have one scale per
    output channel, or one per tensor; the ranges give the scales of activations. Raises
    ExportError if the graph has nothing to quantise.
    """
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data))
    # says that shapes are known: files would be written for that otherwise
    model.metadata_props.add(key=_MARK, value="onnxruntime.quant")
    found = measured(model, _activations(model))

    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=per_channel,
            # pairs of products then fit into the 16 bits in which CPUs without VNNI add them
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, dict(found)),
            nodes_to_quantize=[],
            nodes_to_exclude=_before_weights(model),
            op_types_to_quantize=list(IN_8_BITS),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made = quantizer.model.model

    kept = [one for one in made.metadata_props if one.key != _MARK]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def scales(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scales in a file, float32 () or (channels,), by the name of the scaled tensor."""
    import onnx

    model = onnx.load_model_from_string(data)
    held = {one.name: one for one in model.graph.initializer}
    return {
        node.input[0]: onnx.numpy_helper.to_array(held[node.input[1]])
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in held
    }


def read_back(data: bytes, float_bytes: int) -> dict[str, Any]:
    """Return the 8-bit facts of a file, as JSON.

    ``float_bytes`` is the size of the float file. Raises ExportError if weights are still floats,
    or if a scale is not a positive number.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    int8 = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8]
    weights = {one.name for one in int8 if len(one.dims) > 1}
    found = scales(data)
    broken = [name for name, one in found.items() if not (np.isfinite(one) & (one > 0)).all()]
    if broken:
        raise ExportError(
            f"the scale of '{broken[0]}' in the file is not a positive number",
            fix="export without --int8, and report this network",
        )
    if not weights or len(data) > float_bytes / SMALLER + NODES_BYTES:
        raise ExportError(
            f"the 8-bit file has {len(data):,} bytes, the float file {float_bytes:,}: some "
            "weights are still floats",
            fix="export without --int8, and report this network",
        )
    return {
        "weights": "int8",
        "activations": "uint8",
        "tensors_of_weights": len(weights),
        "scales": len(found),
        "smallest_scale": float(min(one.min() for one in found.values())),
        "largest_scale": float(max(one.max() for one in found.values())),
        "float_bytes": float_bytes,
    }


def _activations(model: Any) -> list[str]:
    """Return the names of the float tensors, without weights, at operators that are quantised."""
    import onnx

    weights = {one.name for one in model.graph.initializer}
    floats = {
        one.name
        for one in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    at = [node for node in model.graph.node if node.op_type in IN_8_BITS]
    if not at:
        raise ExportError(
            f"the network has none of {', '.join(IN_8_BITS)}", fix="export without --int8"
        )
    return [n for node in at for n in (*node.input, *node.output) if n in floats - weights]


def _before_weights(model: Any) -> list[str]:
    """Return the names of the nodes before the first weights: pixels are normalised in floats."""
    behind: set[str] = set()
    ahead = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") or behind.intersection(node.input):
            behind.update(node.output)
        else:
            ahead.append(node.name)
    return ahead


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the quantiser inside the ``with`` block: the result is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
