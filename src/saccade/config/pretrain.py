"""The settings of self-supervised pretraining: what is learned, and how it is watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from saccade.config.fields import DurationText, Section
from saccade.config.fields import numerics as _numerics
from saccade.config.fields import run as _run

Width = Annotated[int, Field(ge=1, le=1 << 20)]
Heat = Annotated[float, Field(gt=0, le=10)]


class PretrainSection(Section):
    """Self-supervised pretraining (`saccade pretrain`)."""

    method: Literal["none", "mae", "simmim", "simclr", "dino"] = _numerics(
        "none", "what is learned without labels; `none` = to classify, from labels"
    )
    mask: float = _numerics(
        0.0, "fraction of the patches that is hidden; 0 = 0.75 (mae), 0.6 (simmim)", ge=0, lt=1
    )
    mask_unit: int = _numerics(
        0,
        "side of what is hidden at once, in pixels; 0 = a patch (mae), a sixth of all (simmim)",
        ge=0,
        le=4096,
    )
    decoder_depth: int = _numerics(8, "blocks of the decoder (mae)", ge=0, le=64)
    decoder_width: int = _numerics(
        0,
        "channels of the decoder (mae); 0 = two thirds of the encoder's, 512 at most",
        ge=0,
        le=4096,
    )
    evaluations: int = _numerics(
        20, "how often the encoder is looked at in a run, in equal parts of it", ge=1, le=1 << 20
    )
    bank: int = _run(
        2000,
        "images that such a look takes, a fifth of them as queries: its cost is that of their "
        "forward passes",
        ge=10,
        le=1 << 20,
    )
    pictures: int = _run(8, "images that are drawn at every look", ge=0, le=64)
    collapse: Literal["stop", "warn"] = _run(
        "stop", "a collapsed representation: end the run (76), or only say it"
    )
    projector: tuple[Width, ...] = _numerics(
        (2048, 128),
        "simclr, dino: widths of the layers behind the encoder; dino: ..., bottleneck, prototypes",
        min_length=1,
    )
    temperature: float = _numerics(
        0.2, "simclr: of the cosines; dino: of the student's scores", gt=0, le=10
    )
    teacher_temperature: tuple[Heat, Heat] = _numerics(
        (0.04, 0.04), "dino: of the teacher's scores, at the start and after teacher_warmup"
    )
    teacher_warmup: DurationText = _numerics(
        "", "dino: how long the teacher's temperature takes to its second value"
    )
    teacher_momentum: float = _numerics(
        0.996, "dino: how much of itself the teacher keeps in a step; it rises to 1", ge=0, lt=1
    )
    norm_prototypes: bool = _numerics(True, "dino: all prototypes have length one")
    fixed_prototypes: DurationText = _numerics(
        "", "dino: how long the prototypes stay as they are drawn"
    )


def unset() -> dict[str, Any]:
    """Return every setting of the section, by dotted name, as a run without pretraining has it."""
    return {f"pretrain.{name}": v for name, v in PretrainSection().model_dump(mode="json").items()}
