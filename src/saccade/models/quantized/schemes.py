"""Quantisation schemes: how numbers become 8 bits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """The places and the allowed values of scales, and the largest weight.

    ``per_channel``: weights have one scale per output channel, otherwise one per layer.
    ``power_of_two``: every scale is a power of two and every zero point is zero, so that a device
    needs only shifts. ``equalises``: the channels of neighbouring layers are scaled to similar
    ranges before training. ``compensates``: weights of narrow layers are rounded one after another
    before training, so that later ones make up for earlier ones. Weights are whole numbers from
    ``-most_weight`` to ``most_weight``.
    """

    name: str
    per_channel: bool
    power_of_two: bool
    equalises: bool
    compensates: bool
    most_weight: int


SATURATION_FREE = 64
"""The largest weight of a pair of products, with activations up to 255, that fits into 16 bits.

x86 CPUs without VNNI add such pairs in 16 bits, and cut off what does not fit. *Source:* VPMADDUBSW
in Intel's manual; ``reduce_range`` of onnxruntime; measured, `docs/LOG.md`, 2026-11-30.
"""

SCHEMES = {
    "int8": Scheme(
        "int8",
        per_channel=True,
        power_of_two=False,
        equalises=False,
        compensates=False,
        most_weight=SATURATION_FREE,
    ),
    "power-of-two": Scheme(
        "power-of-two",
        per_channel=False,
        power_of_two=True,
        equalises=True,
        compensates=True,
        most_weight=127,
    ),
}
