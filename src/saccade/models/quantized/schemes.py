"""Quantisation schemes: how numbers become 8 bits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """The places and the allowed values of scales.

    ``per_channel``: weights have one scale per output channel, otherwise one per layer.
    ``power_of_two``: every scale is a power of two and every zero point is zero, so that a device
    needs only shifts. ``equalises``: the channels of neighbouring layers are scaled to similar
    ranges before training. ``compensates``: weights of narrow layers are rounded one after another
    before training, so that later ones make up for earlier ones.
    """

    name: str
    per_channel: bool
    power_of_two: bool
    equalises: bool
    compensates: bool


SCHEMES = {
    "int8": Scheme(
        "int8", per_channel=True, power_of_two=False, equalises=False, compensates=False
    ),
    "power-of-two": Scheme(
        "power-of-two", per_channel=False, power_of_two=True, equalises=True, compensates=True
    ),
}
