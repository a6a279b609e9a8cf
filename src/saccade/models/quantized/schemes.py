"""How numbers become 8 bits: the schemes that a network may be quantised by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """Where scales stand, and what they may be.

    ``per_channel``: weights have a scale for each output channel, else one for each layer.
    ``power_of_two``: every scale is a power of two and every zero point is zero, so that a device
    needs shifts alone. ``equalises``: the channels of neighbouring layers are scaled to like ranges
    before training.
    """

    name: str
    per_channel: bool
    power_of_two: bool
    equalises: bool


SCHEMES = {
    "int8": Scheme("int8", per_channel=True, power_of_two=False, equalises=False),
    "power-of-two": Scheme("power-of-two", per_channel=False, power_of_two=True, equalises=True),
}
