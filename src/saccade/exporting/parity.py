"""Check that the program beside an ONNX file reads files of every kind as this one does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from saccade.data.images import decode
from saccade.data.images.orientation import ORIENTATION_TAG
from saccade.errors import ExportError
from saccade.evaluation.classifier import Recipe
from saccade.exporting.answers import asking
from saccade.exporting.whole import Input

Array = np.ndarray[Any, Any]

MEAN_LEVELS = 0.5
"""Largest mean distance of pixels, in levels of 255: a shift by one pixel is more."""

LONG_SIDE, QUARTER_TURN = 512, 6
PHOTOMETRIC_TAG = 262
"""Of a TIFF, 0 where white is 0. *Source:* TIFF 6.0, section 8."""


def require_same_pixels(
    program: Path, recipe: Recipe, pixels: Array, given: Input
) -> dict[str, dict[str, float]]:
    """Return how far the pixels of the program are from ours, by the kind of file, in levels.

    The files are made from one image, uint8 (height, width, 3). Raises ExportError if the program
    reads one of them differently.
    """
    found = {}
    with asking("snippet", program, threads=1) as ask:
        for kind, data in files_of(pixels).items():
            theirs = ask(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
            apart = _apart(_levels(theirs, recipe, given), _ours(data, recipe, given))
            mean, most = round(float(apart.mean()), 3), round(float(apart.max()), 3)
            found[kind] = {"mean_levels": mean, "most_levels": most}

    worst = max(found, key=lambda kind: found[kind]["mean_levels"])
    if found[worst]["mean_levels"] > MEAN_LEVELS:
        raise ExportError(
            f"{program.name} sees other pixels than the network in a file of the kind "
            f"'{worst}': {found[worst]['mean_levels']:g} levels of 255 apart in the mean",
            fix="nothing was written; report this with the versions of Pillow and saccade",
        )
    return found


def files_of(pixels: Array) -> dict[str, bytes]:
    """Return an image, uint8 (height, width, 3), as a file of each kind."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONG_SIDE, LONG_SIDE))
    gray, see_through, turned = image.convert("L"), image.convert("RGBA"), Image.Exif()
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    turned[ORIENTATION_TAG] = QUARTER_TURN
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)

    def saved(one: Image.Image, kind: str, **more: Any) -> bytes:
        out = io.BytesIO()
        one.save(out, kind, **more)
        return out.getvalue()

    return {
        "RGB": saved(image, "PNG"),
        "JPEG": saved(image, "JPEG"),
        "gray": saved(gray, "PNG"),
        "CMYK": saved(image.convert("CMYK"), "JPEG"),
        "alpha": saved(see_through, "PNG"),
        "palette": saved(image.convert("P"), "PNG"),
        "EXIF": saved(image, "JPEG", exif=turned),
        "16 bits": saved(deep, "PNG"),
        "16 bits, white is 0": saved(deep, "TIFF", tiffinfo={PHOTOMETRIC_TAG: 0}),
    }


def _apart(theirs: Array, ours: Array) -> Array:
    """Return the distance of pixels, float (H, W, 3); infinite if the sizes differ."""
    return np.abs(theirs - ours) if theirs.shape == ours.shape else np.full((1, 1, 3), np.inf)


def _ours(data: bytes, recipe: Recipe, given: Input) -> Array:
    """Return a file in the classifier's view, float (H, W, 3) in levels."""
    pixels = decode.decode(data, exif=recipe.exif)
    if given == "image":
        return pixels.astype(np.float64)
    square = recipe.framing.square(pixels, recipe.eval_side)
    return square.permute(1, 2, 0).double().numpy()


def _levels(theirs: Array, recipe: Recipe, given: Input) -> Array:
    """Return the program's input for the ONNX file, one image, as float (H, W, 3) in levels."""
    if given != "float":
        return theirs[0].astype(np.float64)
    order = -1 if recipe.channels == "bgr" else 1
    planes = theirs[0].astype(np.float64).transpose(1, 2, 0)[..., ::order]
    return 255 * (planes * np.array(recipe.std) + np.array(recipe.mean))
