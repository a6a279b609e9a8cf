"""Checkpoints: verified folders of safetensors and JSON, found without a pointer file.

``checkpoints/step_00000370/`` holds ``model.safetensors``, ``optimizer.safetensors``,
``ema.safetensors`` (with EMA), ``scale.safetensors`` (in fp16), ``losses.safetensors`` (where
spikes are looked for), ``state.json`` and ``manifest.json`` with the digest of each. A folder whose
manifest does not verify is ignored. Nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from saccade import files, rng
from saccade._version import __version__
from saccade.errors import CheckpointError, OtherVersionError
from saccade.models.weights.tensor_bytes import form, separate
from saccade.objectives.evaluation import Evaluation
from saccade.training import state_json
from saccade.training.state import State

WIDEST_LAYOUT = 64
"""How many times the memory of its values a tensor may span; most need once."""
_STEP = re.compile(r"^step_(\d{8})$")


@dataclass(frozen=True, slots=True)
class Saved:
    """A verified checkpoint that was read back.

    ``tensors`` holds them by file and name, in their own shapes ``(...)`` and types, row-major;
    ``meta`` is ``state.json``.
    """

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of finished optimiser steps."""
        return int(self.meta["step"])


def packed(state: State, meta: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of a checkpoint of this state by name: a copy that steps do not change.

    The strides of every tensor go into ``state.json``: safetensors stores row-major data and would
    forget them.
    """
    groups = state.tensors()
    contents = {f"{group}.safetensors": _pack(tensors) for group, tensors in groups.items()}
    facts = {
        "saccade": __version__,
        "format": state_json.FORMAT,
        "draws_version": rng.DRAWS_VERSION,
        "step": state.step,
        "evaluations": [e.to_json() for e in state.evaluations],
        "skipped": state.skipped,
        "layout": _layout(groups),
        "optimizer": state.optimizers.facts(),
    }
    contents["state.json"] = files.json_bytes(meta | facts)
    return contents


def publish(folder: Path, step: int, contents: dict[str, bytes]) -> Path:
    """Publish a checkpoint atomically as ``folder/step_XXXXXXXX`` and return that path.

    Raises DiskError.
    """
    path = files.within(folder.parent, folder.name) / f"step_{step:08d}"
    files.publish_folder(path, contents)
    return path


def _pack(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save(separate(tensors))


def _layout(groups: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, list[int]]]:
    return {
        group: {name: list(t.stride()) for name, t in tensors.items()}
        for group, tensors in groups.items()
    }


def through_memory(state: State, into: State) -> None:
    """Restore one state into another as if it had been saved.

    Raises what a save or a resume would raise.
    """
    groups = state.tensors()
    read = {group: safetensors.torch.load(_pack(tensors)) for group, tensors in groups.items()}
    told = [e.to_json() for e in state.evaluations]
    facts = {"step": state.step, "evaluations": told, "layout": _layout(groups)}
    facts["optimizer"] = state.optimizers.facts()
    restore(Saved(Path("memory"), read, facts), into)


def steps_on_disk(folder: Path) -> list[int]:
    """Return the steps of the checkpoint folders, newest first, verified or not."""
    if not folder.is_dir():
        return []
    found = (_STEP.match(p.name) for p in folder.iterdir() if p.is_dir())
    return sorted((int(m[1]) for m in found if m), reverse=True)


def is_one(path: Path) -> bool:
    """Tell whether a path is, or once was, the folder of a checkpoint, good or damaged."""
    return path.is_dir() and ((path / "state.json").is_file() or bool(_STEP.match(path.name)))


OLDER = (
    "the previous one is tried automatically; `--resume never` starts a new run in another folder"
)


def read(path: Path, fix: str = OLDER) -> Saved:
    """Verify and read one checkpoint.

    Raises CheckpointError with the damaged file and field, and OtherVersionError if another
    version wrote it. Only files in the manifest are read.
    """
    try:
        names = files.verify_folder(path)
        if missing := {"model.safetensors", "optimizer.safetensors", "state.json"} - set(names):
            raise ValueError(f"{min(missing)} is not listed in manifest.json")
        meta = state_json.read(path / "state.json")
        tensors = [path / name for name in names if name.endswith(".safetensors")]
        groups = {file.stem: safetensors.torch.load(file.read_bytes()) for file in tensors}
        _check_layout(meta["layout"], groups)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"this checkpoint is damaged or incomplete: {error}",
            where=str(path),
            fix=fix,
        ) from error
    return Saved(path, groups, meta)


def read_meta(path: Path) -> dict[str, Any]:
    """Verify a checkpoint and return its ``state.json`` alone.

    Raises CheckpointError naming file and field.
    """
    try:
        if "state.json" not in files.verify_folder(path):
            raise ValueError("state.json is not listed in manifest.json")
        return state_json.read(path / "state.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"this checkpoint is damaged or incomplete: {error}",
            where=str(path),
            fix="name another checkpoint, or the run folder",
        ) from error


def _check_layout(
    layout: dict[str, dict[str, list[int]]], groups: dict[str, dict[str, Tensor]]
) -> None:
    """Raise ValueError if strides do not fit a tensor or would need much more memory than it."""
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            strides = layout.get(group, {}).get(name)
            if strides is None:
                continue  # as in one of another model, which ``compare`` describes
            if len(strides) != tensor.dim():
                raise ValueError(
                    f"state.json, layout.{group}.{name}: {strides} are not strides of "
                    f"{form(tensor)}"
                )
            span = 1 + sum(
                (side - 1) * stride for side, stride in zip(tensor.shape, strides, strict=True)
            )
            if span > WIDEST_LAYOUT * max(tensor.numel(), 1):
                raise ValueError(
                    f"state.json, layout.{group}.{name}: strides {strides} are too large"
                )


def newest(folder: Path) -> tuple[Saved | None, list[CheckpointError]]:
    """Find the newest checkpoint that verifies.

    Damaged ones are returned as errors.

    Raises CheckpointError if there are checkpoints but none is valid: a new start would hide the
    loss. Raises OtherVersionError if another version wrote one: using an older checkpoint beside
    it would lose steps.
    """
    errors: list[CheckpointError] = []
    for step in steps_on_disk(folder):
        path = folder / f"step_{step:08d}"
        try:
            return read(path), errors
        except OtherVersionError:
            raise
        except CheckpointError as error:
            errors.append(error)
    if errors:
        reasons = "; ".join(f"{Path(e.where).name}: {e.what}" for e in errors)
        raise CheckpointError(
            f"no checkpoint can be used ({reasons})",
            where=str(folder),
            fix="restore a checkpoint from a backup, or start a new run with `--resume never`",
        )
    return None, []


def set_aside(errors: Sequence[CheckpointError]) -> None:
    """Rename damaged checkpoints, so that they are not used but not lost."""
    for error in errors:
        files.set_aside(Path(error.where), "damaged")


def restore(saved: Saved, state: State) -> None:
    """Copy a checkpoint into a freshly built state.

    Raises CheckpointError with a tensor-by-tensor difference.
    """
    differences = compare(saved, state)
    if differences:
        shown = "; ".join(differences[:6]) + (
            f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
        )
        raise CheckpointError(
            f"this checkpoint is of another model or optimiser: {shown}",
            where=str(saved.path),
            fix="use the settings of that run, or start a new run with `--resume never`",
        )
    restore_layout(saved, state)
    with torch.no_grad():
        for group, tensors in state.tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(saved.tensors[group][name])
    _restore_facts(saved, state)


def follow(saved: Saved, state: State) -> None:
    """Make a state ready for the tensors of a checkpoint that another rank has read."""
    state.optimizers.adopt(saved.meta.get("optimizer", {}))
    restore_layout(saved, state)
    _restore_facts(saved, state)


def _restore_facts(saved: Saved, state: State) -> None:
    state.step = saved.step
    state.evaluations = [Evaluation.parse(e, state.primary) for e in saved.meta["evaluations"]]
    state.skipped = list(saved.meta.get("skipped", []))


def compare(saved: Saved, state: State) -> list[str]:
    """Return how the tensors of a checkpoint differ from those of a state in name, shape or
    type, one line each.
    """
    lines = []
    state.optimizers.adopt(saved.meta.get("optimizer", {}))
    live = state.tensors()
    for group in sorted(set(live) | set(saved.tensors)):
        ours, theirs = live.get(group, {}), saved.tensors.get(group, {})
        lines += [
            f"{group}: {n} is missing in the checkpoint" for n in sorted(set(ours) - set(theirs))
        ]
        lines += [
            f"{group}: {n} is only in the checkpoint" for n in sorted(set(theirs) - set(ours))
        ]
        for name in sorted(set(ours) & set(theirs)):
            a, b = ours[name], theirs[name]
            if a.shape != b.shape or a.dtype != b.dtype:
                lines.append(f"{group}: {name} is {form(b)} in the checkpoint, {form(a)} here")
            elif name not in saved.meta["layout"].get(group, {}):
                lines.append(f"{group}: {name} has no strides in state.json")
    return lines


def restore_layout(saved: Saved, state: State) -> None:
    """Give every live tensor the strides it had when the checkpoint was written."""
    for group, tensors in state.tensors().items():
        for name, tensor in tensors.items():
            strides = saved.meta["layout"][group][name]
            if list(tensor.stride()) != strides:
                fresh = torch.empty_strided(
                    tensor.shape, strides, dtype=tensor.dtype, device=tensor.device
                )
                tensor.set_(fresh)  # type: ignore[call-overload]


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the ``keep`` newest checkpoints and the best one.

    Call it only after a new one was verified.
    """
    for step in steps_on_disk(folder)[keep:]:
        if step != best_step:
            files.remove_tree(folder / f"step_{step:08d}")
