"""The trained model at a path: of a run, of its best checkpoint, of any of its checkpoints, or of a
file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade.config import plain_yaml
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.data.readers import Readers
from saccade.device import determinism, precision
from saccade.device.choose import pick_device
from saccade.errors import CheckpointError, ConfigError
from saccade.evaluation.classifier import Classifier, Recipe, no_model
from saccade.log import Log
from saccade.models.weights.content import MODEL_FILE
from saccade.objectives.evaluation import Evaluation, best_of
from saccade.training import checkpoint, recorded, state_json
from saccade.training.checkpoint import Saved

SETTINGS_FILE = "config.yaml"
MOST_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained model and the facts about its run.

    ``path`` is the model file or the checkpoint folder, ``saved`` the checkpoint, if it is one,
    ``folder`` the run folder, if there is one; ``resolved`` has the automatic choices of the run,
    empty if unknown.
    """

    path: Path
    folder: Path | None = None
    saved: Saved | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, best: bool = False) -> Subject:
        """Open a path; ``best`` uses the best checkpoint of a run folder.

        Raises CheckpointError if there is none, or if it is damaged.
        """
        if checkpoint.is_one(path):
            if best:
                raise CheckpointError(
                    "this is a checkpoint; only a run has a best checkpoint",
                    where=str(path),
                    fix="name the run folder, or remove --best",
                )
            return cls._of_checkpoint(path)

        folder = path if path.is_dir() else path.parent
        if best:
            return cls._of_checkpoint(best_checkpoint(folder))

        known = folder if (folder / SETTINGS_FILE).is_file() else None
        return cls(path / MODEL_FILE if path.is_dir() else path, known, None, _resolved(folder))

    @classmethod
    def _of_checkpoint(cls, path: Path) -> Subject:
        saved = checkpoint.read(path, "name another checkpoint of the run, or the run folder")
        run = path.resolve().parent.parent
        known = run if (run / SETTINGS_FILE).is_file() else None
        return cls(path, known, saved, saved.meta.get("resolved") or {})

    @property
    def phrase(self) -> str:
        """A description of the weights, for people."""
        return f"checkpoint {self.path.name}" if self.saved else "final weights"

    @property
    def config(self) -> Config:
        """The settings of the run; raises CheckpointError if they are unknown, ConfigError."""
        if self.saved is not None:
            layers = Layers()
            layers.add(self.saved.meta.get("config", {}), str(self.path / "state.json"))
            return layers.resolve()
        found = recorded.settings(self.folder) if self.folder else None
        if found is not None:
            return found
        if not self.path.exists():
            raise no_model(self.path)
        raise CheckpointError(
            "this file does not say which images it was evaluated on",
            where=str(self.path),
            fix="add --data",
        )

    def classifier(self, module: nn.Module | None = None) -> Classifier:
        """Build the network with its weights: the average (EMA), if the run has one.

        ``module`` is needed for the user's own network. Raises CheckpointError.
        """
        if self.saved is None:
            return Classifier.load(self.path, module)
        try:
            # a stranger's checkpoint: it goes through the same checks as a file's head
            state = self.path / "state.json"
            recipe = Recipe.parse(json.dumps(self.saved.meta["recipe"]), str(state))
        except (KeyError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "an earlier version wrote it"
            raise CheckpointError(
                f"this checkpoint does not say what its network and classes are: {reason}",
                where=str(self.path / "state.json"),
                fix="name the run folder",
            ) from error
        if not recipe.learned.answers:
            raise CheckpointError(
                "a checkpoint of pretraining holds the encoder and what trains it as one network",
                where=str(self.path),
                fix="name the run folder, without --best: a finished run has its encoder there",
            )
        group = "ema" if "ema" in self.saved.tensors else "model"
        return Classifier.load(self.path / f"{group}.safetensors", module, recipe)


def best_checkpoint(folder: Path) -> Path:
    """Return the folder of a run's best checkpoint, finished or not; raises CheckpointError."""
    place = folder / "checkpoints"
    # the newest one knows all evaluations, also those of steps that were pruned since
    saved, _ = checkpoint.newest(place)
    evaluations: list[Evaluation] = []
    if saved:
        primary = state_json.primary_of(saved.meta)
        evaluations = [Evaluation.parse(entry, primary) for entry in saved.meta["evaluations"]]

    best = best_of(evaluations)
    if best is None:
        raise CheckpointError(
            "there is no best checkpoint yet: nothing was evaluated"
            if saved
            else "there is no checkpoint at this path",
            where=str(place),
            fix="train at least one epoch: evaluations happen at the end of an epoch",
        )

    # the best one is kept from pruning, but its save may have failed
    path = place / f"step_{best.step:08d}"
    if not path.is_dir():
        raise CheckpointError(
            f"the best checkpoint (step {best.step}, {best.primary.title} {best.shown}) is no "
            "longer here",
            where=str(path),
            fix="it could not be saved, or was removed; use the final weights, without --best",
        )
    return path


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of an evaluation; ``threads`` compute, ``notes`` are the differences from the
    run."""

    device: torch.device
    precision: str
    threads: int
    deterministic: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        resolved: Mapping[str, Any],
        devices: str = "auto",
        wanted: str = "auto",
    ) -> Conditions:
        """Compute as the run did, unless other devices or another precision are requested.

        Raises ConfigError if this machine does not have them.
        """
        known = {
            n: choice.get("value") for n, choice in resolved.items() if isinstance(choice, dict)
        }

        notes = []
        place, before = devices, known.get("device")
        # the run may have computed on another machine
        if devices == "auto" and before:
            try:
                place = pick_device(str(before))[0]
            except ConfigError:
                notes.append(f"the run used {before}, which this machine does not have")
        device = torch.device(pick_device(place)[0])

        number_format, said = _precision(recipe.precision, wanted, device)

        # sums of a CPU depend on how many threads make them
        threads = known.get("compute_threads") if device.type == before == "cpu" else None
        if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            threads = torch.get_num_threads()

        return cls(
            device,
            number_format,
            threads,
            device.type == before == "cuda" and bool(known.get("deterministic")),
            (*notes, *said),
        )

    @contextmanager
    def computing(self) -> Iterator[Readers]:
        """Apply the conditions inside the ``with`` block, with readers for images, and log the
        differences."""
        for note in self.notes:
            Log().warn(note)
        readers = Readers(max(2, torch.get_num_threads()))
        try:
            # as the run computed, so that a figure is the one in its report to the last image
            with determinism.compute_threads(self.threads), determinism.put_back():
                if self.deterministic:
                    determinism.switch_on()
                yield readers
        finally:
            readers.close()


def _precision(before: str, wanted: str, device: torch.device) -> tuple[str, list[str]]:
    """Return the number format, and notes about it."""
    if wanted != "auto" or not before:
        chosen, _ = precision.choose(wanted, device)
        differs = before and chosen != before
        return chosen, [
            f"the run used {before}, this uses {chosen}, as requested"
        ] if differs else []
    try:
        chosen, reason = precision.choose(before, device)
    except ConfigError:
        return "fp32", [
            f"the run used {before}, which this {device.type} does not support: using fp32"
        ]
    if "slow" in reason:
        return chosen, [
            f"{chosen}, as in the run, is slow on this device; --precision fp32 is faster"
        ]
    return chosen, []


def _resolved(folder: Path) -> dict[str, Any]:
    """Return the automatic choices in config.yaml of a run folder. Empty if there are none."""
    try:
        tree = plain_yaml.load((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = tree.get("resolved") if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}
