"""What an exported file says of itself, and the lines of code that use it."""

from __future__ import annotations

from typing import Any

from saccade._version import __version__
from saccade.evaluation.classifier import Recipe
from saccade.exporting.whole import Input, colours_seen

METADATA = "saccade"

_TAKES = {
    "uint8": "RGB images of the final size: uint8 (batch, height, width, 3)",
    "image": "one RGB image of any size: uint8 (1, height, width, 3)",
    "float": "normalised images: float32 (batch, 3, height, width)",
}


def facts(recipe: Recipe, given: Input) -> dict[str, Any]:
    """Return what must be known to use a file, as JSON; it is in the metadata of the file, too."""
    fit = recipe.framing
    inside = {
        "uint8": "normalisation",
        "image": "resizing, cropping and normalisation",
        "float": "",
    }

    return {
        "classes": list(recipe.classes),
        "takes": _TAKES[given],
        "answers": "logits: float32 (batch, classes)",
        "inside": inside[given],
        "views": recipe.eval_views,
        "preprocessing": {
            "exif": recipe.exif,
            "fit": fit.how,
            "short_side": fit.short_side(recipe.eval_side) if fit.how == "crop" else None,
            "size": recipe.eval_side,
            "fill": list(fit.fill) if fit.how == "pad" else None,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
            "channels": recipe.channels,
        },
        "network": recipe.model,
        "objective": recipe.objective,
        "saccade": __version__,
    }


def snippet(recipe: Recipe, given: Input, file: str = "model.onnx") -> str:
    """Return a program that classifies an image file with the ONNX file, NumPy and Pillow alone."""
    lines = [
        "import json",
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        f'about = json.loads(session.get_modelmeta().custom_metadata_map["{METADATA}"])',
        "",
        *_read(recipe, given),
        "",
        'logits = session.run(None, {"images": pixels})[0][0]',
        *_shares(recipe),
        "for place in np.argsort(-shares)[:5]:",
        "    print(f\"{shares[place]:7.2%}  {about['classes'][place]}\")",
    ]
    return "\n".join(lines) + "\n"


def _read(recipe: Recipe, given: Input) -> list[str]:
    """Return the lines from a file to what the ONNX file takes."""
    opened = "Image.open(sys.argv[1])"
    if recipe.exif == "apply":
        opened = f"ImageOps.exif_transpose({opened})"
    lines = [
        f"image = {opened}",
        'if image.mode.startswith("I"):  # 16 bits',
        "    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))",
        "if image.has_transparency_data:  # on white, as a browser shows it",
        '    white = Image.new("RGBA", image.size, "white")',
        '    image = Image.alpha_composite(white, image.convert("RGBA"))',
        'image = image.convert("RGB")',
    ]

    if given != "image":
        lines += _squared(recipe)
    lines.append("pixels = np.asarray(image)[None]")
    if given == "float":
        order = "[..., ::-1]" * (recipe.channels == "bgr")
        mean, std = map(list, colours_seen(recipe))
        lines += [
            f"pixels = (pixels{order} / 255 - {mean}) / {std}",
            "pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)",
        ]
    return lines


def _squared(recipe: Recipe) -> list[str]:
    side, fit = recipe.eval_side, recipe.framing
    bilinear = "Image.Resampling.BILINEAR"
    if fit.how == "squash":
        return [f"image = image.resize(({side}, {side}), {bilinear})"]
    if fit.how == "pad":
        return [f"image = ImageOps.pad(image, ({side}, {side}), {bilinear}, color={fit.fill})"]
    short = fit.short_side(side)
    return [
        f"scale = {short} / min(image.size)",
        f"image = image.resize([round(scale * length) for length in image.size], {bilinear})",
        f"left, top = ((length - {side}) // 2 for length in image.size)",
        f"image = image.crop((left, top, left + {side}, top + {side}))",
    ]


def _shares(recipe: Recipe) -> list[str]:
    if recipe.objective == "classification":
        return ["shares = np.exp(logits - logits.max())", "shares /= shares.sum()"]
    return ["shares = 1 / (1 + np.exp(-logits))"]
