"""A classifier as a graph of plain operations, from which every format is made."""

from __future__ import annotations

import torch
from torch.export import Dim, ExportedProgram

from saccade.errors import ExportError
from saccade.exporting.whole import Whole

MOST_BATCH = 1 << 16
MOST_PIXELS = 1 << 15


def captured(whole: Whole) -> ExportedProgram:
    """Capture a classifier for batches of any size, or for one image of any height and width.

    Raises ExportError if it cannot be captured, or only for one batch size: `torch.onnx.export`
    alone would fix that size without a warning.
    """
    if whole.given == "image":
        axes = {1: Dim("height", max=MOST_PIXELS), 2: Dim("width", max=MOST_PIXELS)}
    else:
        axes = {0: Dim("batch", max=MOST_BATCH)}
    try:
        with torch.no_grad():
            program = torch.export.export(whole, (whole.example(),), dynamic_shapes=(axes,))
    except Exception as error:  # any operation of any network may have its own way to refuse
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        raise ExportError(
            f"the network cannot be captured as a graph: {type(error).__name__}: {reason}",
            where=f"a network {whole.recipe.model}",
            fix=(
                "write the forward pass without Python branches on values, and with x.shape[0] "
                "instead of len(x)"
            ),
        ) from error
    # lines of source code with the folders of this machine: nobody else's business
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
