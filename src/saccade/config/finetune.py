"""The settings of training that goes on from weights: what rests, when it wakes, how the head
starts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from saccade import units
from saccade.config.fields import DurationText, Section, results

BACKBONE, BUT_LAST_NORM, STEM = "backbone", "backbone-but-last-norm", "stem"


def _text(value: Any) -> Any:
    """Turn a bare number into the text that a fraction of the layers is written as."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else value


def _part(text: str) -> str:
    """Check the name of the frozen part of a network; a fraction is written in one way: 75% is
    0.75."""
    if not text:
        raise ValueError("write none, backbone, a module such as layer3, or a fraction such as 75%")
    if text[0].isdigit() or text[0] in ".-":
        try:
            share = units.fraction(text)
        except ValueError as error:
            raise ValueError(f"{error}, below 100%; `backbone` means all but the head") from None
        return f"{share:.12g}" if share else "none"
    return text


Part = Annotated[str, BeforeValidator(_text), AfterValidator(_part)]


class FinetuneSection(Section):
    """What differs when training starts from existing weights."""

    freeze: Part = results(
        "none",
        "what is frozen: none; backbone = all but the head; backbone-but-last-norm; stem = the "
        "first layer; a module's name = up to and including it; a fraction of the layers, from "
        "the input",
    )
    unfreeze: DurationText = results(
        "",
        "gradual unfreezing, layer by layer from the head: when the last layer is "
        "unfrozen; empty = never",
    )
    norms: Literal["train", "frozen"] = results(
        "train", "frozen: BatchNorm keeps its running statistics and uses them in training, too"
    )
    head_lr: float = results(
        1.0, "the head's learning rate as a multiple of optimizer.lr", gt=0, le=1e4
    )
    head_start: Literal["zero", "probe", "anew"] = results(
        "zero",
        "start of a new head: zero, or probe = a linear probe of the frozen features; anew = "
        "zero, even where the weights have a head for these classes",
    )
    views: int = results(
        1,
        "frozen backbone: number of views of each image whose features are cached, the first as "
        "in evaluation; 0 = no cache, computed in each step",
        ge=0,
        le=100,
    )

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneSection:
        if self.unfreeze and self.freeze == "none":
            raise ValueError(
                "finetune.unfreeze: nothing is frozen; say what to freeze, such as --freeze "
                "backbone"
            )
        return self

    @property
    def rests(self) -> bool:
        """Whether a part of the network rests, at least for a while."""
        return self.freeze != "none"

    @property
    def holds(self) -> bool:
        """Whether features are computed once: the backbone rests in the whole run."""
        return self.freeze == BACKBONE and not self.unfreeze and self.views > 0
