"""The model card: what people, and the pages of model hubs, read about exported files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from saccade.evaluation.classifier import Recipe

LONGEST_LIST = 20


def card(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the card as Markdown with the head that hubs read.

    ``run`` are the facts of the run, empty where there is none.
    """
    return "\n".join([*_head(recipe, receipt, run), "", *_body(recipe, receipt, run)]) + "\n"


def _head(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    fact = _first(receipt)
    name = _data_name(run)
    library = "timm" if "timm" in receipt["files"] else next(iter(receipt["files"]))
    yield "---"
    yield f"library_name: {library}"
    yield "pipeline_tag: image-classification"
    yield "license: unknown"
    yield "tags:\n- image-classification\n- saccade"

    # the form in which hubs show figures
    if "top1" in fact["exported"]:
        yield "model-index:"
        yield f"- name: {json.dumps(recipe.model)}"
        yield "  results:"
        yield "  - task: {type: image-classification}"
        yield f"    dataset: {{name: {json.dumps(name)}, type: {json.dumps(name)}}}"
        yield f"    metrics: [{{type: accuracy, value: {fact['exported']['top1']:.4f}}}]"
    yield "---"


def _body(recipe: Recipe, receipt: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    fact, objective = _first(receipt), recipe.learned
    shown, more = recipe.classes[:LONGEST_LIST], len(recipe.classes) - LONGEST_LIST
    yield f"# {recipe.model}: {len(recipe.classes)} {objective.noun}"
    yield ""
    yield f"{', '.join(shown)}{f' and {more} more' * (more > 0)}."

    yield "\n## Figures\n"
    interval = objective.interval(fact["exported"])
    sure = f", 95 % interval {interval[0]:.1%} to {interval[1]:.1%}" if interval else ""
    some = "" if fact["images"] == fact["of_images"] else f" of {fact['of_images']:,}"
    yield (
        f"{'  '.join(objective.shown(fact['exported']))} on {fact['images']:,}{some} images of "
        f"'{fact['split']}'{sure}. The exported files were evaluated on these images in a "
        "process without the training program; `export.json` has the results."
    )

    yield "\n## Training\n"
    yield from _training(run)

    yield "\n## Use\n"
    yield from _use(receipt)

    yield "\n## Limits\n"
    yield (
        "The result holds for images like the evaluated ones. Accuracy may be lower on "
        "photographs from other cameras, places or times, and an image of none of the classes "
        "still gets one of them. This model was not tested for decisions about people."
    )
    yield "\nThe program does not know the licence: set `license` above before you publish."


def _training(run: Mapping[str, Any]) -> Iterator[str]:
    if not run:
        yield "There are no records of the training of these weights."
        return
    data = run["dataset"]
    yield f"- {data['train']:,} training images of `{_data_name(run)}`, {data['val']:,} to validate"
    yield f"- {run['model']['params']:,} parameters, {run['steps']:,} steps"
    yield f"- `saccade {run['command']}`" if run.get("command") else "- trained from Python"
    if run.get("init"):
        yield "- started from other weights (named in `run.json` of the run)"


def _use(receipt: Mapping[str, Any]) -> Iterator[str]:
    made = receipt["files"]
    if "onnx" in made:
        yield "`python classify.py IMAGE` needs onnxruntime, NumPy and Pillow.\n"
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
    if "pickle" in made:
        yield f"`model.pickle` needs {made['pickle']['needs']}.\n"
    yield f"Input: {receipt['takes']}. Output: {receipt['answers']}."


def _first(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    fact: Mapping[str, Any] = next(iter(receipt["files"].values()))
    return fact


def _data_name(run: Mapping[str, Any]) -> str:
    return str(run.get("dataset", {}).get("name", "unknown"))
