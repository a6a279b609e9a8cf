"""How a setting of the configuration is declared: its kind, and the texts that have units."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from saccade import units

AUTO = "auto"
"""The length of a run that is fitted to a time by the clock."""


def _number(value: Any) -> float | None:
    """Return a number, or a text that is one, if it could be a length; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _with_unit(unit: str) -> BeforeValidator:
    """Give numbers without a unit one: ``epochs: 2`` is the commonest line there is."""

    def read(value: Any) -> Any:
        number = _number(value)
        if number is not None:
            # 2 and 2.0 become the same text, and so the same run
            return f"{number:.12g}{unit}"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else value

    return BeforeValidator(read)


def _fraction(value: Any) -> Any:
    return units.fraction(value) if isinstance(value, str) else value


def _duration(text: str) -> str:
    return text if text == "" else (units.Duration.parse(text), text)[1]


def _length(text: str) -> str:
    return text if text == AUTO else _duration(text)


def _rate(text: str) -> str:
    return (units.Rate.parse(text), text)[1]


def _cadence(text: str) -> str:
    for part in text.split(" or "):
        try:
            units.Duration.parse(part)
        except ValueError:
            units.seconds(part)
    return text


def _time(text: str) -> str:
    return text if text == "" else (units.seconds(text), text)[1]


def _interval(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("the two ends must be positive and in order")
    return pair


def _positive(triple: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(triple) <= 0:
        raise ValueError("all three must be above zero")
    return triple


DurationText = Annotated[str, _with_unit("ep"), AfterValidator(_duration)]
"""A length of training; a bare number counts epochs."""
LengthText = Annotated[str, _with_unit("ep"), AfterValidator(_length)]
"""The length of a run, ``auto`` included; a bare number counts epochs."""
RateText = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_rate)]
CadenceText = Annotated[str, _with_unit("ep"), AfterValidator(_cadence)]
TimeText = Annotated[str, _with_unit("s"), AfterValidator(_time)]
"""A time by the clock; a bare number counts seconds."""
Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
"""A fraction below 1, or a count."""
Interval = Annotated[tuple[float, float], AfterValidator(_interval)]
Triple = Annotated[tuple[float, float, float], Field()]
PositiveTriple = Annotated[Triple, AfterValidator(_positive)]


def results(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting that changes the results of the run."""
    return Field(
        default,
        description=doc,
        json_schema_extra={"kind": "results"},
        validate_default=True,
        **limits,
    )


def data(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting that changes which data the run sees."""
    return Field(
        default,
        description=doc,
        json_schema_extra={"kind": "data"},
        validate_default=True,
        **limits,
    )


def run(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting of where and how the run computes; it may change at a resume."""
    return Field(
        default, description=doc, json_schema_extra={"kind": "run"}, validate_default=True, **limits
    )


class Section(BaseModel):
    """A group of settings: frozen, without room for unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )
