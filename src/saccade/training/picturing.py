"""Images of a check: the outputs of a learner for a few fixed held-out images."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saccade import files
from saccade.errors import DiskError
from saccade.evaluation.representation import pictured
from saccade.log import Log
from saccade.training.run import Run

FOLDER = "visuals"
LEAST_SIDE = 96
"""Pixels of a side in a picture: smaller images are enlarged to that, pixel by pixel."""
GAP = 4


def picture(run: Run, log: Log) -> None:
    """Write ``visuals/step-<n>.png``, if the method has something to show.

    Only the first rank does it. A disk error is a warning and does not end the run.
    """
    plan = run.plan
    if not plan.world.leads or not plan.objective.columns_of_pictures:
        return
    shown = pictured(run.state.final_model, plan.data.chosen_on, run.means())
    if shown is None:
        return

    path = files.within(plan.folder, FOLDER) / f"step-{run.state.step:08d}.png"
    try:
        files.write_bytes(path, sheet(shown))
    except DiskError as error:
        log.warn(f"the images of step {run.state.step} could not be written: {error.what}")


def sheet(shown: NDArray[np.uint8]) -> bytes:
    """Return a PNG of images, uint8 (n, columns, S, S, 3): one image per row, its columns side by
    side.

    More than three images are in two blocks beside each other.
    """
    count, columns, side = shown.shape[:3]
    enlarged = max(-(-LEAST_SIDE // side), 1)
    shown = shown.repeat(enlarged, axis=2).repeat(enlarged, axis=3)
    side *= enlarged

    blocks = 2 if count > 3 else 1
    rows, step = -(-count // blocks), side + GAP
    across = blocks * columns * step + (blocks - 1) * 3 * GAP - GAP
    canvas = np.full((rows * step - GAP, across, 3), 255, np.uint8)
    for number in range(count):
        block, row = divmod(number, rows)
        for column in range(columns):
            left = (block * columns + column) * step + block * 3 * GAP
            canvas[row * step : row * step + side, left : left + side] = shown[number, column]

    out = io.BytesIO()
    Image.fromarray(canvas).save(out, "PNG")
    return out.getvalue()
