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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BATCH, PROOFS = 224, 64, 500
LEAST_S = 4.0
Pixels = np.ndarray
Epoch = Callable[[], Iterator[int]]
Show = Callable[[int, tuple[int, int, int, int]], Pixels]


def saccade(place: str, threads: int) -> tuple[Epoch, Show, list[bytes]]:
    """Our loader on a folder, archive or pack."""
    import torch

    import saccade  # noqa: F401 - sets the waiting policy before torch loads
    from saccade.config.schema import AugmentSection
    from saccade.data.augment import geometry
    from saccade.data.images import crops
    from saccade.data.loader import Readers, TrainingView, batches
    from saccade.data.order import Order
    from saccade.data.sources import open_source

    split = open_source(place).splits["train"]
    view = TrainingView(split, Order(len(split), 0), AugmentSection(), SIDE, 10**6, "ignore")
    readers = Readers(threads)

    def epoch() -> Iterator[int]:
        for batch in batches(view, readers, BATCH, 0, len(split) // BATCH):
            yield len(batch.images)

    def show(i: int, box: tuple[int, int, int, int]) -> Pixels:
        ((pixels, (inner,)),) = crops.decode(
            [split.read(i)], lambda *_: np.array([[box]]), SIDE, "ignore"
        )
        slot = torch.empty((1, 3, SIDE, SIDE), dtype=torch.uint8).to(
            memory_format=torch.channels_last
        )
        geometry.resize_into(slot, pixels, inner, False)
        return slot[0].permute(1, 2, 0).numpy()

    return epoch, show, [bytes(split.read(i)) for i in range(min(len(split), 100))]


def torchvision_pil(place: str, threads: int) -> tuple[Epoch, Show, list[bytes]]:
    """ImageFolder and DataLoader as in torchvision's reference, without normalisation (uint8
    out).
    """
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import functional as tf

    crop = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    files = sorted(Path(place, "train").rglob("*.jpg"))

    def show(i: int, box: tuple[int, int, int, int]) -> Pixels:
        left, top, width, height = box
        with Image.open(files[i]) as image:
            return np.asarray(
                tf.resized_crop(image.convert("RGB"), top, left, height, width, [SIDE, SIDE])
            )

    return _folder_epoch(place, threads, crop, None), show, [f.read_bytes() for f in files[:100]]


def torchvision_v2(place: str, threads: int) -> tuple[Epoch, Show, list[bytes]]:
    """torchvision's own decoder and transforms.v2 on uint8 tensors."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as tf

    crop = v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()])
    files = sorted(Path(place, "train").rglob("*.jpg"))

    def load(path: str) -> Any:
        return decode_image(path, ImageReadMode.RGB)

    def show(i: int, box: tuple[int, int, int, int]) -> Pixels:
        left, top, width, height = box
        seen = tf.resized_crop(
            load(str(files[i])), top, left, height, width, [SIDE, SIDE], antialias=True
        )
        return seen.permute(1, 2, 0).numpy()

    return _folder_epoch(place, threads, crop, load), show, [f.read_bytes() for f in files[:100]]


def _folder_epoch(place: str, threads: int, crop: Any, load: Any) -> Epoch:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    options = {"loader": load} if load else {}
    dataset = ImageFolder(str(Path(place, "train")), crop, **options)
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=threads, drop_last=True, persistent_workers=True
    )

    def epoch() -> Iterator[int]:
        for images, _ in loader:
            yield len(images)

    return epoch


def timm(place: str, threads: int) -> tuple[Epoch, None, None]:
    """timm's create_loader with its prefetcher off (that needs a GPU) and no automatic
    augmentation.
    """
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", str(Path(place, "train")))
    loader = create_loader(
        dataset,
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=threads,
        interpolation="bilinear",
        color_jitter=None,
        persistent_workers=True,
    )

    def epoch() -> Iterator[int]:
        for images, _ in loader:
            yield len(images)

    return epoch, None, None


def dali(place: str, threads: int) -> tuple[Epoch, Show, list[bytes]]:
    """NVIDIA DALI on the CPU: fused random-crop decode, antialiased triangular resize."""
    from nvidia.dali import fn, pipeline_def, types

    files = sorted(Path(place, "train").rglob("*.jpg"))

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    def training() -> Any:
        data, labels = fn.readers.file(
            file_root=str(Path(place, "train")), random_shuffle=True, name="files"
        )
        images = fn.decoders.image_random_crop(
            data, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0]
        )
        images = fn.resize(
            images, resize_x=SIDE, resize_y=SIDE, interp_type=types.INTERP_TRIANGULAR
        )
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    pipeline = training()
    pipeline.build()

    def epoch() -> Iterator[int]:
        for _ in range(len(files) // BATCH):
            images, _ = pipeline.run()
            yield len(images)

    def show(i: int, box: tuple[int, int, int, int]) -> Pixels:
        left, top, width, height = box

        @pipeline_def(batch_size=1, num_threads=1, device_id=None)
        def one() -> Any:
            data, _ = fn.readers.file(files=[str(files[i])])
            part = fn.decoders.image_slice(
                data,
                [left, top],
                [width, height],
                axis_names="WH",
                device="cpu",
                output_type=types.RGB,
                normalized_anchor=False,
                normalized_shape=False,
            )
            return fn.resize(
                part, resize_x=SIDE, resize_y=SIDE, interp_type=types.INTERP_TRIANGULAR
            )

        single = one()
        single.build()
        (images,) = single.run()
        return np.array(images.at(0))

    return epoch, show, [f.read_bytes() for f in files[:100]]


def ffcv(place: str, threads: int) -> tuple[Epoch, None, None]:
    """FFCV on a file that it wrote from the same images."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    stages = [RandomResizedCropRGBImageDecoder((SIDE, SIDE)), RandomHorizontalFlip(), ToTensor()]
    loader = Loader(
        place,
        batch_size=BATCH,
        num_workers=threads,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={"image": stages},
        os_cache=True,
    )

    def epoch() -> Iterator[int]:
        for batch in loader:
            yield len(batch[0])

    return epoch, None, None


def write_ffcv(folder: str, place: str, side: int) -> None:
    """Write FFCV's file from an image folder at quality 90."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Folder:
        """The images as FFCV wants them: it needs no torchvision, which may not fit its torch."""

        def __init__(self) -> None:
            self.files = sorted(Path(folder).rglob("*.jpg"))

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            return Image.open(self.files[i]).convert("RGB"), 0

    fields = {
        "image": RGBImageField(write_mode="jpg", max_resolution=side, jpeg_quality=90),
        "label": IntField(),
    }
    DatasetWriter(place, fields, num_workers=2).from_indexed_dataset(Folder())


PIPELINES: dict[str, Callable[[str, int], Any]] = {
    "saccade": saccade,
    "torchvision-pil": torchvision_pil,
    "torchvision-v2": torchvision_v2,
    "timm": timm,
    "dali": dali,
    "ffcv": ffcv,
}


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
