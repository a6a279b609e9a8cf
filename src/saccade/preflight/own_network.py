"""Networks of other people: whether they can be trained and saved, tried on copies before the
first step.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from saccade.data.loader import Batch
from saccade.device import determinism
from saccade.device.precision import autocast
from saccade.distributed.sync_batchnorm import running_statistics
from saccade.errors import ConfigError, SaccadeError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits
from saccade.findings import Finding, listed, refuse
from saccade.models import backends
from saccade.models.parts.duplicate import TABLES, duplicate
from saccade.objectives.objective import heads
from saccade.preflight.out_of_memory import is_out_of_memory
from saccade.training import checkpoint, identity
from saccade.training.run import Run
from saccade.training.state import State
from saccade.training.step import StepRunner

Copies = Callable[[], tuple[State, StepRunner]]


def identify(module: nn.Module) -> dict[str, str]:
    """Return the identity of a network that was handed over.

    Raises ConfigError where it cannot be trained.
    """
    refuse(unusable(module))
    return identity.identify(module)


def give_back(module: nn.Module, final: nn.Module) -> None:
    """Copy what a run has learned into the network that was handed over, and put it into
    evaluation mode.
    """
    module.load_state_dict(final.state_dict())
    with torch.no_grad():
        for own, learned in zip(module.buffers(), final.buffers(), strict=True):
            own.copy_(learned)  # those that are not saved, too
    module.eval()


def unusable(module: nn.Module) -> list[Finding]:
    """Return why a network cannot be trained, copied or saved, as errors; it is not called."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return [
            _error(
                "not-copied",
                module,
                "is TorchScript, which cannot be copied",
                "hand over the Python class",
            )
        ]
    if found := _without_weights(module) or _not_saved(module) or _not_registered(module):
        return [found]
    try:
        duplicate(module)
    except Exception as error:  # any code may run here
        fix = "average and trial need copies: keep open files, locks and the like out of the module"
        return [_error("not-copied", module, f"cannot be copied: {_first_line(error)}", fix)]
    if holding := functions_holding(module):
        what = (
            "has functions that hold parts of itself; a copy would compute with the original's: "
            f"{_few(holding)}"
        )
        fix = (
            "write a method of the class that uses self, or bind it: net.forward = "
            "types.MethodType(function, net)"
        )
        return [_error("not-copied", module, what, fix)]
    return []


def functions_holding(module: nn.Module) -> list[str]:
    """Return the names of attributes with functions, such as closures, that hold parts of the
    network itself.

    ``copy.deepcopy`` copies no function and no weak reference: average and trial would use the
    original's weights.
    """
    own = {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}
    found = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in TABLES and _leads_to(own, value, set(), shared=False):
                found.append(f"{name}.{key}".removeprefix("."))
    return found


def _leads_to(own: set[int], value: Any, seen: set[int], *, shared: bool) -> bool:
    """Tell whether a value leads to what is ``own`` through something that copies share."""
    if id(value) in own or id(value) in seen:
        return shared and id(value) in own
    inner: Iterable[Any] = ()
    if isinstance(value, types.FunctionType):
        inner, shared = identity.reads(value), True
    elif isinstance(value, weakref.ReferenceType):
        inner, shared = [value()], True
    elif isinstance(value, types.MethodType):
        inner = [value.__func__, value.__self__]
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    elif isinstance(value, nn.Module):
        inner = value.modules() if shared else ()
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType | Tensor):
        inner = vars(value).values()
    seen.add(id(value))
    return any(_leads_to(own, one, seen, shared=shared) for one in list(inner))


def _without_weights(module: nn.Module) -> Finding | None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [n for n, t in tensors if is_lazy(t)]:
        what = f"has layers without weights yet (lazy ones): {_few(lazy)}"
        fix = "call it once before, net(torch.zeros(1, 3, S, S)), which makes them"
        return _error("no-weights", module, what, fix)
    if unreal := [n for n, t in tensors if t.is_meta]:
        what = f"has tensors without values (device meta): {_few(unreal)}"
        return _error("no-weights", module, what, "build it on a CPU, or give it weights before")
    return None


def _not_registered(module: nn.Module) -> Finding | None:
    """Find layers in a plain list or dictionary: torch does not know them, so nothing trains or
    saves them.
    """
    own = {id(part) for part in module.modules()}
    hidden = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in TABLES and any(
                id(layer) not in own and any(p.requires_grad for p in layer.parameters())
                for layer in _modules_in(value)
            ):
                hidden.append(f"{name}.{key}".removeprefix("."))
    if not hidden:
        return None
    what = (
        "has layers in a plain list or dictionary, where nothing trains or saves them: "
        f"{_few(hidden)}"
    )
    fix = (
        "keep them in an nn.ModuleList or nn.ModuleDict; what is not to be trained: "
        "layer.requires_grad_(False)"
    )
    return _error("hidden-layers", module, what, fix)


