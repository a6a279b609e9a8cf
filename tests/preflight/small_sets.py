"""Small folders of images, and what the preflight finds in them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from saccade.findings import Finding
from saccade.log import Log
from saccade.preflight import checks
from saccade.setup import build, choosing
from saccade.setup.compose import Composed, Request, compose
from saccade.training import datasets
from saccade.training.run import Run

QUIET = Log(quiet=True)


Layout = dict[str, dict[str, int]]


USUAL: Layout = {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}


def picture(seed: str, side: int = 24, turned: bool = False) -> bytes:
    pixels = np.random.default_rng(list(seed.encode())).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", exif=exif)
    return out.getvalue()


def make_set(root: Path, layout: Layout | None = None, **kind: Any) -> Path:
    for split, classes in (layout or USUAL).items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.jpg").write_bytes(picture(f"{split}{name}{i}", **kind))
    return root


def asked(data: Path | str, *sets: str, **flags: Any) -> Composed:
    given_flags = {"data.train": str(data), "data.image_size": 24, "epochs": "2ep"} | flags
    composed = compose(Request(["photos-small", "resnet8"], given_flags, sets))
    return dataclasses.replace(composed, explicit_batch="batch.global" in flags)


def found(composed: Composed, module: nn.Module | None = None) -> dict[str, Finding]:
    data = datasets.open_data(composed.config, composed.source)
    config, shrunk = build.shrink_batch(composed.config, len(data.train), composed.explicit_batch)
    return {f.id: f for f in checks.examine(config, data, module, QUIET, shrunk)}


def built(composed: Composed, folder: Path, module: nn.Module | None = None) -> Run:
    data = datasets.open_data(composed.config, composed.source)
    config, _ = build.shrink_batch(composed.config, len(data.train), composed.explicit_batch)
    return build.build(config, data, folder, choosing.decide(config, None), module=module)


def rehearse(run: Run) -> dict[str, Finding]:
    try:
        return {f.id: f for f in checks.trial(run, QUIET, lambda: None)[0]}
    finally:
        run.readers.close()


def errors(findings: dict[str, Finding]) -> dict[str, int]:
    return {f.id: f.status for f in findings.values() if f.severity == "error"}


class Own(nn.Module):
    """A user's network that can be wrong in several ways."""

    def __init__(
        self, width: int = 2, channels: int = 3, scale: float = 1.0, real_only: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, width)
        self.scale, self.real_only = scale, real_only

    def forward(self, x: Tensor) -> Tensor:
        if self.real_only:
            float(x.sum())  # no value can be read on the meta device
        return self.head(self.norm(self.conv(x)).mean((2, 3))) * self.scale  # type: ignore[no-any-return]
