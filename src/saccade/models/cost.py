"""What a model costs: parameters, multiply-accumulates, activations, memory, computed without allocating it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SLOW_SHAPES = {F.batch_norm, F.layer_norm, F.group_norm, F.gelu}


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts for one image: parameters, multiply-accumulates, output elements of convolutions and linear layers.

    ``last_map`` is (height, width) of the last feature map that a convolution wider than 1x1 made, (0, 0) without one;
    1x1 convolutions may follow the pooling. ``kept_bytes`` is what the backward pass of one float32 image needs kept
    besides the weights: every tensor that autograd saves, counted once.
    """

    params: int
    macs: int
    activations: int
    last_map: tuple[int, int]
    kept_bytes: int


def cost(model: nn.Module, image_size: int) -> Cost:
    """Count the cost of one square RGB image of ``image_size`` pixels; the model must be on the meta device.

    Attention counts with its two products of tokens with tokens. Auxiliary heads, which work in training only, count as
    parameters alone.
    """
    activations, last_map = 0, (0, 0)

    def record(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal activations, last_map
        activations += output.numel()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            last_map = (output.shape[-2], output.shape[-1])

    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with hooked(counted, record), counting(model) as counts:
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, counts.macs, activations, last_map, counts.kept_bytes(model))


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call ``hook(module, inputs, output)`` after each of the modules runs, until the block ends."""
    handles = [m.register_forward_hook(hook) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiply-accumulates and saved tensors of everything that runs while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.saved: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and add what it multiplies."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.macs += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out

    def save(self, tensor: Tensor) -> Tensor:
        """Note a tensor of any shape ``(...)`` that autograd keeps; views of one storage count once."""
        storage = tensor.untyped_storage()
        self.saved[storage._cdata] = storage
        return tensor

    def kept_bytes(self, model: nn.Module) -> int:
        """Return the bytes kept, the model's own parameters and buffers aside."""
        own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
        return sum(storage.nbytes() for place, storage in self.saved.items() if place not in own)


class _StandIns(TorchFunctionMode):
    """Replace operations whose shape torch works out in Python, a millisecond each, by a sine.

    Their results have the shape of their input, which is what they keep for the backward pass; so does a sine.
    Attention is replaced too: without memory it would keep the products of all tokens, which no device keeps.
    """

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in SLOW_SHAPES:
            return args[0].sin()
        if func is F.scaled_dot_product_attention and len(args) == 3 and not _learns_mask(given):
            query, key, value = args
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            self._counts.macs += pairs * (query.shape[-1] + value.shape[-1])
            return _Attention.apply(query, key, value)
        return func(*args, **given)


def _learns_mask(given: dict[str, Any]) -> bool:
    """Tell whether attention has a trained mask, for whose gradient all products are kept."""
    return getattr(given.get("attn_mask"), "requires_grad", False)


class _Attention(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return an output of the shape of attention's, (..., tokens, C), for (..., tokens, C) each."""
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        return out


@contextmanager
def counting(model: nn.Module) -> Iterator[Counts]:
    """Count what a model on the meta device does, as in evaluation but with gradients, until the block ends."""
    counts, was_training = Counts(), model.training
    model.eval()
    try:
        keep = torch.autograd.graph.saved_tensors_hooks(counts.save, lambda saved: saved)
        with torch.enable_grad(), keep, counts, _StandIns(counts):
            yield counts
    finally:
        model.train(was_training)
