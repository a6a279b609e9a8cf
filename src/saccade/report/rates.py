"""The learning rate of a recipe over a run that has not begun: the numbers and their plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade import files
from saccade.config.schema import Config
from saccade.errors import ConfigError
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.objective import TOP1
from saccade.optim import optimizers, schedule
from saccade.report import canvas, plots
from saccade.setup.compose import Request, settings
from saccade.setup.head_start import rate_scale
from saccade.setup.steps import total_steps

IMAGENET = 1_281_167
MOST_POINTS = 1001
MOST_EVALUATIONS = 1_000_000
COMPARABLE = 10
"""Rates whose peaks differ by more than this factor are drawn as fractions of their peaks."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The rate ``lr`` before each of ``step`` (both in order) of a run of ``total_steps``.

    ``notes`` say what was assumed, and which parts of the schedule have no effect.
    """

    name: str
    schedule: str
    formula: str
    num_images: int
    global_batch: int
    total_steps: int
    step: tuple[int, ...]
    epoch: tuple[float, ...]
    lr: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for people, and one for each note."""
        size = f"{self.total_steps:,} steps of {self.global_batch} ({self.num_images:,} images)"
        return "\n  ".join(
            [f"{self.name}: lr {self.formula}; {self.schedule}; {size}", *self.notes]
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def follow(word: str, flags: Mapping[str, Any], sets: Sequence[str], num_images: int = 0) -> Rates:
    """Compute the rates of a recipe, a YAML file or a run folder; raises ConfigError.

    ``num_images`` is the number of training images, 0 that of the run or else ImageNet's.
    """
    folder = Path(word) if (Path(word) / "config.yaml").is_file() else None
    config = settings(Request([str(folder / "config.yaml")] if folder else [word], flags, sets))
    images = num_images or (_images_of(folder) if folder else IMAGENET)
    batch = config.batch.global_
    total = total_steps(config, images, _fitted(word, folder) if config.within else "")

    curve = schedule.build(config.schedule, images, batch, total)
    curve = replace(curve, scale=_scale(folder, config))
    peak, formula = optimizers.peak(config.optimizer, batch)
    # so many points are finer than the picture, and a run may have millions of steps
    steps = np.unique(np.linspace(0, total - 1, MOST_POINTS).round().astype(int)).tolist()
    notes = curve.notes()
    if curve.name == "plateau":
        notes.append(
            "drawn as if no evaluation were better than the first; in a run, the drops depend on "
            "the evaluations"
        )

    return Rates(
        name=folder.name if folder else Path(word).stem,
        schedule=config.schedule.phrase,
        formula=formula,
        num_images=images,
        global_batch=batch,
        total_steps=total,
        step=tuple(steps),
        epoch=tuple(step * batch / images for step in steps),
        lr=tuple(peak * curve.factor(step, _stalled(step, batch, images)) for step in steps),
        notes=tuple(notes),
    )


def _fitted(word: str, folder: Path | None) -> str:
    """Return the length that a run was fitted to; a recipe has none before it runs."""
    if folder is not None:
        facts = files.read_json(folder / "run.json")
        if found := facts["resolved"].get("length", {}).get("value"):
            return str(found)
    raise ConfigError(
        "the length of this run is known only after it has started",
        where=word,
        fix="set the length, such as --epochs 20",
    )


def _scale(folder: Path | None, config: Config) -> float:
    """Return what a run multiplied its rates by when it saw its weights; 1 for a recipe."""
    init = files.read_json(folder / "run.json").get("init") or {} if folder else {}
    return rate_scale(init, config)


def _images_of(folder: Path) -> int:
    try:
        return int(files.read_json(folder / "run.json")["dataset"]["train"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "run.json does not contain the number of images",
            where=str(folder),
            fix="add --images",
        ) from error


def _stalled(step: int, batch: int, images: int) -> list[Evaluation]:
    """Return the evaluations up to a step, one an epoch, none better than the first."""
    stalled = Evaluation.parse({"step": 0, "top1": 0.0, "loss": 0.0}, TOP1)
    return [stalled] * min(step * batch // images, step, MOST_EVALUATIONS)


def draw(curves: Sequence[Rates], form: str) -> bytes:
    """Draw rates over epochs, as ``png`` or ``svg``.

    If they are too different, as fractions of their peaks.
    """
    peaks = [max(c.lr) for c in curves]
    shares = min(peaks) <= 0 or max(peaks) / min(peaks) > COMPARABLE
    lines = []
    for curve, peak in zip(curves, peaks, strict=True):
        # a peak of nought is drawn as it is
        y = [v / (peak or 1.0) for v in curve.lr] if shares else curve.lr
        lines.append(plots.Line(f"{curve.name}, peak {peak:.4g}", curve.epoch, y))
    return plots.rates(
        "learning rate, as a fraction of its peak" if shares else "learning rate",
        lines,
        canvas.LIGHT,
        form,
    )
