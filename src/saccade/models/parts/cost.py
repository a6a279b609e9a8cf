"""What a model costs: parameters, MACs, activations, memory, without allocating it."""

from __future__ import annotations

import functools
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


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts for one image: parameters, multiply-accumulates, output elements of convolutions and
    linear layers.

    ``last_map`` is (height, width) of the last feature map that a convolution wider than 1x1 made,
    (0, 0) without one; 1x1 convolutions may follow the pooling. ``kept_bytes`` is what the backward
    pass of one float32 image needs kept besides the weights: every tensor that autograd saves,
    counted once.
    """

    params: int
    macs: int
    activations: int
    last_map: tuple[int, int]
    kept_bytes: int


def cost(model: nn.Module, image_size: int) -> Cost:
    """Count the cost of one square RGB image of ``image_size`` pixels.

    The model must be on the meta device.

    Attention counts with its two products of tokens with tokens. Auxiliary heads, which work in
    training only, count as parameters alone.
    """
    activations, last_map = 0, (0, 0)

    def record(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal activations, last_map
        activations += output.numel()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            last_map = (output.shape[-2], output.shape[-1])

    # Activations are those of convolutions and linear layers, as RegNet counts them.
    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with hooked(counted, record), counting(model) as counts:
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    params = sum(p.numel() for p in model.parameters())
    return Cost(
        params, counts.macs, activations, last_map=last_map, kept_bytes=counts.kept_bytes(model)
    )


@contextmanager
def hooked(
    modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call ``hook(module, inputs, output)`` after each module inside the ``with`` block."""
    handles = [m.register_forward_hook(hook) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class _Worked:
    """What an operation gives for arguments of known shapes, and its MACs.

    Results are (shape, strides, type).
    """

    results: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    is_one: bool
    macs: int


_KNOWN: dict[Any, _Worked] = {}


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiply-accumulates and saved tensors of everything that runs while it is active.

    Torch works out shapes in Python, up to a millisecond for an operation; networks repeat their
    blocks, so each operation is worked out once for each shape of its arguments and remembered.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.saved: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation, or remember what it gave, and add what it multiplies."""
        given = kwargs or {}
        # a view or a change in place cannot be remembered: its result depends on more than shapes
        key = (func, _form(args), _form(tuple(given.items()))) if _makes_new(func) else None

        # Networks repeat their blocks: an operation on the same shapes gives the same shapes.
        worked = _KNOWN.get(key) if key else None
        if worked is not None:
            self.macs += worked.macs
            made = [torch.empty_strided(*r[:2], dtype=r[2], device="meta") for r in worked.results]
            return made[0] if worked.is_one else tuple(made)
        out = func(*args, **given)

        formula = flop_registry.get(func._overloadpacket)
        # torch counts a multiply-accumulate as two operations
        macs = formula(*args, **given, out_val=out) // 2 if formula else 0
        self.macs += macs

        results = (out,) if isinstance(out, Tensor) else out
        if (
            key
            and isinstance(results, tuple)
            and all(isinstance(r, Tensor) and r.is_meta for r in results)
        ):
            forms = tuple((tuple(r.shape), r.stride(), r.dtype) for r in results)
            _KNOWN[key] = _Worked(forms, isinstance(out, Tensor), macs)
        return out

    def save(self, tensor: Tensor) -> Tensor:
        """Note a tensor of any shape ``(...)`` that autograd keeps.

        Views of one storage count once.
        """
        storage = tensor.untyped_storage()
        # the storage is kept alive: a freed one's address could be given to another
        self.saved[storage._cdata] = storage
        return tensor

    def kept_bytes(self, model: nn.Module) -> int:
        """Return the bytes kept, the model's own parameters and buffers aside."""
        own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
        return sum(storage.nbytes() for place, storage in self.saved.items() if place not in own)


@functools.cache
def _makes_new(func: Any) -> bool:
    """Tell whether an operation gives new tensors only, neither views nor changed arguments."""
    schema = func._schema
    return not schema.is_mutable and not any(r.alias_info for r in schema.returns)


def _form(value: Any) -> Any:
    """Return what the shape of a result depends on: shapes of tensors, all other values."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(_form(v) for v in value)
    return type(value), value


class _FusedAttention(TorchFunctionMode):
    """Let attention keep what a fused kernel keeps.

    Without memory it would keep the products of all tokens.

    With a learned mask all devices keep these.
    """

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        learned = getattr(given.get("attn_mask"), "requires_grad", False)
        if func is F.scaled_dot_product_attention and len(args) == 3 and not learned:
            query, key, value = args
            # two products: queries with keys, and weights with values
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            self._counts.macs += pairs * (query.shape[-1] + value.shape[-1])
            return _Attention.apply(query, key, value)
        return func(*args, **given)


class _Attention(torch.autograd.Function):
    """Attention that keeps its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return an output of the shape of attention's, (..., tokens, C), for (..., tokens, C)
        each.
        """
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        return out


@contextmanager
def counting(model: nn.Module) -> Iterator[Counts]:
    """Count what a model on the meta device computes inside the ``with`` block.

    It runs as in evaluation, but with gradients.
    """
    counts, was_training = Counts(), model.training
    # BatchNorm refuses one image of one place in training
    model.eval()
    try:
        keep = torch.autograd.graph.saved_tensors_hooks(counts.save, lambda saved: saved)
        with torch.enable_grad(), keep, counts, _FusedAttention(counts):
            yield counts
    finally:
        model.train(was_training)
