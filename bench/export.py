"""Exported classifiers beside torch and beside what timm writes, in one process, in turn.

    python bench/export.py                         six networks, 1 and 2 threads, batch 1 and 32
    python bench/export.py resnet18 --threads 1 --seconds 20

Each network is timm's, with one set of drawn weights, and answers two questions, each side alike:

- from normalised images to logits: ``torch`` without compilation; ``float``, the file of
  ``saccade export --input float``; and ``timm``, the file of `timm.utils.onnx.onnx_export`, which
  timm's ``onnx_export.py`` calls, by its defaults (``--dynamo`` for its other exporter); and
  ``again``, timm's file once more, which shows by how much the same file differs from itself.
- from pixels to logits: ``pixels``, the file of ``saccade export``; ``int8``, that of ``--int8``;
  and ``timm+``, numpy's normalisation and then timm's file, as its users have to do.

onnxruntime runs all files. Every turn runs all seven, each twice of which the second is timed, in
an order drawn anew. The table shows medians, and the ratios of each turn, ``float / timm``,
``again / timm``, ``pixels / timm+`` and ``int8 / timm+``: their median with a 95 % interval from
order statistics. Below 1 ours is faster; a row ends with LOSES where the interval of ``float`` or
``pixels`` lies above 1, and above that of ``again``. Before any timing the logits are compared.
Times of a machine that others use mean nothing: there, ``--threads 1 --cpu-time``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from timm.utils.onnx import onnx_export
from torch import nn

from saccade.evaluation.classifier import Classifier, Recipe
from saccade.exporting import calibration, int8_file
from saccade.exporting.graph import captured
from saccade.exporting.onnx_file import onnx_bytes
from saccade.exporting.whole import Whole

SIDES = {
    "resnet18": 128,
    "resnet50": 128,
    "mobilenetv2_100": 128,
    "efficientnet_b0": 128,
    "convnext_atto": 128,
    "vit_tiny_patch16_224": 224,
}
RATIOS = (("float", "timm"), ("again", "timm"), ("pixels", "timm+"), ("int8", "timm+"))
CLASSES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FEWEST_TURNS, MOST_TURNS = 5, 60
REST_S = 0.003
"""Threads of onnxruntime look for work for a moment after an answer."""

Array = np.ndarray[Any, Any]
Contender = Callable[[], Array]


def network(name: str) -> nn.Module:
    """Build timm's network with drawn norms.

    As they begin, some are 0: exporters would leave out the weights before them.
    """
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(name, num_classes=CLASSES).eval()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.1 * torch.rand_like(tensor))
    return made


def ours(made: nn.Module, name: str, side: int) -> dict[str, bytes]:
    """Return the files of ``saccade export``; drawn images show the ranges of 8 bits."""
    recipe = Recipe(
        model=f"timm:{name}",
        classes=tuple("abcdefghij"),
        image_size=side,
        eval_crop=1.0,
        mean=MEAN,
        std=STD,
        exif="ignore",
    )
    classifier = Classifier(made, recipe)
    data = onnx_bytes(captured(Whole(classifier, "uint8")), {})
    shown = np.random.default_rng(1).integers(0, 256, (4, 8, side, side, 3), np.uint8)
    int8 = int8_file.int8_bytes(data, lambda model, names: calibration.ranges(model, names, shown))
    return {
        "float": onnx_bytes(captured(Whole(classifier, "float")), {}),
        "pixels": data,
        "int8": int8,
    }


def theirs(made: nn.Module, side: int, *, dynamo: bool) -> bytes:
    """Return the file that timm writes, under a name of its own in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "theirs.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            onnx_export(
                made, str(path), input_size=(3, side, side), batch_size=2, use_dynamo=dynamo
            )
        return path.read_bytes()


def normalised(pixels: Array) -> Array:
    """Return pixels, uint8 (B, S, S, 3), as a network takes them, float32 (B, 3, S, S)."""
    scaled = pixels * (1 / (255 * np.float32(STD))) - np.float32(MEAN) / np.float32(STD)
    return np.ascontiguousarray(scaled.astype(np.float32, copy=False).transpose(0, 3, 1, 2))


