"""How a setting of the configuration is declared: its kind, and the texts that have units."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from saccade import units


def _duration(text: str) -> str:
    return text if text == "" else (units.Duration.parse(text), text)[1]


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


DurationText = Annotated[str, AfterValidator(_duration)]
RateText = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_rate)]
CadenceText = Annotated[str, AfterValidator(_cadence)]
TimeText = Annotated[str, AfterValidator(_time)]
Share = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
"""A share below 1, or a count."""
Interval = Annotated[tuple[float, float], AfterValidator(_interval)]
Triple = Annotated[tuple[float, float, float], Field()]


def maths(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting that decides the numbers of the run."""
    return Field(default, description=doc, json_schema_extra={"kind": "maths"}, validate_default=True, **limits)


def data(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting that decides what is seen."""
    return Field(default, description=doc, json_schema_extra={"kind": "data"}, validate_default=True, **limits)


def run(default: Any, doc: str, **limits: Any) -> Any:
    """Declare a setting that decides where and how it runs; it may change at a resume."""
    return Field(default, description=doc, json_schema_extra={"kind": "run"}, validate_default=True, **limits)


class Section(BaseModel):
    """A group of settings: frozen, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
