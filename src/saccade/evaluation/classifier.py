"""A trained classifier: weights, class names and the one preprocessing, in a single safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError
from saccade.models import create_model
from saccade.models.weights import MODEL_FILE

_HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """What must be known to use the weights: architecture, classes and preprocessing.

    ``image_size`` is the side in pixels, ``mean`` and ``std`` are for RGB values in 0..1, ``eval_crop`` is the side of
    the central crop over the short side; ``strides`` and ``patch_size`` are empty where the size decides them.
    ``eval_size`` is the side at evaluation and prediction where that is not ``image_size``, else 0; ``eval_views`` is
    how many views of an image are averaged.
    """

    model: str
    classes: tuple[str, ...]
    image_size: int
    eval_crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    exif: Literal["ignore", "apply"]
    strides: tuple[int, ...] = ()
    patch_size: int = 0
    eval_size: int = 0
    eval_views: int = 1

    @property
    def eval_side(self) -> int:
        """The side of images at evaluation and prediction, in pixels."""
        return self.eval_size or self.image_size


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network in evaluation mode with its recipe."""

    network: nn.Module
    recipe: Recipe

    def to_bytes(self) -> bytes:
        """Return the file: safetensors with the recipe as JSON in its metadata."""
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.network.state_dict().items()}
        metadata = {"saccade": json.dumps(asdict(self.recipe), ensure_ascii=False)}
        return safetensors.torch.save(tensors, metadata)

    @classmethod
    def load(cls, path: Path, module: nn.Module | None = None) -> Classifier:
        """Read a classifier from a ``.safetensors`` file or a run folder.

        ``module`` is needed when the network is the user's own: the weights are copied into it. Raises
        CheckpointError when the file is missing, damaged or of another network.
        """
        file = path / MODEL_FILE if path.is_dir() else path
        recipe, tensors = _read(file)
        network = module if module is not None else _build(recipe, file)
        own = network.state_dict()
        wrong = sorted(set(own) ^ set(tensors)) + [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
        if wrong:
            raise CheckpointError(
                f"the weights do not fit {recipe.model}: {', '.join(wrong[:5])}{' ...' * (len(wrong) > 5)}",
                where=str(file),
                fix="give the module that they were trained with",
            )
        network.load_state_dict(tensors)
        return cls(network.to(memory_format=torch.channels_last).eval(), recipe)


def _read(file: Path) -> tuple[Recipe, dict[str, Tensor]]:
    if not file.is_file():
        unfinished = (file.parent / "checkpoints").is_dir()
        raise CheckpointError(
            "there is no trained model here" + (": the run is not finished" if unfinished else ""),
            where=str(file),
            fix="run the same `saccade train` command again to finish it" if unfinished else "give a run folder",
        )
    try:
        with safetensors.safe_open(str(file), "pt") as handle:
            facts: Any = json.loads((handle.metadata() or {})["saccade"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        facts["classes"], facts["mean"], facts["std"] = (tuple(facts[k]) for k in ("classes", "mean", "std"))
        facts["strides"] = tuple(facts.get("strides", ()))
        return Recipe(**facts), tensors
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"this is not a model that saccade wrote: {type(error).__name__} {error}",
            where=str(file),
            fix="give a run folder or its model.safetensors",
        ) from error


def _build(recipe: Recipe, file: Path) -> nn.Module:
    if recipe.model.startswith("custom:"):
        raise CheckpointError(
            f"these are weights of your own network {recipe.model.removeprefix('custom:')}",
            where=str(file),
            fix="load it in Python: saccade.load(run, module=YourNetwork())",
        )
    return create_model(
        recipe.model, num_classes=len(recipe.classes), image_size=recipe.image_size, strides=recipe.strides,
        patch_size=recipe.patch_size,
    )  # fmt: skip
