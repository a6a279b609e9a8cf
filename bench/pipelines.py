"""The input pipelines that `bench/loader.py` compares: ours, and what people would use instead.

Each is made from a place and a number of threads or processes, and gives an epoch that yields the
number of images of each batch, a function that shows the pixels of one crop, and the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BATCH = 224, 64
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
    from saccade.data.loader import TrainingView, batches
    from saccade.data.order import Order
    from saccade.data.readers import Readers
    from saccade.data.sources import open_source

    split = open_source(place).splits["train"]
    view = TrainingView(
        split,
        Order(len(split), 0),
        AugmentSection(),
        image_size=SIDE,
        total_steps=10**6,
        exif="ignore",
    )
    readers = Readers(threads)

    def epoch() -> Iterator[int]:
        for batch in batches(view, readers, BATCH, first_step=0, last_step=len(split) // BATCH):
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
