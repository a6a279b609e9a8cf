"""A rehearsal of the user's or a library's network: everything that a run does, on copies, before
the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from saccade import models
from saccade.data.loader import Batch
from saccade.device import determinism
from saccade.device.precision import autocast
from saccade.errors import ConfigError, SaccadeError
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.views import mean_logits
from saccade.findings import Finding
from saccade.models.parts.duplicate import duplicate
from saccade.models.parts.running_statistics import running_statistics
from saccade.objectives.objective import heads
from saccade.preflight.out_of_memory import is_out_of_memory
from saccade.preflight.own_network import few, first_line
from saccade.training import checkpoint
from saccade.training.run import Plan, Run
from saccade.training.state import State
from saccade.training.step import StepRunner
from saccade.units import human_count

Copies = Callable[[], tuple[State, StepRunner]]


def is_foreign(plan: Plan) -> bool:
    """Tell whether the network is foreign: the user's own, or from timm or torchvision."""
    return plan.recipe.model.startswith("custom:") or models.is_foreign(plan.recipe.model)


@contextmanager
def explained(plan: Plan, when: str = "") -> Iterator[None]:
    """Turn the exceptions of a foreign network in a trial into ConfigError.

    ``when`` follows "it fails".
    """
    try:
        yield
    except SaccadeError:
        raise
    except Exception as error:  # any code may run here
        if not is_foreign(plan) or is_out_of_memory(error) or determinism.refused(error):
            raise
        cell = plan.config.cell
        raise _failing(plan, error, when or f"on a cell of {human_count(cell, 'image')}") from error


def _failing(plan: Plan, error: Exception, when: str) -> ConfigError:
    text = first_line(error)
    fix = (
        "the network is called many times, in training mode and in evaluation mode, with any "
        "number of images"
    )

    if "more than 1 value per channel" in text:
        fix = "batch norm needs several values per channel: use larger cells (--set batch.cell=16)"
    elif "does not require grad" in text:
        fix = (
            "the output does not depend on any trainable parameter: check for detach() and "
            "no_grad()"
        )
    elif "dtype" in text or "same type" in text or "should be the same" in text:
        fix = "the images are float32: pass module.float()"
    elif "Complex" in text:
        fix = (
            "complex parameters cannot be trained: use real ones, and torch.view_as_complex in "
            "forward"
        )

    what = f"{plan.recipe.model.removeprefix('custom:')} fails {when}: {text}"
    return ConfigError(what, where=plan.recipe.model, fix=fix, finding="model-fails")


def rehearse(run: Run, copies: Copies, cell: Batch) -> list[Finding]:
    """Do everything that the run will do with copies of a foreign network, and compare the results.

    There are two steps, an evaluation between them, a checkpoint and the final file, written and
    read in memory.

    Returns warnings about buffers. Raises ConfigError if one of these fails, and DivergedError.
    """
    # two copies: one steps and is saved, the other has to become it from what was saved
    (state, stepper), (fresh, other) = copies(), copies()
    plan, recipe = run.plan, run.plan.recipe
    stepper.step(state, cell)

    learner, side = state.final_model, recipe.eval_side
    network = plan.objective.encoder(learner.eval())
    evaluation = explained(plan, "in evaluation after a step")
    with evaluation, torch.inference_mode(), autocast(plan.precision, plan.device):
        answer = mean_logits(
            network, torch.zeros(2, 3, side, side, device=plan.device), recipe.eval_views
        )
    if plan.objective.answers:
        require_logits(answer, 2, plan)

    learner.train()
    with explained(plan, "in a second step, after a first step and an evaluation"):
        stepper.step(state, cell)
    stepper.guard.settle()

    _require_same_names(plan, run.state, state)
    checkpoint.through_memory(state, fresh)
    if fresh.digest() != state.digest():
        raise _lost(plan, "a checkpoint")

    reread, kept = (plan.objective.encoder(one.final_model) for one in (fresh, state))
    reread = duplicate(reread)
    reread.load_state_dict(safetensors.torch.load(Classifier(kept, recipe).to_bytes()))
    if any(not torch.equal(a, b) for a, b in _saved(reread, kept)):
        raise _lost(plan, "the file of the final weights")

    if plan.behaviour.optimizer is not None and plan.choices.deterministic.value:
        stepper.step(state, cell)
        other.step(fresh, cell)
        if fresh.digest() != state.digest():
            raise ConfigError(
                "the optimizer takes a different step after saving and restoring it",
                where="optimizer",
                fix=(
                    "keep everything that it remembers in its state or its groups, not in "
                    "attributes"
                ),
                finding="not-saved",
            )
    return _changing_buffers(plan, run.state, state)


