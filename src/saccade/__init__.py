"""Saccade trains image classifiers: one command, exact resume, honest numbers.

>>> import saccade
>>> outcome = saccade.train(data="photos.zip", holdout="10%")      # doctest: +SKIP
>>> for prediction in saccade.predict(outcome.folder, "cat.jpg"):  # doctest: +SKIP
...     print(prediction.label)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from saccade._version import __version__ as __version__

# Before torch starts OpenMP: waiting threads sleep instead of spinning. Compute and reading threads
# share the cores, and on a busy machine spinning makes small networks ten times slower
# (docs/LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from saccade.api import evaluate as evaluate
    from saccade.api import load as load
    from saccade.api import open_source as open_source
    from saccade.api import predict as predict
    from saccade.api import pretrain as pretrain
    from saccade.api import train as train
    from saccade.api import validation_images as validation_images
    from saccade.errors import SaccadeError as SaccadeError
    from saccade.errors import StopTraining as StopTraining
    from saccade.frozen import embed as embed
    from saccade.frozen import probe as probe
    from saccade.leaving import export as export
    from saccade.leaving import quantize as quantize
    from saccade.models import create_model as create_model
    from saccade.models import foreign_state as foreign_state
    from saccade.models import list_models as list_models
    from saccade.models import load_weights as load_weights
    from saccade.models import register_model as register_model
    from saccade.objectives.metrics import top_k_accuracy as top_k_accuracy
    from saccade.objectives.objective import Cell as Cell
    from saccade.objectives.objective import Objective as Objective
    from saccade.objectives.objective import Primary as Primary
    from saccade.objectives.objective import Result as Result
    from saccade.objectives.page import Measure as Measure
    from saccade.proof import verify_resume as verify_resume
    from saccade.setup.steps import make_step as make_step
    from saccade.training.events import CheckpointSaved as CheckpointSaved
    from saccade.training.events import Evaluated as Evaluated
    from saccade.training.events import RunEnded as RunEnded
    from saccade.training.events import RunStarted as RunStarted
    from saccade.training.events import StepDone as StepDone

_HOMES = {
    "Cell": "saccade.objectives.objective",
    "CheckpointSaved": "saccade.training.events",
    "Evaluated": "saccade.training.events",
    "Measure": "saccade.objectives.page",
    "Objective": "saccade.objectives.objective",
    "Primary": "saccade.objectives.objective",
    "Result": "saccade.objectives.objective",
    "RunEnded": "saccade.training.events",
    "RunStarted": "saccade.training.events",
    "SaccadeError": "saccade.errors",
    "StepDone": "saccade.training.events",
    "StopTraining": "saccade.errors",
    "create_model": "saccade.models",
    "embed": "saccade.frozen",
    "evaluate": "saccade.api",
    "export": "saccade.leaving",
    "foreign_state": "saccade.models",
    "list_models": "saccade.models",
    "load": "saccade.api",
    "load_weights": "saccade.models",
    "make_step": "saccade.setup.steps",
    "open_source": "saccade.api",
    "predict": "saccade.api",
    "pretrain": "saccade.api",
    "probe": "saccade.frozen",
    "quantize": "saccade.leaving",
    "register_model": "saccade.models",
    "top_k_accuracy": "saccade.objectives.metrics",
    "train": "saccade.api",
    "validation_images": "saccade.api",
    "verify_resume": "saccade.proof",
}
__all__ = [
    "Cell",
    "CheckpointSaved",
    "Evaluated",
    "Measure",
    "Objective",
    "Primary",
    "Result",
    "RunEnded",
    "RunStarted",
    "SaccadeError",
    "StepDone",
    "StopTraining",
    "__version__",
    "create_model",
    "embed",
    "evaluate",
    "export",
    "foreign_state",
    "list_models",
    "load",
    "load_weights",
    "make_step",
    "open_source",
    "predict",
    "pretrain",
    "probe",
    "quantize",
    "register_model",
    "top_k_accuracy",
    "train",
    "validation_images",
    "verify_resume",
]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that ``saccade --help`` need not
    import torch.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'saccade' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
