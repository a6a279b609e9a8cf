"""Out-of-memory errors: recognised in all forms, with a cell that fits as advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saccade.config import cells
from saccade.config.schema import Config
from saccade.errors import ConfigError
from saccade.training.run import Plan
from saccade.training.state import State

SIGNS = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out; torch says it in several ways."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # libraries below torch have no type for it, only words
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def smaller_cells(config: Config) -> list[int]:
    """Return smaller cells (micro-batches), in images, for the same global batch, largest first."""
    cell, augment = config.cell, config.augment
    least = 2 if augment.mixes else 1  # one image has no other to be mixed with
    fitting = (d for d in reversed(cells.divisors(cell)) if least <= d < cell)
    return [d for d in fitting if d % augment.repeats == 0]


def too_large(plan: Plan, side: int, fitting: int) -> ConfigError:
    """Return the error for a cell of images of ``side`` px.

    ``fitting`` is the largest cell that was found to fit, or 0.
    """
    if fitting:
        fix = (
            f"--set batch.cell={fitting} fits (tried) and computes the same global batch in "
            "smaller cells"
        )
    else:
        guess = next(iter(smaller_cells(plan.config)), 1)
        fix = f"--set batch.cell={guess} or less computes the same global batch in smaller cells"
    return ConfigError(
        f"a cell of {plan.config.cell} images of {side} px does not fit into the memory of "
        f"{plan.device.type}",
        where="batch.cell",
        fix=f"{fix} (batch statistics and mixing belong to a cell (micro-batch), so the "
        "results change); --set model.checkpointing=true needs less memory and more "
        "time, with the same results",
        finding="out-of-memory",
    )


@contextmanager
def building(config: Config) -> Iterator[None]:
    """Turn out-of-memory errors while the network is built into ConfigError with its name."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{config.model.name} and its optimiser do not fit into memory",
            where="model.name",
            fix=(
                "use a smaller network, or raise the memory limit (ulimit -v, or the limit of "
                "the container or job)"
            ),
            finding="out-of-memory",
        ) from error


@contextmanager
def explained(plan: Plan, state: State) -> Iterator[None]:
    """Turn out-of-memory errors during a run into ConfigError with the step and the cell."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = next(iter(smaller_cells(plan.config)), 1)
        raise ConfigError(
            f"out of memory on {plan.device.type} at step {state.step}, with cells of "
            f"{plan.config.cell} images of "
            f"{plan.view.size_at(min(state.step, plan.total_steps - 1))} px; such steps fitted "
            "before",
            where=f"rank {plan.world.rank}" if plan.world.size > 1 else "batch.cell",
            fix="if another program used the memory, run the same command again: it "
            "continues from the last checkpoint; --set model.checkpointing=true "
            f"continues with less memory; --set batch.cell={smaller} changes the results "
            "and starts another run",
            finding="out-of-memory",
        ) from error
