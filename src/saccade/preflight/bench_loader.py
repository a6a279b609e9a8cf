"""A benchmark of the input pipeline on the user's data, with advice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from saccade.config.schema import Config
from saccade.data import packing
from saccade.data.archives.packs import is_pack
from saccade.data.augment import geometry
from saccade.data.augment.augmentation import Views
from saccade.data.images import crops
from saccade.data.loader import batches
from saccade.data.order import EVERYTHING
from saccade.data.readers import Readers
from saccade.log import Log
from saccade.preflight import speed as timing
from saccade.setup import build, choosing
from saccade.setup.compose import Composed
from saccade.training import datasets
from saccade.training.run import Plan

SAMPLE = 256
PACK_SAMPLE = 64
ENOUGH = 1.2
"""The loader must be this many times faster than the step, else it counts as the limit."""

Result = TypeVar("Result")

PACK_SIDE_PER_PIXEL = 2.25
"""Longer side of a packed image for a crop of one pixel: 500 for 224, as is usual for ImageNet."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Seconds per image on one thread, images per second in total, and the advice.

    ``read_again_s`` is a second read of the same files, from the system's memory; ``loader`` is for
    all threads together; ``step`` is the training step; ``packed_s`` is decoding after ``saccade
    pack``, 0 if not tried.
    """

    images: int
    read_s: float
    read_again_s: float
    decode_s: float
    resize_s: float
    rest_s: float
    loader: float
    threads: int
    step: float
    packed_s: float
    pack_side: int
    shared: bool
    advice: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"advice": list(self.advice)}


def diagnose(composed: Composed, log: Log) -> Diagnosis:
    """Measure reading, decoding, resizing, the loader and the training step; say what would help.

    Nothing is trained: the step runs on a copy of the model. Raises what opening the data raises.
    """
    data = datasets.open_data(composed.config, composed.source)
    config, _ = build.shrink_batch(composed.config, len(data.train), composed.explicit_batch)
    run = build.build(config, data, Path("."), choosing.decide(config, None))
    try:
        with log.progress("measuring the loader", 4) as bar:
            stages = _stages(run.plan)
            bar.update(1, "read, decode, resize")
            loader = _loader(run.plan, run.readers)
            bar.update(2, "all threads together")
            speed = timing.measure(run, lambda: None).speed
            bar.update(3, "the training step")
            side = -(-int(PACK_SIDE_PER_PIXEL * config.data.image_size) // 20) * 20
            packed_s = 0.0 if is_pack(Path(data.train.where)) else _packed(run.plan, side)
            bar.update(4, "packed")
    finally:
        run.readers.close()

    step = config.cell / max(speed.next_cell_s, 1e-9)
    shared = run.plan.device.type == "cpu"
    found = Diagnosis(
        len(data.train),
        *stages,
        loader=loader,
        threads=run.readers.threads,
        step=step,
        packed_s=packed_s,
        pack_side=side,
        shared=shared,
    )
    return Diagnosis(**asdict(found) | {"advice": _advice(found, config)})


def _stages(plan: Plan) -> tuple[float, float, float, float, float]:
    """Return seconds per image on this thread: read, read again, decode, resize, and the rest."""
    view, split = replace(plan.view, rank_slice=EVERYTHING, decoded=None), plan.data.train
    samples, choose = _crops(plan, SAMPLE)
    size = view.size_at(plan.total_steps - 1)
    # twice: the second reading comes from the system's memory, so the difference is the disk
    first_s, _ = _timed(lambda: [bytes(split.read(i)) for i in samples])
    again_s, files = _timed(lambda: [bytes(split.read(i)) for i in samples])

    slot = torch.empty((1, 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    resize_s, begun = 0.0, time.perf_counter()
    for pixels, (box,) in crops.decode(files, choose, size, view.exif):
        start = time.perf_counter()
        geometry.resize_into(slot, pixels, box, False)
        resize_s += time.perf_counter() - start

    decode_s = time.perf_counter() - begun - resize_s
    alone = Readers(1)
    try:
        whole_s, _ = _timed(
            lambda: list(batches(view, alone, len(samples), first_step=0, last_step=1))
        )
    finally:
        alone.close()

    # What the whole takes beyond its parts: drawing crops, flipping, filling the batch.
    rest_s = max(whole_s - again_s - decode_s - resize_s, 0.0)
    count = len(samples)
    return first_s / count, again_s / count, decode_s / count, resize_s / count, rest_s / count


def _crops(plan: Plan, most: int) -> tuple[list[int], crops.Choose]:
    """Return the first samples of the run, and the augmentation that chooses their crops."""
    section, order = plan.view.augment, plan.view.order
    epochs, samples = order.at(0, min(most, len(plan.data.train)))
    views, side = Views(order.seed, epochs, samples), plan.view.size_at(plan.total_steps - 1)
    boxes = geometry.Crops(section, views, side, plan.view.fit)

    def choose(which: list[int], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        return boxes.choose(np.array(which), sizes)[:, None]

    return samples.tolist(), choose


def _loader(plan: Plan, readers: Readers) -> float:
    """Return images per second of all reading threads, nothing else running."""
    view, batch = plan.view, plan.global_batch
    steps = max(2 * SAMPLE // batch, 2)
    list(batches(view, readers, batch, first_step=0, last_step=1))  # the first one warms up

    seconds, _ = _timed(
        lambda: list(batches(view, readers, batch, first_step=1, last_step=1 + steps))
    )
    return steps * batch / seconds


def _packed(plan: Plan, side: int) -> float:
    """Return seconds per image to decode a few images after packing them."""
    samples, choose = _crops(plan, PACK_SAMPLE)
    files = [
        packing.encode(plan.data.train.read(i), packing.Settings(max_side=side)) for i in samples
    ]
    size = plan.view.size_at(plan.total_steps - 1)
    seconds, _ = _timed(lambda: [None for _ in crops.decode(files, choose, size, plan.view.exif)])
    return seconds / len(samples)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _advice(found: Diagnosis, config: Config) -> tuple[str, ...]:
    """Turn the figures into advice, the most useful first."""
    one = found.read_again_s + found.decode_s + found.resize_s + found.rest_s
    lines = []
    if found.shared:
        # seconds of all cores for one image: loading takes one thread, a step all of them
        share = one / (one + found.threads / found.step)
        lines.append(
            f"on a CPU, loading and training share the cores: loading takes {share:.0%} of the time"
        )
    elif found.loader > ENOUGH * found.step:
        lines.append("the loader is faster than the training step: faster loading would not help")
    else:
        wanted = math.ceil(ENOUGH * found.step * one)
        lines.append(
            f"the loader is the limit: use {wanted} reading threads (--set data.threads={wanted})"
        )

    if found.read_s > 3 * found.read_again_s and found.read_s > found.decode_s:
        lines.append(
            f"the disk is the limit: the first read took {1e6 * found.read_s:.0f} us per image, "
            f"the second {1e6 * found.read_again_s:.0f}; a pack needs fewer bytes and reads them "
            "in sequence"
        )

    if found.packed_s and one > 0:
        gain = one / (one - found.decode_s + found.packed_s)
        if gain > 1.1:
            lines.append(
                f"saccade pack --max-side {found.pack_side}: an image then takes {1 / gain:.0%} "
                f"of the time ({gain:.1f} x faster, measured on {PACK_SAMPLE} of your images)"
            )

    if config.augment.repeats == 1 and found.decode_s > 3 * found.resize_s:
        lines.append(
            "augment.repeats=2 decodes each image once for two views (this changes the recipe)"
        )
    return tuple(lines)


def show(found: Diagnosis) -> str:
    """Return the figures and the advice as lines for people."""
    stages = (
        ("read, first time", found.read_s),
        ("read again", found.read_again_s),
        ("decode", found.decode_s),
        ("resize", found.resize_s),
        ("the rest", found.rest_s),
    )

    lines = [
        f"  {name:18} {1e6 * seconds:8.0f} us per image, one thread" for name, seconds in stages
    ]
    if found.packed_s:
        lines.append(
            f"  {'decode from a pack':18} {1e6 * found.packed_s:8.0f} us per image, at "
            f"{found.pack_side} px"
        )

    lines.append(
        f"  {'loader':18} {found.loader:8,.0f} img/s with {found.threads} threads, nothing "
        "else running"
    )
    lines.append(f"  {'training step':18} {found.step:8,.0f} img/s, nothing else running")
    return "\n".join([*lines, *(f"  advice: {line}" for line in found.advice)])
