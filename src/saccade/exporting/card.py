"""The model card: what people, and the pages of model hubs, read about exported files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from saccade.data.sources.ilsvrc import class_name
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.views import phrase
from saccade.exporting.folder import TAG
from saccade.exporting.outputs import Outputs
from saccade.models.weights.content import MODEL_FILE
from saccade.printable import printable
from saccade.recipes.receipts import without_place
from saccade.units import human_count

LONGEST_LIST = 20
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_LIBRARIES = {"onnx": "onnx", "timm": "timm"}
"""What hubs call the programs that load a file; all others need torch."""

_FITS = {
    "crop": "The short side is resized to {short} px, and the central {side} x {side} px are kept",
    "squash": "Width and height are resized to {side} px",
    "pad": "The long side is resized to {side} px, and the image is centred on RGB {fill}",
}


def card(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the card as Markdown with the head that hubs read.

    ``run`` are the facts of the run, empty where there is none.
    """
    return "\n".join([*_head(recipe, receipt, run), "", *_body(recipe, receipt, run)]) + "\n"


def _head(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    fact = _first(receipt)
    name = _data_name(run)
    made = receipt["files"]
    library = _LIBRARIES.get("timm" if "timm" in made else next(iter(made)), "pytorch")
    yield "---"
    yield f"library_name: {library}"
    outputs = Outputs.of(recipe)
    task = "image-feature-extraction" if outputs.are_features else "image-classification"
    yield f"pipeline_tag: {task}"
    yield "license: unknown"
    yield f"tags:\n- {task}\n- {TAG}"

    # the form in which hubs show figures
    if not outputs.are_features and "top1" in fact["exported"]:
        yield "model-index:"
        yield f"- name: {json.dumps(recipe.model)}"
        yield "  results:"
        yield "  - task: {type: image-classification}"
        yield f"    dataset: {{name: {json.dumps(name)}, type: {json.dumps(name)}}}"
        yield f"    metrics: [{{type: accuracy, value: {fact['exported']['top1']:.4f}}}]"
    yield "---"


def _body(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    is_encoder = Outputs.of(recipe).are_features
    yield from (_encoder if is_encoder else _classifier)(recipe, receipt)

    yield "\n## Preprocessing\n"
    yield from _preprocessing(recipe, receipt)

    yield "\n## Training\n"
    yield from _training(run)

    yield "\n## Use\n"
    yield from _use(receipt)

    yield "\n## Limits\n"
    classes = ", and an image of none of the classes still gets one of them" * (not is_encoder)
    figure = "What was measured" if is_encoder else "Accuracy"
    yield (
        f"The result holds for images like the evaluated ones. {figure} may be lower on "
        f"photographs from other cameras, places or times{classes}. This model was not tested for "
        "decisions about people."
    )
    yield "\nThe program does not know the licence: set `license` above before you publish."


def _classifier(recipe: Recipe, receipt: Mapping[str, Any]) -> Iterator[str]:
    fact, objective = _first(receipt), recipe.learned
    shown, more = recipe.classes[:LONGEST_LIST], len(recipe.classes) - LONGEST_LIST
    yield f"# {_plain(recipe.model)}: {len(recipe.classes):,} {objective.noun}"
    yield ""
    yield f"{', '.join(map(_plain, shown))}{f' and {more:,} more' * (more > 0)}."

    yield "\n## Figures\n"
    interval = objective.interval(fact["exported"])
    sure = f", 95 % interval {interval[0]:.1%} to {interval[1]:.1%}" if interval else ""
    yield (
        f"{'  '.join(objective.shown(fact['exported']))} on {judges(fact)}{sure}. The exported "
        "files were evaluated on these images in a process without the training program; "
        "`export.json` has the results."
    )
    yield from _of_run(recipe, receipt)


def _encoder(recipe: Recipe, receipt: Mapping[str, Any]) -> Iterator[str]:
    fact, result = _first(receipt), receipt["run_result"]
    yield f"# {_plain(recipe.model)}: {receipt['width']:,} features"
    yield ""
    yield f"An encoder, pretrained without labels ({recipe.objective}). It has no classes."

    yield "\n## Figures\n"
    if result:
        where = f"{human_count(result['n'], 'image')} of '{result['split']}'"
        yield f"{'  '.join(recipe.learned.shown(result))} on {where}, as the run ended.\n"
    yield (
        f"The features of the exported files differ by at most {_apart(receipt)} of their standard "
        f"deviation from those of the run, on {judges(fact)}. The files were evaluated on these "
        "images in a process without the training program; `export.json` has the results."
    )


def _apart(receipt: Mapping[str, Any]) -> str:
    largest = max(one["largest_difference_of_std"] for one in receipt["files"].values())
    return f"{largest:.1g}"


def judges(fact: Mapping[str, Any]) -> str:
    """Say on which images a file was evaluated: ``400 of 1,959 images of 'val'``."""
    some = "" if fact["images"] == fact["of_images"] else f"{fact['images']:,} of "
    return f"{some}{human_count(fact['of_images'], 'image')} of '{fact['split']}'"


def _training(run: Mapping[str, Any]) -> Iterator[str]:
    if not run:
        yield "There are no records of the training of these weights."
        return
    data = run["dataset"]
    yield f"- {data['train']:,} training images of `{_data_name(run)}`, {data['val']:,} to validate"
    yield f"- {run['model']['params']:,} parameters, {human_count(run['steps'], 'step')}"
    # a card is published: folders of this machine are nobody's business
    command = printable(without_place(run.get("command") or ""), keep="")
    yield f"- ``saccade {command}``" if command else "- trained from Python"
    if run.get("init"):
        yield "- started from other weights (named in `run.json` of the run)"


def _of_run(recipe: Recipe, receipt: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the run itself counted where that differs: it may have computed in bfloat16."""
    fact, result = _first(receipt), receipt["run_result"] or {}
    is_final = str(receipt["from"].get("weights", "")).endswith(MODEL_FILE)
    same_images = (result.get("split"), result.get("n")) == (fact["split"], fact["images"])
    if not (is_final and same_images):
        return
    objective = recipe.learned
    before, after = objective.shown(result), objective.shown(fact["classifier"])
    if before != after:
        how = f"in {recipe.precision or 'fp32'}{phrase(result.get('views', 1))}"
        yield f"\nThe run itself, {how}, counted {'  '.join(before)}."


def _preprocessing(recipe: Recipe, receipt: Mapping[str, Any]) -> Iterator[str]:
    fit, side = recipe.framing, recipe.eval_side
    turns = "applied" if recipe.exif == "apply" else "ignored"
    yield f"- The EXIF orientation of a file is {turns}. Transparency is put on white."
    yield "- Gray becomes RGB. Of 16 bits the upper 8 are taken."
    framed = _FITS[fit.how].format(short=fit.short_side(side), side=side, fill=fit.fill)
    yield f"- {framed}, by {recipe.interpolation} interpolation with antialiasing."
    order = "blue, green, red" if recipe.channels == "bgr" else "red, green, blue"
    yield (
        f"- Values in 0..1 are normalised by mean {list(recipe.mean)} and standard deviation "
        f"{list(recipe.std)} (of red, green, blue). The network sees {order}."
    )
    if recipe.eval_views > 1:
        yield f"- The answer is the mean of {recipe.eval_views} views of the image."
    inside = receipt["inside"] or "nothing of this but the views"
    yield f"- Inside the files: {inside}."


def _use(receipt: Mapping[str, Any]) -> Iterator[str]:
    made = receipt["files"]
    if "onnx" in made:
        call = "classify.py IMAGE" if "classes" in receipt else "embed.py OUT.npy IMAGE ..."
        yield f"`python {call}` needs onnxruntime, NumPy and Pillow.\n"
        yield "In a program of your own, for gray and RGB images of 8 bits:\n"
        yield f"```python\n{receipt['snippet']}```\n"
    if "int8" in made:
        size = f"{made['int8']['bytes'] / 1e6:.1f} MB"
        file = made["int8"]["file"]
        yield f"The same in 8 bits ({size}): `python classify.py IMAGE {file}`.\n"
    if "pt2" in made:
        yield "```python\nimport torch\n\nmodel = torch.export.load('model.pt2').module()\n```\n"

    if "timm" in made:
        yield (
            "```python\nimport timm\n\n"
            "model = timm.create_model('local-dir:timm', pretrained=True).eval()\n```\n"
        )
        yield (
            "The configuration of timm has no words for how a file is read: turn photographs as "
            "described above before you pass them (transformers turns them by their EXIF note), "
            "and put transparent ones on white.\n"
        )
    if "pt" in made:
        yield f"`model.pt` holds weights alone, under {made['pt']['names']} names.\n"
    if "pickle" in made:
        yield f"`model.pickle` needs {made['pickle']['needs']}.\n"
    yield f"Input: {receipt['takes']}. Output: {receipt['answers']}."


def _plain(name: str) -> str:
    """Return a name as Markdown shows it, on one line; ImageNet's classes in English."""
    return _MARKS.sub(r"\\\1", printable(class_name(name), keep=""))


def _first(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    fact: Mapping[str, Any] = next(iter(receipt["files"].values()))
    return fact


def _data_name(run: Mapping[str, Any]) -> str:
    return str(run.get("dataset", {}).get("name", "unknown"))
