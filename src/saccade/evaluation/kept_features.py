"""A cache of features: the same weights on the same images give the same features.

They are in the user's cache folder. Losing them costs only time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from saccade import cache, files
from saccade._version import __version__
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.errors import SaccadeError
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features, features_of, sample
from saccade.models.parts.embedding import head_name
from saccade.models.weights.tensor_bytes import contiguous_bytes
from saccade.system import doors

LARGEST_BYTES = 1 << 26
"""Largest cached features, in bytes."""

MOST_KEPT = 50
"""Largest number of cached features; the oldest ones are removed."""


def features_once(
    network: nn.Module,
    recipe: Recipe,
    split: Split,
    readers: Readers,
    *,
    precision: str,
    device: torch.device,
    poll: Callable[[int], None] = lambda _done: None,
    limit: int | None = None,
) -> Features:
    """Return features as ``features_of`` does, from the cache if possible.

    Those of your own network are computed each time, because its code can change.
    """
    drawn = sample(split, limit)
    place = None
    # without a stamp nothing tells whether the files are still the same
    if split.stamp and not recipe.model.startswith("custom:"):
        key = _key(network, recipe, drawn, f"{precision} {device.type}")
        place = cache.within("features", f"{key}.safetensors")
        if (known := _kept(place, len(drawn))) is not None:
            poll(len(drawn))
            return Features(known, torch.from_numpy(drawn.labels))

    found = features_of(
        network, recipe, drawn, readers, precision=precision, device=device, poll=poll
    )
    if place and found.vectors.nbytes <= LARGEST_BYTES:
        _keep(place, found.vectors)
    return found


class Look:
    """Features of one split after the other, as ``features_once`` returns them.

    ``poll`` gets the number of images done in all of them together.
    """

    def __init__(
        self,
        readers: Readers,
        precision: str,
        device: torch.device,
        poll: Callable[[int], None] = lambda _done: None,
    ) -> None:
        self.readers, self.precision, self.device = readers, precision, device
        self.poll, self.before = poll, 0

    def __call__(self, network: nn.Module, recipe: Recipe, split: Split) -> Features:
        """Return the features of a split."""
        found = features_once(
            network,
            recipe,
            split,
            self.readers,
            precision=self.precision,
            device=self.device,
            poll=lambda done: self.poll(self.before + done),
        )
        self.before += len(found)
        return found


def _key(network: nn.Module, recipe: Recipe, split: Split, how: str) -> str:
    """Return the key of the features, 32 hexadecimal digits."""
    seen = {n: v for n, v in asdict(recipe).items() if n not in ("classes", "objective")}
    facts = [__version__, torch.__version__, split.fingerprint, split.stamp, how, seen]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    head = head_name(network)
    for name, tensor in network.state_dict().items():
        # a fresh head changes nothing about what it receives
        if isinstance(tensor, Tensor) and not (head and name.startswith(f"{head}.")):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(contiguous_bytes(tensor))
    return digest.hexdigest()[:32]


def _kept(place: Path, count: int) -> Tensor | None:
    """Return vectors, float32 (count, d), if a valid file has them."""
    try:
        vectors = safetensors.torch.load(place.read_bytes())["vectors"]
    except (OSError, KeyError, ValueError, SafetensorError):
        return None
    sound = vectors.dtype == torch.float32 and vectors.dim() == 2 and len(vectors) == count
    return vectors if sound and bool(torch.isfinite(vectors).all()) else None


def _keep(place: Path, vectors: Tensor) -> None:
    """Store vectors, float32 (n, d), if possible, and remove the oldest ones."""
    with suppress(SaccadeError, OSError):
        files.write_bytes(place, safetensors.torch.save({"vectors": vectors.contiguous()}))
        aged = sorted(place.parent.glob("*.safetensors"), key=lambda p: p.lstat().st_mtime)
        for old in aged[:-MOST_KEPT]:
            doors.remove(old)
