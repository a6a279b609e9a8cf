"""All checks before the first step: problems that make a run fail, or its result meaningless.

Names and sizes are always checked completely, contents by :mod:`saccade.data.audit.sample`, the
model without memory, and speed and the first loss by :mod:`saccade.preflight.trial`.
"""

from __future__ import annotations

import time
from dataclasses import replace

from torch import nn

from saccade import objectives
from saccade.config.schema import Config
from saccade.device import determinism
from saccade.distributed.world import Devices, World
from saccade.errors import SaccadeError
from saccade.findings import Finding, is_error, tell
from saccade.log import Log
from saccade.objectives.objective import Objective
from saccade.preflight import census, contents, descent, length, network, out_of_memory
from saccade.preflight.trial import trial
from saccade.preflight.unused import left_out
from saccade.setup import agreement, build, cells, choosing
from saccade.setup.compose import Composed
from saccade.setup.initial_weights import initialise
from saccade.training import datasets
from saccade.training.datasets import Data

__all__ = ["Finding", "check", "examine", "trial"]


def examine(
    config: Config,
    data: Data,
    module: nn.Module | None,
    log: Log,
    shrunk: str = "",
    *,
    objective: Objective | None = None,
) -> list[Finding]:
    """Return the findings of all checks that need no training step, including errors.

    ``module`` is the user's own network, ``objective`` the user's own objective, ``shrunk`` the
    sentence about a reduced default batch. Prints a summary of the data.
    """
    objective = objective or objectives.build(config, data.train)
    census.tell(data, objective, log)

    # Names and sizes first: they cost nothing, and reading the images may take a minute.
    findings = [
        *objective.inspect(data.train, data.val, held_out=config.data.holdout > 0),
        *left_out(data),
        *cells.inspect(config, len(data.train), shrunk, module),
        *network.findings(config, data.train, module, objective),
        *network.rest_untrained(config, module),
    ]
    return [
        *findings,
        *contents.findings(data, config, log, objective.primary),
        *descent.findings(config, data),
    ]


def check(composed: Composed, log: Log, begun: float | None = None) -> list[Finding]:
    """Do all checks of training, including the trial step, and print them.

    Errors are returned, not raised. Leaves no run folder, and restores torch's number of threads.
    ``begun``, in seconds of the monotonic clock, is the start time; by default now.
    """
    findings: list[Finding] = []
    begun = time.monotonic() if begun is None else begun
    try:
        data = datasets.open_data(composed.config, composed.source, composed.val_source)
        config, shrunk = build.shrink_batch(
            composed.config, len(data.train), composed.explicit_batch
        )
        count = max(Devices.parse(config.device).count, 1)
        agreement.check_number(config, World(size=count, local_size=count))

        findings += examine(config, data, None, log=log, shrunk=shrunk)
        tell(findings, log)
        # a step of a run that is refused anyway would only take time
        if not any(map(is_error, findings)):
            findings += _rehearse(config, data, log, begun=begun)
    except SaccadeError as error:
        findings.append(Finding.of(error))

    for finding in filter(is_error, findings):
        where = f" ({finding.where})" if finding.where else ""
        log.say(f"error [{finding.id}] {finding.message}{where}; {finding.fix}")
    return findings


def _rehearse(config: Config, data: Data, log: Log, *, begun: float) -> list[Finding]:
    """Build the run as training does and try a step; its folder is not created."""
    folder = build.folder_for(config, data, build.model_name(config, None), "", fresh=False)
    with determinism.compute_threads():
        with out_of_memory.building(config):
            run = build.build(config, data, folder, choosing.decide(config, None))
        try:
            findings = initialise(run, log)
            found, choices = trial(run, log, lambda: None)
            findings += found
            if config.within:
                run = replace(run, plan=replace(run.plan, choices=choices))
                findings += length.settle(run, log, lambda: None, begun=begun)[1]
            return findings
        finally:
            run.readers.close()
