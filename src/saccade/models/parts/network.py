"""The common interface of our architectures: logits, feature maps, embeddings, another head."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, slots=True)
class Level:
    """One map that ``features`` returns: its channels, and the input pixels (per side) that one
    step spans.
    """

    channels: int
    stride: int


class Network(nn.Module):
    """The base of our architectures: logits = head(dropout(embed(images))).

    A family sets ``levels``, ``avgpool``, ``dropout`` and the head, and writes ``features``, or
    also ``embed`` where the last map is not simply pooled. Where torchvision has the architecture,
    parameters carry its names.
    """

    levels: tuple[Level, ...]
    avgpool: nn.Module
    dropout: nn.Module
    checkpointing = False
    """Recompute the blocks given to ``run`` in the backward pass instead of keeping their
    activations.
    """
    aux_weight = 0.0
    """In training a network with auxiliary heads returns (logits, auxiliary logits ...).

    This weighs their losses.
    """
    head_name: ClassVar[str] = "fc"
    """The linear layer, or 1x1 convolution, that makes the logits: its dotted name."""
    aux_names: ClassVar[tuple[str, ...]] = ()
    """The last layers of auxiliary heads, which follow the number of classes too."""

    @property
    def head(self) -> nn.Module:
        """The layer that turns pooled features into logits."""
        return self.get_submodule(self.head_name)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return one map (B, channels, H, W) for each of ``levels``, finest first, for images
        (B, 3, H, W).
        """
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W), which the head sees.

        That is before dropout; by default the last map, pooled.
        """
        return self.avgpool(self.features(x)[-1]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) for normalised images (B, 3, H, W)."""
        return self.head(self.dropout(self.embed(x)))

    def run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a block to a map or tokens (B, ...).

        ``checkpointing`` computes it again in the backward pass.
        """
        # without a gradient there is nothing to recompute for
        if self.checkpointing and self.training and x.requires_grad:
            return checkpoint(
                block,
                x,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _same_buffers(block)),
            )
        return block(x)

    def through(
        self, stages: Iterable[Iterable[Callable[[Tensor], Tensor]]], x: Tensor
    ) -> list[Tensor]:
        """Apply stages of blocks one after another to a map (B, C, H, W) and return the map
        after each stage.
        """
        maps = []
        for stage in stages:
            for block in stage:
                x = self.run(block, x)
            maps.append(x)
        return maps

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to those of ``torchvision``, ``timm`` or ``pycls`` where they differ.

        Empty = alike.
        """
        return {}


@contextmanager
def _same_buffers(block: object) -> Iterator[None]:
    """Put buffers back after a block ran a second time: BatchNorm has counted the batch already."""
    live = list(block.buffers()) if isinstance(block, nn.Module) else []
    before = [buffer.clone() for buffer in live]
    try:
        yield
    finally:  # torch leaves a block by an exception as soon as it has what it needs
        with torch.no_grad():
            for buffer, old in zip(live, before, strict=True):
                buffer.copy_(old)


def undecayed(model: nn.Module) -> set[str]:
    """Return the names of parameters without weight decay: norms, biases, and listed ones.

    A module lists its position tables, class tokens and the like in ``no_decay``, by attribute
    name.
    """
    # One dimension: norms and biases.
    found = {n for n, p in model.named_parameters() if p.dim() <= 1}
    for place, module in model.named_modules():
        found |= {f"{place}.{n}".lstrip(".") for n in getattr(module, "no_decay", ())}
    return found


def renamed(names: Iterable[str], *rules: tuple[str, str]) -> dict[str, str]:
    """Map state names to what regular expressions, one after the other, make of them.

    Unchanged names are left out.
    """
    found = {}
    for name in names:
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new != name:
            found[name] = new
    return found
