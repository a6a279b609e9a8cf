"""How many images a second one process can feed, when the native work costs nothing but time.

    python bench/gil.py --data imagenet-samples.tar

Python threads share one lock; decoding, mirroring and resizing release it. This replaces them by
sleeps of the length that they were measured to take on this machine, so that any number of threads
has as many processors as it wants. What remains is the interpreter: the rate says how far the
loader scales before it needs a second process. Beside it stands the processor time per image, which
is the time under the lock and that of waking up, and the rate of threads that only sleep as long,
the most that this machine could show.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from loader import unpack

import saccade  # noqa: F401 - sets the waiting policy before torch loads
from saccade.config.schema import AugmentSection
from saccade.data.augment import geometry
from saccade.data.loader import Readers, TrainingView, batches
from saccade.data.order import Order
from saccade.data.packing import Settings, pack
from saccade.data.sources import Split, open_source

SIDE, BATCH = 224, 64
THREADS, ROUNDS, WARM = (1, 2, 4, 8, 16), 3, 4
FLOOR_S = 1.0


def rate(split: Split, threads: int, images: int) -> float:
    """Return images per second over some batches."""
    view = TrainingView(split, Order(len(split), 0), AugmentSection(), SIDE, 10**6, "ignore")
    readers = Readers(threads)
    try:
        steps = images // BATCH
        for _ in batches(view, readers, BATCH, 0, WARM):
            pass
        begun = time.perf_counter()
        for _ in batches(view, readers, BATCH, WARM, WARM + steps):
            pass
        return steps * BATCH / (time.perf_counter() - begun)
    finally:
        readers.close()


class Stand:
    """A native call, and the sleep that replaces it: the median time it took, and the result of
    its first call.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.times, self.length_s = call, [], 0.0
        self.results: dict[Any, Any] = {}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.length_s:
            time.sleep(self.length_s)
            return self.result(options)
        begun = time.perf_counter()
        result = self.call(*arguments, **options)
        self.times.append(time.perf_counter() - begun)
        return result

    def result(self, options: dict[str, Any]) -> Any:
        """Return what the call would, without computing it: an array of the right size, or
        nothing.
        """
        return None


class Decoder(Stand):
    def result(self, options: dict[str, Any]) -> Any:
        key = options["min_height"], options["min_width"], 3
        if key not in self.results:
            self.results[key] = torch.zeros(key, dtype=torch.uint8).numpy()
        return self.results[key]


def floor(lengths_s: tuple[float, float], threads: int) -> float:
    """Return how often a second this many threads can sleep twice, for these lengths."""
    until = time.perf_counter() + FLOOR_S

    def sleep(_: int) -> int:
        count = 0
        while time.perf_counter() < until:
            time.sleep(lengths_s[0])
            time.sleep(lengths_s[1])
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(sleep, range(threads))) / FLOOR_S


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a tar of JPEGs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    decoder, mirror, resizer = (
        Decoder(simplejpeg.decode_jpeg),
        Stand(torch.flip),
        Stand(geometry.antialiased_resize),
    )
    simplejpeg.decode_jpeg, torch.flip, geometry.antialiased_resize = decoder, mirror, resizer
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unpack(given.data, root / "images", 1000)
        pack(
            open_source(str(root / "images")), root / "pack", Settings(max_side=400, chroma="4:2:0")
        )
        split = open_source(str(root / "pack")).splits["train"]
        decoder.times.clear()
        alone = rate(split, 1, 640)
        native = [statistics.median(stand.times) for stand in (decoder, mirror, resizer)]
        print(
            f"one thread, real work: {alone:.0f} img/s; medians of {1e6 * native[0]:.0f} us "
            "to decode, "
            f"{1e6 * native[1]:.0f} to mirror every second image, {1e6 * native[2]:.0f} to resize"
        )
        for stand, length_s in zip((decoder, mirror, resizer), native, strict=True):
            stand.length_s = length_s
        for threads in THREADS:
            images, begun, found = 1280 * min(threads, 4), time.process_time(), []
            for _ in range(ROUNDS):
                found.append(rate(split, threads, images))
            busy_s = (time.process_time() - begun) / (ROUNDS * (images + WARM * BATCH))
            print(
                f"{threads:3} threads: {statistics.median(found):7.0f} img/s "
                f"({min(found):.0f} to {max(found):.0f}, "
                f"n={ROUNDS}), {1e6 * busy_s:.0f} us of processor time an image; "
                f"sleeping alone {floor((native[0], native[2]), threads):.0f}"
            )


if __name__ == "__main__":
    main()
