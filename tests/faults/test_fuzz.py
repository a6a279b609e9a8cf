"""FAULTS D5: mutated images go through the image door by the thousand: nothing crashes and no
memory is lost.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import io, os, sys
import numpy as np
from PIL import Image
from saccade import rng
from saccade.data.audit.image import ERRORS, look

def encode(form, **options):
    out = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 48)).save(out, form, **options)
    return out.getvalue()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

sound = [encode("JPEG"), encode("JPEG", progressive=True)]
sound += [encode(form) for form in ("PNG", "GIF", "WEBP")]
sound = [sound[0], sound[0], sound[1], *sound]
count = int(sys.argv[1])
refused, begun = 0, 0
for i in range(count):
    if i == count // 4:
        begun = resident()
    data = bytearray(sound[i % len(sound)])
    draws = rng.uniform(rng.key(i, 77), 9)
    for spot, value in zip(draws[1:5], draws[5:]):
        if draws[0] < 0.8:
            data[int(spot * len(data))] = int(value * 256)
    if draws[0] > 0.7:
        data = data[: int(draws[1] * len(data))]
    seen = look(bytes(data), "x.jpg")
    assert (seen.problem in ERRORS) if seen.problem else min(seen.width, seen.height) > 0
    refused += bool(seen.problem)
print(refused, (resident() - begun) // (count - count // 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory from /proc")
@pytest.mark.parametrize(
    ("count", "limit"), [(3000, 6000), pytest.param(20_000, 1000, marks=pytest.mark.full)]
)
@pytest.mark.fault("D5")
def test_mutated_images_neither_crash_nor_leak(count: int, limit: int) -> None:
    """The allocator's own ups and downs are some MB, so that a short run sees only what loses
    whole images (9 kB).
    """
    done = subprocess.run([sys.executable, "-c", CHILD, str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, bytes_per_image = map(int, done.stdout.split())
    assert count // 4 < refused < count
    assert bytes_per_image < limit
