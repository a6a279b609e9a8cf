"""``classify.py``: the program beside an ONNX file that classifies images with it.

Beside an encoder it is ``embed.py``, which writes features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.evaluation.classifier import Recipe
from saccade.exporting.facts import METADATA
from saccade.exporting.outputs import Outputs
from saccade.exporting.whole import Input, colours_seen

SNIPPETS = CLASSIFY, EMBED = "classify.py", "embed.py"
READ = "pixels_of"
"""The function in it that turns an image file into the input of the ONNX file."""


def snippet(recipe: Recipe, given: Input) -> str:
    """Return the program. It needs only onnxruntime, NumPy and Pillow."""
    features = Outputs.of(recipe).are_features
    usage = "IMAGE [MODEL]; without MODEL it takes model.onnx beside this file."
    if features:
        usage = "OUT.npy IMAGE [IMAGE ...]; it takes model.onnx beside this file."
    lines = [
        f'"""python {snippet_name(recipe)} {usage}"""',
        "",
        *["import json"] * (not features),
        "import pathlib",
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        "",
        # without onnxruntime: the proof of its pixels calls it alone
        f"def {READ}(file):",
        *(f"    {line}" for line in _read(recipe, given)),
        "    return pixels",
        "",
        "",
        'if __name__ == "__main__":',
        *(f"    {line}" for line in (_embedded() if features else _classified(recipe))),
    ]
    return "\n".join(lines) + "\n"


def in_short(recipe: Recipe, given: Input, facts: Mapping[str, Any]) -> str:
    """Return the few lines that use the file from a program of one's own.

    They are right for gray and RGB images of 8 bits; `snippet` takes every kind. ``facts`` are
    those of the receipt.
    """
    features = Outputs.of(recipe).are_features
    opened = 'Image.open("photo.jpg")'
    if recipe.exif == "apply":
        opened = f"ImageOps.exif_transpose({opened})"
    lines = [
        *["import json", "from pathlib import Path", ""] * (not features),
        "import numpy as np",
        "import onnxruntime",
        f"from PIL import Image{', ImageOps' * (recipe.exif == 'apply')}",
        "",
        f'image = {opened}.convert("RGB")',
        *_pixels(recipe, given),
        'session = onnxruntime.InferenceSession("model.onnx")',
        'answer = session.run(None, {"images": pixels})[0][0]',
        *_named(recipe, facts),
    ]
    return "\n".join(lines) + "\n"


def _named(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that print the answer for one image."""
    if Outputs.of(recipe).are_features:
        return ["print(answer)"]
    names = "names" if "names" in facts else "classes"
    known = f'names = json.loads(Path("export.json").read_bytes())["{names}"]'
    if recipe.objective == "classification":
        return [known, "print(names[answer.argmax()])"]
    return [known, "print([name for name, logit in zip(names, answer) if logit > 0])"]


def snippet_name(recipe: Recipe) -> str:
    """Return the name of the program."""
    return EMBED if Outputs.of(recipe).are_features else CLASSIFY


def _embedded() -> list[str]:
    """Return the lines that write the features of images."""
    return [
        "if not sys.argv[2:]:",
        "    sys.exit(__doc__)",
        'model = pathlib.Path(__file__).with_name("model.onnx")',
        'session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])',
        f'rows = [session.run(None, {{"images": {READ}(one)}})[0] for one in sys.argv[2:]]',
        "features = np.concatenate(rows)",
        "np.save(sys.argv[1], features)",
        "print(features.shape)",
    ]


def _classified(recipe: Recipe) -> list[str]:
    """Return the lines that print the classes of an image."""
    return [
        "if not sys.argv[1:]:",
        "    sys.exit(__doc__)",
        'model = sys.argv[2] if sys.argv[2:] else pathlib.Path(__file__).with_name("model.onnx")',
        'session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])',
        f'about = json.loads(session.get_modelmeta().custom_metadata_map["{METADATA}"])',
        f'logits = session.run(None, {{"images": {READ}(sys.argv[1])}})[0][0]',
        *_shares(recipe),
        "names = about.get('names', about['classes'])",
        "for place in np.argsort(-shares)[:5]:",
        '    print(f"{shares[place]:7.2%}  {names[place]}")',
    ]


def _read(recipe: Recipe, given: Input) -> list[str]:
    """Return the lines that turn a file into the input of the ONNX file."""
    turns = recipe.exif == "apply"

    lines = [
        "image = opened = Image.open(file)",
        *["image = ImageOps.exif_transpose(opened)"] * turns,
        'if image.mode.startswith("I"):  # 16 bits',
        "    levels = np.asarray(image)",
        "    if levels.min() < 0 or levels.max() > 65535:",
        '        raise ValueError("gray values above 16 bits are not supported")',
        '    if getattr(opened, "tag_v2", {}).get(262) == 0:  # a TIFF in which white is 0',
        "        levels = 65535 - levels",
        '    levels = np.where(levels == image.info.get("transparency"), 65535, levels)',
        "    image = Image.fromarray((levels >> 8).astype(np.uint8))",
        'if image.mode in ("F", "LAB", "HSV"):',
        '    raise ValueError(f"pixels of mode {image.mode} are not supported")',
        "if image.has_transparency_data:  # on white, as a browser shows it",
        '    white = Image.new("RGBA", image.size, "white")',
        '    image = Image.alpha_composite(white, image.convert("RGBA"))',
        'image = image.convert("RGB")',
    ]
    return lines + _pixels(recipe, given)


def _pixels(recipe: Recipe, given: Input) -> list[str]:
    """Return the lines that turn an RGB image into the input of the ONNX file."""
    lines = _squared(recipe) if given != "image" else []
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
    """Return the lines that make an image square, with the roundings of `fit`."""
    side, fit = recipe.eval_side, recipe.framing
    how = f"Image.Resampling.{recipe.interpolation.upper()}"
    if fit.how == "squash":
        return [f"image = image.resize(({side}, {side}), {how})"]

    if fit.how == "pad":
        return [
            f"scale = {side} / max(image.size)",
            "size = [max(round(scale * length), 1) for length in image.size]",
            f'square = Image.new("RGB", ({side}, {side}), {fit.fill})',
            f"place = [({side} - length) // 2 for length in size]",
            f"square.paste(image.resize(size, {how}), place)",
            "image = square",
        ]

    short = fit.short_side(side)
    return [
        f"size = [{short} * length // min(image.size) for length in image.size]",
        f"image = image.resize(size, {how})",
        f"left, top = (round((length - {side}) / 2) for length in size)",
        f"image = image.crop((left, top, left + {side}, top + {side}))",
    ]


def _shares(recipe: Recipe) -> list[str]:
    if recipe.objective == "classification":
        return ["shares = np.exp(logits - logits.max())", "shares /= shares.sum()"]
    return ["shares = 1 / (1 + np.exp(-logits))"]
