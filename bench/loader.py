"""Images per second of input pipelines, side by side: RandomResizedCrop(224) and flip, batches of
64 as uint8.

    python bench/loader.py --data imagenet-samples.tar [--images 1000] [--rounds 3] [--threads
    2] [--ffcv PYTHON]

The images are repeated to ``--images``, unpacked into a temporary folder and packed; each pipeline
then reads whole epochs for some seconds in a process of its own, in turn, ``--rounds`` times. Peers
that are not installed are left out; FFCV may live in another environment, whose interpreter
``--ffcv`` names. Each row proves its pixels where it can: the mean absolute difference, in levels,
between its own crops and full decode, crop and antialiased resize of the same file, over 500 fixed
crops. Above 0.5 a row is marked: it does less work.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from pipelines import PIPELINES, SIDE, Pixels, Show, write_ffcv

PROOFS = 500
LEAST_S = 4.0


def difference(show: Show, files: list[bytes]) -> float:
    """Return the mean absolute difference, in levels, to full decode, crop and antialiased
    resize.
    """
    import simplejpeg
    import torch
    from torchvision.transforms.v2 import functional as tf

    rng = np.random.default_rng(0)
    differences = []
    for n in range(PROOFS):
        i = n % len(files)
        try:
            whole = simplejpeg.decode_jpeg(files[i], "RGB")
        except ValueError:
            continue
        height, width = _true_size(files[i], whole)
        w, h = int(rng.integers(width // 4, width + 1)), int(rng.integers(height // 4, height + 1))
        left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        image = torch.from_numpy(whole).permute(2, 0, 1)
        exact = (
            tf.resized_crop(image, top, left, h, w, [SIDE, SIDE], antialias=True)
            .permute(1, 2, 0)
            .numpy()
        )
        differences.append(float(np.abs(show(i, (left, top, w, h)).astype(int) - exact).mean()))
    return statistics.mean(differences)


def _true_size(data: bytes, whole: Pixels) -> tuple[int, int]:
    if importlib.util.find_spec("saccade"):
        from saccade.data.images import tiles

        if tiles.is_tiled(data):
            width, height = tiles.size(data)
            return height, width
    return whole.shape[0], whole.shape[1]


def contend(name: str, place: str, threads: int, prove: bool) -> dict[str, float]:
    """Run one pipeline: an epoch to warm up, then one that is timed; or the proof of its pixels."""
    epoch, show, files = PIPELINES[name](place, threads)
    if prove:
        return {"difference": difference(show, files) if show else float("nan")}
    for _ in epoch():
        pass
    begun, seen = time.perf_counter(), 0
    while time.perf_counter() - begun < LEAST_S:
        seen += sum(epoch())
    return {"rate": seen / (time.perf_counter() - begun)}


def ask(python: str, *words: str) -> dict[str, float] | None:
    """Run this script in a process of its own; None when a pipeline is not installed there."""
    done = subprocess.run([python, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        print(
            f"  left out: {' '.join(words[:3])}: {done.stderr.strip().splitlines()[-1:]}",
            file=sys.stderr,
        )
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def unpack(archive: Path, folder: Path, count: int) -> int:
    """Write ``count`` JPEGs, repeating those of the archive, as one class.

    Return their mean size in bytes.
    """
    originals = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                originals.append(tar.extractfile(member).read())  # type: ignore[union-attr]
    target = folder / "train" / "all"
    target.mkdir(parents=True)
    for n in range(count):
        (target / f"{n:05d}.jpg").write_bytes(originals[n % len(originals)])
    return sum(map(len, originals)) // len(originals)


def rows(root: Path, given: argparse.Namespace) -> list[tuple[str, str, str, str, int]]:
    """Prepare the data and return (title, interpreter, pipeline, place, mean bytes) of every
    row.
    """
    from saccade.data.packing import Chroma, Settings, pack
    from saccade.data.sources import open_source

    mean = unpack(given.data, root / "images", given.images)
    with tarfile.open(root / "images.tar", "w") as tar:
        tar.add(root / "images", "images")
    found = [
        ("saccade, folder", sys.executable, "saccade", str(root / "images"), mean),
        ("saccade, tar", sys.executable, "saccade", str(root / "images.tar"), mean),
    ]
    chromas: tuple[Chroma, ...] = ("4:2:0", "4:4:4")
    for side, chroma in itertools.product((500, 400), chromas):
        place = root / f"pack{side}-{chroma[2:].replace(':', '')}"
        done = pack(
            open_source(str(root / "images")), place, Settings(max_side=side, chroma=chroma)
        )
        found.append(
            (
                f"saccade, {side} px, {chroma}",
                sys.executable,
                "saccade",
                str(place),
                done.bytes // done.images,
            )
        )
    for name in ("torchvision-pil", "torchvision-v2", "timm", "dali"):
        found.append((name, given.peers or sys.executable, name, str(root / "images"), mean))
    for side in (500, 400):
        if given.ffcv:
            beton = root / f"{side}.beton"
            if (
                ask(
                    given.ffcv,
                    "--write-ffcv",
                    str(root / "images" / "train"),
                    str(beton),
                    str(side),
                )
                is not None
            ):
                size = beton.stat().st_size // given.images
                found.append((f"ffcv, {side} px, 4:4:4", given.ffcv, "ffcv", str(beton), size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a tar of JPEGs")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peers", help="interpreter of the environment of timm and DALI, if another"
    )
    parser.add_argument("--ffcv", help="interpreter of the environment of FFCV")
    parser.add_argument(
        "--one", nargs=3, metavar=("PIPELINE", "PLACE", "rate|proof"), help=argparse.SUPPRESS
    )
    parser.add_argument("--write-ffcv", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()

    # what this script asks of itself in a process of its own
    if given.one:
        name, place, what = given.one
        print(json.dumps(contend(name, place, given.threads, what == "proof")))
        return
    if given.write_ffcv:
        write_ffcv(*given.write_ffcv[:2], int(given.write_ffcv[2]))
        print("{}")
        return

    with tempfile.TemporaryDirectory() as temporary:
        table = rows(Path(temporary), given)
        proofs = {
            title: ask(python, "--one", name, place, "proof")
            for title, python, name, place, _ in table
        }
        rates: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for title, python, name, place, _ in table:
                answer = ask(python, "--one", name, place, "rate", "--threads", str(given.threads))
                if answer is not None:
                    rates.setdefault(title, []).append(answer["rate"])

    base = statistics.median(rates.get("torchvision-pil", [float("nan")]))
    print(
        f"{'':24} {'img/s':>7} {'spread':>13} {'n':>2} {'x torchvision':>13} {'kB/image':>8} "
        " pixels"
    )
    for title, _, _, _, size in table:
        if title in rates:
            values, proof = rates[title], (proofs[title] or {}).get("difference", float("nan"))
            warning = " NOT COMPARABLE" if proof > 0.5 else ""
            verdict = "not proven" if proof != proof else f"{proof:.3f}{warning}"
            spread = f"{min(values):.0f}-{max(values):.0f}"
            middle = statistics.median(values)
            figures = (
                f"{middle:7.0f} {spread:>13} {len(values):2} {middle / base:13.2f} "
                f"{size / 1e3:8.1f}"
            )
            print(f"{title:24} {figures}  {verdict}")


if __name__ == "__main__":
    main()
