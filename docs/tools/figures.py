"""Draw the figures of these pages from the networks themselves.

python docs/tools/figures.py [FOLDER]
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from saccade.models import meta_model
from saccade.models.parts.cost import cost
from saccade.models.spatialnet import LearnedPooling

IMAGES = (
    Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "explain" / "images"
)
INK, FAINT, BLUE, ORANGE, GREEN, GRAY = (
    "#222222",
    "#8a8a8a",
    "#cfe2f6",
    "#fbdcb8",
    "#cfead2",
    "#ececec",
)
LINES = ("#1f6fb4", "#d0741a", "#2d8a4e")
PUBLISHED = (2, 2, 2, 2, 2)

Point = tuple[float, float]


def canvas(width: float, height: float) -> Axes:
    """Return axes without frame on a white card; one unit is one inch at 110 dpi."""
    figure = plt.figure(figsize=(width, height), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def save(name: str) -> None:
    """Write the current figure, without the version of the program in it: the same drawing gives
    the same bytes.
    """
    plt.savefig(IMAGES / f"{name}.png", metadata={"Software": None})
    plt.close()


def box(
    axes: Axes, middle: Point, text: str, below: str = "", colour: str = GRAY, width: float = 1.3
) -> None:
    """Draw a labelled box around a point, with a shape written under it."""
    x, y = middle
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.27),
        width,
        0.54,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour,
        edgecolor=INK,
        linewidth=1,
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=INK, linespacing=1.15)
    axes.text(x, y - 0.33, below, ha="center", va="top", fontsize=8.5, color="#555555")


def arrow(axes: Axes, *points: Point) -> None:
    """Draw a line through points that ends in an arrow."""
    for start, end in pairwise(points[:-1]):
        axes.plot(*zip(start, end, strict=True), color=INK, linewidth=1.2, solid_capstyle="round")
    head = FancyArrowPatch(
        points[-2],
        points[-1],
        arrowstyle="-|>",
        mutation_scale=11,
        color=INK,
        linewidth=1.2,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(head)


def shapes(name: str, block: str) -> dict[str, str]:
    """Return what each layer of a block gives for one image, such as "480 x 15 x 15", by the
    layer's name in it.
    """
    model = meta_model(name, num_classes=1000).eval()
    found: dict[str, str] = {}

    def record(place: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[place] = " x ".join(
                str(n) for n in output.shape[1:] if n > 1 or output.dim() == 2
            )

        model.get_submodule(f"{block}.{place}".rstrip(".")).register_forward_hook(hook)

    for place, _ in model.get_submodule(block).named_modules():
        record(place)
    with torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return found


def spatialnet_block() -> None:
    """The second block of stage 4 of SpatialNet:0, with the shapes that it has at 224 px."""
    at = shapes("SpatialNet:0", "stages.3.1")
    axes = canvas(11.4, 4.4)
    top, middle, low = 3.75, 2.45, 1.15
    gate = (
        f"{at['attention.pool']} to {at['attention.channel_gate.0']} to "
        f"{at['attention.channel_gate']}"
    )
    box(axes, (1.75, middle), "1x1, norm\nSiLU", at["expand"])
    box(axes, (3.5, middle), "3x3 depthwise\nnorm, SiLU", at["depthwise"], width=1.4)
    box(axes, (5.2, top), "learned\npooling", at["attention.pool"], BLUE)
    box(axes, (6.8, top), "gate of each\nchannel", gate, BLUE)
    box(
        axes,
        (5.2, low),
        "1x1 to one map\n8 x 8 means",
        at["attention.merge"] + " to 8 x 8",
        ORANGE,
        width=1.4,
    )
    box(axes, (6.8, low), "gate of each\nplace", "8 x 8 to " + at["attention.merge"], ORANGE)
    box(
        axes, (8.45, middle), "r (1 + a + s)\nclipped to 0 ... 6", at["attention"], GREEN, width=1.5
    )
    box(axes, (10.05, middle), "1x1, norm", at["project"], width=1.0)
    arrow(axes, (0.1, middle), (1.1, middle))
    arrow(axes, (2.4, middle), (2.8, middle))
    arrow(axes, (4.2, middle), (7.7, middle))
    arrow(axes, (4.36, middle), (4.36, top), (4.55, top))
    arrow(axes, (4.36, middle), (4.36, low), (4.5, low))
    arrow(axes, (5.85, top), (6.15, top))
    arrow(axes, (5.9, low), (6.15, low))
    arrow(axes, (7.45, top), (8.45, top), (8.45, middle + 0.27))
    arrow(axes, (7.45, low), (7.82, low), (7.82, middle - 0.27))
    arrow(axes, (9.2, middle), (9.55, middle))
    arrow(axes, (10.55, middle), (10.85, middle))
    arrow(axes, (0.85, middle), (0.85, 0.35), (10.95, 0.35), (10.95, middle - 0.1))
    arrow(axes, (11.05, middle), (11.35, middle))
    plus(axes, (10.95, middle))
    for point, text in (
        ((6.0, middle + 0.08), "r"),
        ((7.95, top + 0.08), "a"),
        ((7.64, low + 0.08), "s"),
    ):
        axes.text(*point, text, fontsize=12, style="italic", color=INK, ha="center")
    axes.text(
        5.9, 0.42, "shortcut, where the shape stays", fontsize=9, color="#555555", ha="center"
    )
    axes.text(
        0.08,
        middle - 0.08,
        at["project"].replace(" x ", " x\n", 1),
        fontsize=8.5,
        color="#555555",
        va="top",
    )
    save("spatialnet-block")


def squeeze_excitation() -> None:
    """Squeeze-excitation in the second block of stage 4 of EfficientNet:0 at 224 px."""
    at = shapes("EfficientNet:0", "stages.3.1.attention")
    axes = canvas(9.4, 2.4)
    top, low = 1.75, 0.65
    box(axes, (1.9, top), "mean of each\nchannel", at["fc2"], BLUE)
    box(axes, (3.6, top), "squeeze\nSiLU", at["fc1"], BLUE)
    box(axes, (5.3, top), "excite\nsigmoid", at["fc2"], BLUE)
    arrow(axes, (0.25, low), (7.2, low))
    arrow(axes, (0.85, low), (0.85, top), (1.25, top))
    arrow(axes, (2.55, top), (2.95, top))
    arrow(axes, (4.25, top), (4.65, top))
    arrow(axes, (5.95, top), (7.3, top), (7.3, low + 0.1))
    arrow(axes, (7.4, low), (9.2, low))
    plus(axes, (7.3, low), "\N{MULTIPLICATION SIGN}")
    axes.text(0.25, low - 0.1, at[""], fontsize=8.5, color="#555555", va="top")
    axes.text(8.0, low - 0.1, at[""], fontsize=8.5, color="#555555", va="top")
    axes.text(6.6, top + 0.08, "gates 0 ... 1", fontsize=9, color="#555555", ha="center")
    save("squeeze-excitation")


def plus(axes: Axes, middle: Point, sign: str = "+") -> None:
    """Draw a small circle with an operation in it."""
    axes.add_patch(Circle(middle, 0.1, facecolor="white", edgecolor=INK, linewidth=1, zorder=3))
    axes.text(*middle, sign, fontsize=10, color=INK, ha="center", va="center_baseline", zorder=4)


def learned_pooling() -> None:
    """An example of pooling weights for a map of 15 x 15, and what becomes of them on other
    maps.
    """
    pool = LearnedPooling(15)
    rows, columns = torch.meshgrid(torch.arange(15) / 14, torch.arange(15) / 14, indexing="ij")
    example = 0.2 + torch.exp(-9 * ((rows - 0.4) ** 2 + (columns - 0.55) ** 2)) - 0.6 * rows**3
    pool.place_weights.data = example.flatten() / example.mean() / 15
    figure, pictures = plt.subplots(
        1, 3, figsize=(8.4, 2.9), dpi=110, facecolor="white", layout="constrained"
    )
    for axes, side in zip(pictures, (15, 8, 23), strict=True):
        weights = pool.weight_for(side, side).detach()
        picture = axes.imshow(weights * side**2, cmap="PuOr_r", vmin=-3.6, vmax=3.6)
        what = "an example" if side == 15 else "resized"
        axes.set_title(
            f"{side} x {side}, {what}\nsum {float(weights.sum()):.3f}", fontsize=10, color=INK
        )
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(picture, ax=pictures, fraction=0.03)
    bar.set_label("weight x number of places", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8)
    save("learned-pooling")


def width_multipliers() -> None:
    """Parameters and multiply-accumulates of ResNet-50 over its width, beside the square of the
    width.
    """
    widths = {"xp25": 0.25, "xp5": 0.5, "xp75": 0.75, "x1": 1.0, "x1p5": 1.5, "x2": 2.0}
    counts = {
        w: cost(meta_model(f"resnet50_{suffix}", num_classes=1000), 224)
        for suffix, w in widths.items()
    }
    figure, axes = plt.subplots(figsize=(6.2, 3.9), dpi=110, facecolor="white")
    square = [w**2 for w in counts]
    axes.plot(
        list(counts), square, color=FAINT, linestyle="--", linewidth=1.5, label="width squared"
    )
    for label, values, colour, mark in (
        ("parameters", [c.params for c in counts.values()], LINES[0], "o"),
        ("multiply-accumulates", [c.macs for c in counts.values()], LINES[1], "s"),
        ("activations", [c.activations for c in counts.values()], LINES[2], "^"),
    ):
        share = [v / values[3] for v in values]
        axes.plot(
            list(counts), share, color=colour, marker=mark, markersize=6, linewidth=1.5, label=label
        )
    ticks = list(counts)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(ticks, [f"{w:g}" for w in ticks])
    axes.set_yticks(
        [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4], ["1/16", "1/8", "1/4", "1/2", "1", "2", "4"]
    )
    axes.minorticks_off()
    axes.set_xlabel("width multiplier of ResNet-50")
    axes.set_ylabel("times ResNet-50")
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    save("width-multipliers")


def small_images() -> None:
    """The maps of ResNet-18 for an image of 32 px, with the published strides and with ours."""
    axes = canvas(8.6, 3.9)
    for row, (title, strides) in enumerate(
        (("as published: 2 2 2 2 2", PUBLISHED), ("below 48 px: 1 1 1 2 2", ()))
    ):
        y, x = 1.95 - 1.75 * row, 1.9
        sides = [32, *map_sides("resnet18", 32, strides)]
        axes.text(
            0.15,
            y + 0.85,
            title.replace(": ", "\n"),
            fontsize=11,
            color=INK,
            va="center",
            linespacing=1.5,
        )
        for place, side in zip(
            ("image", "stem", "stage 1", "stage 2", "stage 3", "stage 4"), sides, strict=True
        ):
            draw_map(axes, (x + 0.5, y + 0.85), side)
            axes.text(
                x + 0.5,
                y + 0.12,
                f"{place}\n{side} x {side}",
                fontsize=9,
                ha="center",
                va="center",
                color=INK,
            )
            x += 1.1
    axes.text(
        0.15,
        3.6,
        "Maps of ResNet-18 for an image of 32 x 32 pixels",
        fontsize=12,
        color=INK,
        va="center",
    )
    save("small-images")


def map_sides(name: str, size: int, strides: tuple[int, ...]) -> list[int]:
    """Return the sides of the maps after the stem with its pool, and after each stage."""
    model = meta_model(name, num_classes=10, image_size=size, strides=strides).eval()
    sides: list[int] = []
    model.get_submodule("maxpool").register_forward_hook(
        lambda _module, _inputs, output: sides.append(output.shape[-1])
    )
    return sides + [
        m.shape[-1] for m in model.features(torch.empty(1, 3, size, size, device="meta"))
    ]


def draw_map(axes: Axes, middle: Point, side: int) -> None:
    """Draw a map as a grid of cells, in the scale of the image."""
    cell = 0.96 / 32
    x, y, length = middle[0] - side * cell / 2, middle[1] - side * cell / 2, side * cell
    axes.add_patch(Rectangle((x, y), length, length, facecolor="#a9cdee", linewidth=0))
    for line in range(1, side):
        axes.plot([x + line * cell] * 2, [y, y + length], color="white", linewidth=0.5)
        axes.plot([x, x + length], [y + line * cell] * 2, color="white", linewidth=0.5)
    axes.add_patch(
        Rectangle((x, y), length, length, fill=False, edgecolor=INK, linewidth=1, zorder=3)
    )


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.rcParams["font.family"] = "DejaVu Sans"  # comes with matplotlib
    for draw in (
        spatialnet_block,
        learned_pooling,
        squeeze_excitation,
        width_multipliers,
        small_images,
    ):
        draw()
