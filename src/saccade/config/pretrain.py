"""The settings of self-supervised pretraining: what is learned, and how it is watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from saccade.config.fields import DurationText, Section
from saccade.config.fields import results as _results
from saccade.config.fields import run as _run

Width = Annotated[int, Field(ge=1, le=1 << 20)]
Heat = Annotated[float, Field(gt=0, le=10)]


class PretrainSection(Section):
    """Self-supervised pretraining (`saccade pretrain`)."""

    method: Literal["none", "mae", "simmim", "simclr", "dino"] = _results(
        "none", "method of pretraining without labels; `none` = classification with labels"
    )
    mask: float = _results(
        0.0, "fraction of hidden patches; 0 = 0.75 (mae), 0.6 (simmim)", ge=0, lt=1
    )
    mask_unit: int = _results(
        0,
        "side of a hidden square, in pixels; 0 = a patch (mae), a sixth of the image (simmim)",
        ge=0,
        le=4096,
    )
    decoder_depth: int = _results(8, "mae: blocks of the decoder", ge=0, le=64)
    decoder_width: int = _results(
        0,
        "mae: channels of the decoder; 0 = two thirds of the encoder's, at most 512",
        ge=0,
        le=4096,
    )
    evaluations: int = _results(
        20, "number of checks of the encoder in a run, at equal distances", ge=1, le=1 << 20
    )
    bank: int = _run(
        2000,
        "images in such a check, a fifth of them as queries; a check costs a forward pass of them",
        ge=10,
        le=1 << 20,
    )
    pictures: int = _run(8, "images that are shown as pictures at every check", ge=0, le=64)
    collapse: Literal["stop", "warn"] = _run(
        "stop", "on a collapsed representation: end the run (76), or only warn"
    )
    projector: tuple[Width, ...] = _results(
        (2048, 128),
        "simclr, dino: widths of the layers behind the encoder; dino: ..., bottleneck, prototypes",
        min_length=1,
    )
    temperature: float = _results(
        0.2,
        "temperature; simclr: of the cosine similarities; dino: of the student's scores",
        gt=0,
        le=10,
    )
    teacher_temperature: tuple[Heat, Heat] = _results(
        (0.04, 0.04),
        "dino: temperature of the teacher's scores, at the start and after teacher_warmup",
    )
    teacher_warmup: DurationText = _results(
        "", "dino: time until the teacher's temperature reaches its second value"
    )
    teacher_momentum: float = _results(
        0.996, "dino: EMA decay of the teacher per step at the start; it rises to 1", ge=0, lt=1
    )
    norm_prototypes: bool = _results(True, "dino: normalise all prototypes to length 1")
    fixed_prototypes: DurationText = _results(
        "", "dino: how long the prototypes stay frozen at the start"
    )


def unset() -> dict[str, Any]:
    """Return every setting of the section, by dotted name, as a run without pretraining has it."""
    return {f"pretrain.{name}": v for name, v in PretrainSection().model_dump(mode="json").items()}
