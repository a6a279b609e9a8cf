"""How many images a second one process can feed, when the native work costs nothing but time.

    python bench/gil.py --data imagenet-samples.tar

Python threads share one lock; decoding and resizing release it. This replaces both by sleeps of the length that they
were measured to take on this machine, so that any number of threads has as many processors as it wants. What remains is
the interpreter: the rate says how far the loader scales before it needs a second process, and the time that one thread
spends besides the sleeps is the time under the lock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from loader import unpack

import saccade  # noqa: F401 - sets the waiting policy before torch loads
from saccade.config import AugmentSection
from saccade.data import augment
from saccade.data.loader import Readers, TrainingView, batches
from saccade.data.order import Order
from saccade.data.pack import Settings, pack
from saccade.data.sources import Split, open_source

SIDE, BATCH = 224, 64
THREADS = (1, 2, 4, 8, 16)


def rate(split: Split, threads: int, images: int) -> float:
    """Return images per second over some batches."""
    view = TrainingView(split, Order(len(split), 0), AugmentSection(), SIDE, 10**6, "ignore")
    readers = Readers(threads)
    try:
        steps = images // BATCH
        for _ in batches(view, readers, BATCH, 0, 4):
            pass
        begun = time.perf_counter()
        for _ in batches(view, readers, BATCH, 4, 4 + steps):
            pass
        return steps * BATCH / (time.perf_counter() - begun)
    finally:
        readers.close()


class Stand:
    """A native call, and the sleep that replaces it: the median time it took, and the result of its first call."""

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
        """Return what the call would, without computing it: an array of the right size, or nothing."""
        return None


class Decoder(Stand):
    def result(self, options: dict[str, Any]) -> Any:
        key = options["min_height"], options["min_width"], 3
        if key not in self.results:
            self.results[key] = torch.zeros(key, dtype=torch.uint8).numpy()
        return self.results[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a tar of JPEGs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    decoder, resizer = Decoder(simplejpeg.decode_jpeg), Stand(augment.antialiased_resize)
    simplejpeg.decode_jpeg, augment.antialiased_resize = decoder, resizer
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unpack(given.data, root / "images", 1000)
        pack(open_source(str(root / "images")), root / "pack", Settings(max_side=400))
        split = open_source(str(root / "pack")).splits["train"]
        decoder.times.clear()
        alone = rate(split, 1, 640)
        native = statistics.mean(decoder.times) + statistics.mean(resizer.times)
        print(f"one thread, real work: {alone:.0f} img/s; decode {1e6 * statistics.median(decoder.times):.0f} us, "
              f"resize {1e6 * statistics.median(resizer.times):.0f} us, "
              f"everything else {1e6 * (1 / alone - native):.0f} us per image")  # fmt: skip
        for stand in (decoder, resizer):
            stand.length_s = statistics.median(stand.times)
        for threads in THREADS:
            found = [rate(split, threads, 1280 * min(threads, 4)) for _ in range(3)]
            print(f"{threads:3} threads: {statistics.median(found):7.0f} img/s "
                  f"({min(found):.0f} to {max(found):.0f}, n=3)")  # fmt: skip


if __name__ == "__main__":
    main()