def _saved(one: nn.Module, other: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        yield _bytes(tensor), _bytes(theirs[name])


def require_logits(answer: Any, count: int, plan: Plan) -> None:
    """Raise ConfigError unless an output is logits (B, C), or a tuple or list of several heads'
    logits."""
    wanted = (count, len(plan.recipe.classes))
    for logits in heads(answer):
        if tuple(logits.shape) != wanted:
            name = plan.recipe.model.removeprefix("custom:")
            raise ConfigError(
                f"{name} returns {tuple(logits.shape)} in training mode instead of logits {wanted}",
                where=plan.recipe.model,
                finding="head-width",
                fix=(
                    "return one row of logits per image, or a tuple of them: main head, then "
                    "auxiliary heads"
                ),
            )


def _require_same_names(plan: Plan, real: State, tried: State) -> None:
    # an optimiser of the user's own may make its state in the first step
    groups = {*real.tensors()} - ({"optimizer"} if plan.behaviour.optimizer is not None else {""})
    before, after = (
        {f"{group}/{name}" for group in groups for name in state.tensors()[group]}
        for state in (real, tried)
    )
    if changed := sorted(before ^ after):
        raise ConfigError(
            f"the forward pass adds or removes tensors: {few(changed)}",
            where=plan.recipe.model,
            finding="not-saved",
            fix="create them in __init__, or use register_buffer(..., persistent=False)",
        )


def _lost(plan: Plan, what: str) -> ConfigError:
    return ConfigError(
        f"{what} does not restore the network",
        where=plan.recipe.model,
        finding="not-saved",
        fix="check that state_dict and load_state_dict of all modules use the same tensors",
    )


def _changing_buffers(plan: Plan, real: State, tried: State) -> list[Finding]:
    """Warn of buffers that training changes in unexpected ways."""
    before, after = dict(real.model.named_buffers()), dict(tried.model.named_buffers())
    raw = {n for n in before if not torch.equal(_bytes(before[n]), _bytes(after[n]))}
    kept = set(tried.model.state_dict())
    findings = []
    if unsaved := sorted(raw - kept):
        text = f"training changes buffers that are not saved: {few(unsaved)}; a resumed run starts "
        text += "with their first values and will differ"
        fix = "remove persistent=False"
        findings.append(
            Finding("buffer-not-saved", "warning", text, where=plan.recipe.model, fix=fix)
        )

    averaged, cells = running_statistics(tried.model), plan.global_batch // plan.config.cell
    counters = {
        n
        for n, b in after.items()
        if b.numel() == 1 and not (b.is_floating_point() or b.is_complex())
    }
    last = sorted(n for n in raw - counters if id(after[n]) not in averaged)
    if last and cells > 1:
        text = "training changes buffers that are not running statistics; only the last of "
        text += f"the {cells} cells (micro-batches) of a step counts for them: {few(last)}"
        fix = "name them running_... if they are means, or use a batch of one cell"
        findings.append(
            Finding("buffer-of-last-cell", "warning", text, where=plan.recipe.model, fix=fix)
        )
    return findings


def _bytes(tensor: Tensor) -> Tensor:
    """Return the values of a tensor of any shape ``(...)`` as uint8 (n,).

    Floats cannot be compared: NaN is unequal to itself.
    """
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