def _modules_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Yield the modules in lists and dictionaries, and in those inside them."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, list | tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in(one, depth - 1)


def _not_saved(module: nn.Module) -> Finding | None:
    saved = module.state_dict()
    if strange := [n for n, t in saved.items() if not isinstance(t, Tensor)]:
        what = f"keeps what is no tensor in its state: {_few(strange)}"
        fix = "a run is saved as tensors alone: keep it in a buffer, or leave get_extra_state out"
        return _error("not-saved", module, what, fix)
    tensors = {**saved, **dict(module.named_buffers())}
    odd = [n for n, t in tensors.items() if t.layout != torch.strided or t.is_quantized]
    if odd := [*odd, *(n for n, t in tensors.items() if n not in odd and _overlaps(t))]:
        what = f"has tensors that cannot be saved and read back: {_few(odd)}"
        fix = "sparse and quantised ones have to be dense, expanded ones need a .clone()"
        return _error("not-saved", module, what, fix)
    if shared := _in_one_place([*module.named_parameters(), *module.named_buffers()]):
        what = f"has tensors that lie in the memory of others: {_few(shared)}"
        fix = (
            "tie weights by one parameter under two names (a.weight = b.weight, no .data, no view)"
        )
        return _error("not-saved", module, what, fix)
    return None


