"""Randomness as a pure function: every draw comes from a counter key, never from a stream.

A key is a hash of words such as (seed, purpose, epoch, sample, copy). Nothing has to be saved for a
resume, and the number of threads or ranks cannot change a draw. Changing any function here changes
every run: bump ``DRAWS_VERSION``.
"""

from __future__ import annotations

import functools
import math
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS_VERSION = 1

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a draw is for; two purposes never share a draw."""

    ORDER = 1
    CROP = 2
    FLIP = 3
    MIX = 4
    DROP_PATH = 5
    DROPOUT = 6
    INIT = 7
    HOLDOUT = 8
    MINIVAL = 9
    SAMPLE = 10
    ROTATE = 11
    POLICY = 12
    JITTER = 13
    GRAY = 14
    ERASE = 15
    CUTOUT = 16
    NOISE = 17
    OWN_AUGMENT = 18
    MASK = 19
    BLUR = 22
    SOLARIZE = 23
    BANK = 28
    PROBED = 31
    FOLD = 32
    EVAL_IMAGES = 33


def _finalise(words: Keys) -> Keys:
    """Mix 64-bit words of any shape. *Source:* splitmix64 finaliser, Steele et al.

    2014, figure 17.
    """
    words = (words ^ (words >> np.uint64(30))) * _MUL1
    words = (words ^ (words >> np.uint64(27))) * _MUL2
    return words ^ (words >> np.uint64(31))


def key(*words: ArrayLike) -> Keys:
    """Hash integer words into 64-bit keys.

    Each word is an integer or an integer array; they broadcast against each other and the result
    has that shape.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            # the order of the words matters: (1, 2) and (2, 1) are two keys
            state = _finalise((state ^ np.asarray(word).astype(np.uint64)) + _GAMMA)
    return state


def integer(*words: ArrayLike) -> int:
    """Return one 63-bit key as a Python integer, for ``torch.manual_seed``."""
    return int(key(*words)) >> 1


def uniform(keys: Keys, num: int) -> Floats:
    """Return ``num`` uniform draws in [0, 1) for each key, shape ``keys.shape + (num,)``, from
    the top 53 bits.
    """
    with np.errstate(over="ignore"):
        counters = np.arange(1, num + 1, dtype=np.uint64) * _GAMMA
        words = _finalise(np.asarray(keys, np.uint64)[..., None] + counters)
    # 53 bits are what a float64 holds exactly, so 1.0 is never drawn
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


# *Source:* Wichura 1988, algorithm AS 241 (PPND16); coefficients from the highest power down.
_CENTRE = (
    (
        2509.0809287301226727,
        33430.575583588128105,
        67265.770927008700853,
        45921.953931549871457,
        13731.693765509461125,
        1971.5909503065514427,
        133.14166789178437745,
        3.387132872796366608,
    ),
    (
        5226.495278852545925,
        28729.085735721942674,
        39307.89580009271061,
        21213.794301586595867,
        5394.1960214247511077,
        687.1870074920579083,
        42.313330701600911252,
        1.0,
    ),
)
_MIDDLE = (
    (
        7.7454501427834140764e-4,
        0.0227238449892691845833,
        0.24178072517745061177,
        1.27045825245236838258,
        3.64784832476320460504,
        5.7694972214606914055,
        4.6303378461565452959,
        1.42343711074968357734,
    ),
    (
        1.05075007164441684324e-9,
        5.475938084995344946e-4,
        0.0151986665636164571966,
        0.14810397642748007459,
        0.68976733498510000455,
        1.6763848301838038494,
        2.05319162663775882187,
        1.0,
    ),
)
_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        0.0012426609473880784386,
        0.026532189526576123093,
        0.29656057182850489123,
        1.7848265399172913358,
        5.4637849111641143699,
        6.6579046435011037772,
    ),
    (
        2.04426310338993978564e-15,
        1.4215117583164458887e-7,
        1.8463183175100546818e-5,
        7.868691311456132591e-4,
        0.0148753612908506148525,
        0.13692988092273580531,
        0.59983220655588793769,
        1.0,
    ),
)


def _ratio(table: tuple[tuple[float, ...], tuple[float, ...]], x: Floats) -> Floats:
    upper, lower = (np.full_like(x, row[0]) for row in table)
    for a, b in zip(table[0][1:], table[1][1:], strict=True):
        upper = upper * x + a
        lower = lower * x + b
    return upper / lower


def normal(probabilities: Floats) -> Floats:
    """Map uniform draws in [0, 1) of any shape to standard normal ones by the inverse CDF.

    The error is below 1e-9 outside the last 1e-9 of each tail.
    """
    # nought would be minus infinity
    q = np.maximum(probabilities, 2.0**-54) - 0.5
    out = q * _ratio(_CENTRE, 0.180625 - q * q)
    tails = np.abs(q) > 0.425
    side = q[tails]
    r = np.sqrt(-np.log(0.5 - np.abs(side)))
    value = np.where(r <= 5, _ratio(_MIDDLE, r - 1.6), _ratio(_TAIL, r - 5))
    out[tails] = np.where(side < 0, -value, value)
    return out


def beta(probability: float, alpha: float) -> float:
    """Map one uniform draw in [0, 1) to the symmetric Beta(alpha, alpha) distribution, rounded to
    float32.

    Bisection on the regularised incomplete beta function; the rounding hides the last bits of the
    platform's logarithm. *Source:* Press et al., Numerical Recipes, section 6.4 (continued
    fraction).
    """
    low, high = 0.0, 1.0
    # more than the 53 bits of a float64
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cdf(middle, alpha, alpha) < probability:
            low = middle
        else:
            high = middle
    return float(np.float32((low + high) / 2))


@functools.lru_cache(maxsize=8)
def beta_table(alpha: float, beta: float) -> tuple[Floats, Floats]:
    """Return the CDF of Beta(alpha, beta), float64 of shape ``(1025,)``, and the evenly spaced
    places of its values.

    ``np.interp(u, *beta_table(a, b))`` maps uniform draws in [0, 1) to that distribution, linearly
    between the places: thousands of times faster than inverting it exactly.
    """
    places = np.linspace(0.0, 1.0, 1025)
    return np.array([_beta_cdf(x, alpha, beta) for x in places.tolist()]), places


def _beta_cdf(x: float, a: float, b: float) -> float:
    # the continued fraction converges fast only below this point; the rest is symmetry
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    if x == 0.0:
        return 0.0
    shape = math.lgamma(a + b) - (math.lgamma(a) + math.lgamma(b))
    front = math.exp(shape + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1))
    h = d
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            h *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return front * h
