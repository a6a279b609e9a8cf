"""Draw what pretraining does to photographs, and what a collapse looks like.

python docs/tools/pretraining.py RUN COLLAPSED PHOTO... [--out FOLDER]

RUN is a finished run of ``saccade pretrain mae``, COLLAPSED the folder of one that collapsed.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load_file

matplotlib.use("agg")
from matplotlib import pyplot as plt

from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.augment.augmentation import Views
from saccade.data.augment.chain import Chain
from saccade.data.augment.local_views import LocalViews
from saccade.data.sources.digits import open_digits
from saccade.models import create_model
from saccade.objectives.mae import Mae
from saccade.objectives.objective import Cell
from saccade.recipes import find

SIDE, GAP, SEED = 128, 6, 1
ORANGE, GRAY = "#d0741a", "#8a8a8a"

Pixels = NDArray[np.uint8]


def opened(path: Path) -> Image.Image:
    """Return a photograph, not larger than 480 pixels."""
    photo = Image.open(path).convert("RGB")
    photo.thumbnail((480, 480))
    return photo


def recipe(name: str) -> Config:
    """Return the settings of a recipe."""
    layers = Layers()
    layers.add_file(find(name).path)
    return layers.resolve()


def row(images: list[Pixels], side: int) -> Pixels:
    """Lay images beside each other, each enlarged to a square of ``side`` pixels."""
    squares = [
        np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC))
        for i in images
    ]
    return np.concatenate(
        [np.pad(s, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for s in squares], 1
    )


def views(name: str, photo: Image.Image) -> list[Pixels]:
    """Return the large and the small views that a recipe makes of an image in its first epoch."""
    section, pixels = recipe(name).augment, np.array(photo)
    drawn = Views(SEED, np.arange(section.repeats), np.zeros(section.repeats, np.int64))
    size = np.array([photo.size])
    chain = Chain(section, drawn, SIDE)
    slots = torch.zeros(section.repeats, 3, SIDE, SIDE, dtype=torch.uint8)
    slots = slots.contiguous(memory_format=torch.channels_last)
    for place in range(section.repeats):
        (box,) = chain.crops.choose(np.array([place]), size).tolist()
        chain.render(slots[place : place + 1], pixels, box, place)
    shown = [slot.permute(1, 2, 0).numpy().copy() for slot in slots]
    if not section.local_views:
        return shown

    local = LocalViews(section, drawn, SIDE)
    small = torch.zeros(local.count, 3, local.side, local.side, dtype=torch.uint8)
    small = small.contiguous(memory_format=torch.channels_last)
    local.render(small, pixels, local.choose(np.array([0]), size)[0].tolist(), 0)
    return shown + [slot.permute(1, 2, 0).numpy().copy() for slot in small]


def views_sheet(photo: Image.Image) -> Image.Image:
    """The photograph and its views: SimCLR's in the first row, DINO's in the second."""
    square = np.asarray(ImageOps.fit(photo, (SIDE, SIDE)))
    rows = [row([square, *views(name, photo)], SIDE) for name in ("simclr", "dino")]
    width = max(r.shape[1] for r in rows)
    filled = [
        np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows
    ]
    return Image.fromarray(np.concatenate(filled, 0))


def masked_sheet(run: Path, photos: list[Image.Image]) -> Image.Image:
    """Original, masked and filled photographs, one in a row, by the networks of a run."""
    layers = Layers()
    layers.add_file(run / "config.yaml")
    config = layers.resolve()
    side = config.data.image_size
    objective = Mae.of(config, open_digits().splits["train"])
    model = objective.wrap(
        create_model(
            config.model.name, num_classes=1, image_size=side, patch_size=config.model.patch_size
        )
    ).eval()
    latest = max((run / "checkpoints").glob("step_*"))
    weights = load_file(latest / "model.safetensors")
    model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})

    squares = [np.asarray(ImageOps.fit(photo, (side, side))) for photo in photos]
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    places = np.arange(len(photos))
    cell = Cell(images, torch.zeros(len(photos)).long(), places * 0, places, step=0, number=0)
    with torch.no_grad():
        shown = objective.pictures(model, cell)
    assert shown is not None
    columns = shown[:, :3].permute(0, 1, 3, 4, 2).numpy()
    sheet = np.concatenate([row(list(c), 2 * side) for c in columns], 0)
    return Image.fromarray(sheet)


def collapse(run: Path) -> Image.Image:
    """The loss of a collapsing run, and what it hides: spread and rank before the loss."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    looks = [e for e in events if e["event"] == "eval"]
    start = json.loads((run / "run.json").read_text())["untrained"]
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), dpi=110, layout="constrained")
    names = {
        "loss": "loss",
        "projector_spread": "spread of what the loss sees",
        "projector_rank": "its rank",
    }
    for panel, (name, title) in zip(axes, names.items(), strict=True):
        values = [e[name] for e in looks]
        panel.plot([e["step"] for e in looks], values, color=ORANGE, marker="o", markersize=3)
        if name in start and name != "loss":
            panel.axhline(start[name], color=GRAY, linewidth=1, linestyle="--")
            at = panel.get_yaxis_transform()
            style = {"fontsize": 8, "color": GRAY, "va": "top", "ha": "right"}
            panel.text(0.97, 0.95 * start[name], "untrained", transform=at, **style)
        panel.set_ylim(0, None)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, facecolor="white")
    plt.close(figure)
    return Image.open(drawn).convert("RGB")


def main() -> None:
    """Draw all three."""
    here = Path(__file__).parents[1] / "explain" / "images"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("collapsed", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=here)
    given = parser.parse_args()

    photos = [opened(path) for path in given.photos]
    sheets = {
        "views.png": views_sheet(photos[0]),
        "masked-images.png": masked_sheet(given.run, photos),
        "collapse.png": collapse(given.collapsed),
    }
    for name, sheet in sheets.items():
        sheet.thumbnail((750, 750), Image.Resampling.LANCZOS)
        sheet.quantize(96).save(given.out / name, optimize=True)


if __name__ == "__main__":
    main()