def _in_one_place(tensors: list[tuple[str, Tensor]]) -> list[str]:
    """Return the names of those among different tensors of any shapes ``(...)`` that overlap one
    before them.
    """
    spans = []
    for name, tensor in tensors:
        if tensor.numel():
            last = sum(
                (size - 1) * stride
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            spans.append(
                (tensor.data_ptr(), tensor.data_ptr() + last * tensor.element_size(), name)
            )
    spans.sort()
    return [name for (_, end, _), (start, _, name) in pairwise(spans) if start <= end]


def doubtful(module: nn.Module) -> list[Finding]:
    """Return what is hardly meant: nothing to train, an error, or weights in half precision, a
    warning.
    """
    if not any(p.requires_grad for p in module.parameters()):
        what = "has no parameter that is trained: requires_grad is True on none of them"
        fix = "set requires_grad_(True) on the layers to train, such as the head"
        return [_error("nothing-to-train", module, what, fix)]
    half = (torch.float16, torch.bfloat16)
    coarse = [n for n, p in module.named_parameters() if p.requires_grad and p.dtype in half]
    if not coarse:
        return []
    text = f"weights in half precision lose most small updates: {_few(coarse)}"
    fix = (
        "hand over module.float(): the forward pass is computed in bf16 all the same (--precision)"
    )
    return [Finding("half-weights", "warning", text, where=type(module).__name__, fix=fix)]


def is_foreign(run: Run) -> bool:
    """Tell whether the network of a run is not one of ours: handed over, or of timm or
    torchvision.
    """
    return run.recipe.model.startswith("custom:") or backends.is_backend(run.recipe.model)


@contextmanager
def explained(run: Run, when: str = "") -> Iterator[None]:
    """Turn what a foreign network raises when it is tried into ConfigError.

    ``when`` follows "it fails".
    """
    try:
        yield
    except SaccadeError:
        raise
    except Exception as error:  # any code may run here
        if not is_foreign(run) or is_out_of_memory(error) or determinism.refused(error):
            raise
        cell = run.config.cell
        raise _failing(
            run, error, when or f"on a cell of {cell} image{'s' * (cell > 1)}"
        ) from error


def _failing(run: Run, error: Exception, when: str) -> ConfigError:
    text = _first_line(error)
    fix = (
        "it is called again and again, in training mode and in evaluation mode, with any number "
        "of images"
    )
    if "more than 1 value per channel" in text:
        fix = (
            "a norm over the batch needs several values for each channel: take larger cells "
            "(--set batch.cell=16)"
        )
    elif "does not require grad" in text:
        fix = (
            "its answer does not depend on any trained parameter: is it detached, or made under "
            "no_grad?"
        )
    elif "dtype" in text or "same type" in text or "should be the same" in text:
        fix = "it gets float32 images: hand over module.float()"
    elif "Complex" in text:
        fix = (
            "complex parameters cannot be trained: keep them real, and use torch.view_as_complex "
            "in forward"
        )
    what = f"{run.recipe.model.removeprefix('custom:')} fails {when}: {text}"
    return ConfigError(what, where=run.recipe.model, fix=fix, finding="model-fails")


def rehearse(run: Run, copies: Copies, cell: Batch) -> list[Finding]:
    """Do with copies of a foreign network all that the run will do with it, and compare what was
    saved.

    Two steps, an evaluation between them, a checkpoint and the final file, written and read in
    memory. Raises ConfigError where one of them fails, and DivergedError; returns what is doubtful
    about its buffers.
    """
    (state, stepper), (fresh, _) = copies(), copies()
    recipe = run.recipe
    stepper.step(state, cell)
    network = state.final_model.eval()
    side = recipe.eval_side
    evaluation = explained(run, "in evaluation after a step")
    with evaluation, torch.inference_mode(), autocast(run.precision, run.device):
        answer = mean_logits(
            network, torch.zeros(2, 3, side, side, device=run.device), recipe.eval_views
        )
    require_logits(answer, 2, run)
    network.train()
    with explained(
        run, "in a second step, which finds what the first step and an evaluation left behind"
    ):
        stepper.step(state, cell)
    stepper.finite.settle()
    _require_same_names(run, state)
    checkpoint.through_memory(state, fresh)
    if fresh.digest() != state.digest():
        raise _lost(run, "a checkpoint")
    reread = duplicate(fresh.final_model)
    reread.load_state_dict(safetensors.torch.load(Classifier(state.final_model, recipe).to_bytes()))
    if any(not torch.equal(a, b) for a, b in _saved(reread, state.final_model)):
        raise _lost(run, "the file of the final weights")
    return _changing_buffers(run, state)


def _saved(one: nn.Module, other: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        yield _bytes(tensor), _bytes(theirs[name])


def require_logits(answer: Any, count: int, run: Run) -> None:
    """Raise ConfigError where an answer is not logits (B, C), or a tuple or list of such for
    several heads.
    """
    wanted = (count, len(run.recipe.classes))
    for logits in heads(answer):
        if tuple(logits.shape) != wanted:
            name = run.recipe.model.removeprefix("custom:")
            raise ConfigError(
                f"{name} answers with {tuple(logits.shape)} in training mode instead of "
                f"logits {wanted}",
                where=run.recipe.model,
                finding="head-width",
                fix=(
                    "return one row of logits per image, or a tuple of such for a main and "
                    "auxiliary heads"
                ),
            )


def _require_same_names(run: Run, state: State) -> None:
    before, after = (
        {f"{g}/{n}" for g, ts in s.tensors().items() for n in ts} for s in (run.state, state)
    )
    if changed := sorted(before ^ after):
        raise ConfigError(
            f"tensors come or go in the forward pass: {_few(changed)}",
            where=run.recipe.model,
            finding="not-saved",
            fix="make them in __init__, or with register_buffer(..., persistent=False)",
        )


def _lost(run: Run, what: str) -> ConfigError:
    return ConfigError(
        f"{what} does not give back what the network held",
        where=run.recipe.model,
        finding="not-saved",
        fix="do state_dict and load_state_dict of all its modules hold the same tensors?",
    )


def _changing_buffers(run: Run, state: State) -> list[Finding]:
    """Name what training changes in a way that people may not expect."""
    before, after = dict(run.state.model.named_buffers()), dict(state.model.named_buffers())
    raw = {n for n in before if not torch.equal(_bytes(before[n]), _bytes(after[n]))}
    kept = set(state.model.state_dict())
    findings = []
    if unsaved := sorted(raw - kept):
        text = (
            f"training changes buffers that are not saved: {_few(unsaved)}; a resumed run begins "
        )
        text += "with their first values and will differ"
        fix = "leave persistent=False out"
        findings.append(
            Finding("buffer-not-saved", "warning", text, where=run.recipe.model, fix=fix)
        )
    averaged, cells = running_statistics(state.model), run.global_batch // run.config.cell
    counters = {
        n
        for n, b in after.items()
        if b.numel() == 1 and not (b.is_floating_point() or b.is_complex())
    }
    last = sorted(n for n in raw - counters if id(after[n]) not in averaged)
    if last and cells > 1:
        text = f"only the last of the {cells} cells of a step counts for buffers that training "
        text += f"changes and that are no running statistics: {_few(last)}"
        fix = "call them running_... where a mean is meant, or take a batch of one cell"
        findings.append(
            Finding("buffer-of-last-cell", "warning", text, where=run.recipe.model, fix=fix)
        )
    return findings


def _bytes(tensor: Tensor) -> Tensor:
    """Return the values of a tensor of any shape ``(...)`` as uint8 (n,): NaN is unequal to
    itself.
    """
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _overlaps(tensor: Tensor) -> bool:
    """Tell whether several elements lie in one place, as after ``expand``."""
    return any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _error(kind: str, module: nn.Module, what: str, fix: str) -> Finding:
    name = type(module).__name__
    return Finding(kind, "error", f"{name} {what}", where=name, fix=fix, status=78)


def _few(names: list[str]) -> str:
    return listed(names, len(names))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