def session(data: bytes, threads: int) -> Callable[[Array], Array]:
    """Return what answers for an ONNX file: images (B, ...) in, logits (B, C) out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    held = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = held.get_inputs()[0].name
    return lambda images: held.run(None, {name: images})[0]


def turns(
    contenders: Mapping[str, Contender], seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the milliseconds of each contender, turn by turn, within about so many seconds."""
    names, until = list(contenders), time.perf_counter() + seconds
    order = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(MOST_TURNS):
        if turn >= FEWEST_TURNS and time.perf_counter() > until:
            break
        # drawn anew: one that always comes after torch measures what torch left in the cache
        for name in order.sample(names, len(names)):
            time.sleep(REST_S)
            contenders[name]()
            begun = clock()
            contenders[name]()
            found[name].append(1e3 * (clock() - begun))
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median of some numbers with its 95 % interval by order statistics."""
    ranked, margin = sorted(values), int(0.98 * len(values) ** 0.5)
    middle = len(ranked) // 2
    low, high = max(middle - margin - 1, 0), min(middle + margin, len(ranked) - 1)
    return statistics.median(ranked), ranked[low], ranked[high]


def rows(name: str, given: argparse.Namespace) -> Iterator[str]:
    """Measure one network, and yield a row for each number of threads and batch."""
    side = SIDES[name]
    made = network(name)
    timms = theirs(made, side, dynamo=given.dynamo)
    files = ours(made, name, side) | {"timm": timms, "again": timms, "timm+": timms}
    eager = made.to(memory_format=torch.channels_last)
    clock = time.process_time if given.cpu_time else time.perf_counter

    for threads in given.threads:
        torch.set_num_threads(threads)
        # a session each, also for the file that is asked twice: its weights would stay in the
        # cache; in an order that is drawn: those made first answer up to 3 % later at batch 1
        drawn = random.Random(f"{name} {threads}").sample(sorted(files), len(files))
        run = {kind: session(files[kind], threads) for kind in drawn}
        for batch in given.batch:
            draw = np.random.default_rng(2)
            pixels = draw.integers(0, 256, (batch, side, side, 3), np.uint8)
            images = normalised(pixels)
            tensor = torch.from_numpy(images).to(memory_format=torch.channels_last)

            def in_torch(tensor: torch.Tensor = tensor) -> Array:
                with torch.inference_mode():
                    answer: Array = eager(tensor).numpy()
                return answer

            contenders: dict[str, Contender] = {
                "torch": in_torch,
                "float": lambda images=images, run=run: run["float"](images),
                "timm": lambda images=images, run=run: run["timm"](images),
                "again": lambda images=images, run=run: run["again"](images),
                "pixels": lambda pixels=pixels, run=run: run["pixels"](pixels),
                "int8": lambda pixels=pixels, run=run: run["int8"](pixels),
                "timm+": lambda pixels=pixels, run=run: run["timm+"](normalised(pixels)),
            }
            wanted = contenders["timm"]()
            apart = max(np.abs(contenders[kind]() - wanted).max() for kind in ("float", "pixels"))
            took = turns(contenders, given.seconds, clock)
            yield _row(f"{name} | {side} | {threads} | {batch} | {apart / wanted.std():.0e}", took)


def _row(head: str, took: dict[str, list[float]]) -> str:
    shown = " | ".join(f"{statistics.median(one):.2f}" for one in took.values())
    ratios = [
        interval([one / other for one, other in zip(took[ours], took[theirs], strict=True)])
        for ours, theirs in RATIOS
    ]
    compared = " | ".join(f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in ratios)
    floor = max(1.0, ratios[1][2])
    verdict = " LOSES" * any(low > floor for _, low, _ in (ratios[0], ratios[2]))
    return f"| {head} | {shown} | {compared} | {len(took['timm'])} |{verdict}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of timm; all six without one")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of turns for each row")
    parser.add_argument("--dynamo", action="store_true", help="timm's other exporter")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the seconds of the processor"
    )
    given = parser.parse_args()

    begun = time.perf_counter()
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, timm "
        f"{timm.__version__}{' with dynamo' * given.dynamo}; milliseconds of "
        f"{'the processor' if given.cpu_time else 'the clock'}, medians of n turns"
    )
    print(
        "| network | px | threads | batch | ours and timm differ by | torch | float | timm | "
        "again | pixels | int8 | timm+ | float / timm | again / timm | pixels / timm+ | "
        "int8 / timm+ | n |"
    )
    print("|---" * 17 + "|", flush=True)
    found = []
    for name in given.names or SIDES:
        for row in rows(name, given):
            found.append(row)
            print(row, flush=True)
    print(
        f"{sum('LOSES' in row for row in found)} of {len(found)} lose; "
        f"{time.perf_counter() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
