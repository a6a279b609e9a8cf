"""A trained classifier: weights, class names and preprocessing in a single safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import safetensors.torch
import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from saccade import objectives
from saccade._version import UPDATE, __version__
from saccade.data.augment.mix import normalise
from saccade.data.images.fit import Fit, How, Interpolation
from saccade.errors import CheckpointError, ConfigError, OtherVersionError
from saccade.models import Network, create_model, meta_model
from saccade.models.parts.learner import headless
from saccade.models.weights import stored
from saccade.models.weights.content import MODEL_FILE
from saccade.models.weights.readings import plain_name, unwrapped
from saccade.models.weights.tensor_bytes import separate
from saccade.objectives.objective import Objective

LONGEST_SHOWN = 80


Name = Annotated[str, Field(min_length=1, max_length=1000)]
Finite = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Stride = Annotated[int, Field(ge=1, le=2)]


def _differ(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    return names


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything needed to use the weights: architecture, classes and preprocessing.

    ``image_size`` is the side in pixels, ``mean`` and ``std`` are for RGB values in 0..1,
    ``eval_crop`` is the side of the central crop over the short side; ``strides`` and
    ``patch_size`` are empty if the image size decides them. ``eval_size`` is the side at evaluation
    and prediction if it is not ``image_size``, else 0; ``eval_views`` is the number of averaged
    views of an image, ``precision`` the number format of the run, empty if unknown. ``fit`` is how
    an image becomes a square, see ``saccade.data.images.fit``; ``objective`` is what the network
    learned, which defines the meaning of its outputs. ``channels`` is the order in which the
    network sees red, green and blue; ``mean`` and ``std`` are always in the order RGB.
    ``interpolation`` is how images are resized: weights of others may expect bicubic. The limits
    are checked when a file is read, because files are not trusted. An unknown field is refused,
    because it can change the meaning of the pixels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: Name
    classes: Annotated[
        tuple[Name, ...], Field(min_length=1, max_length=1 << 20), AfterValidator(_differ)
    ]
    image_size: Annotated[int, Field(ge=4, le=4096)]
    eval_crop: Annotated[float, Field(gt=0, le=1)]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Deviation, Deviation, Deviation]
    exif: Literal["ignore", "apply"]
    strides: Annotated[tuple[Stride, ...], Field(max_length=5)] = ()
    patch_size: Annotated[int, Field(ge=0, le=64)] = 0
    eval_size: Annotated[int, Field(ge=0, le=4096)] = 0
    eval_views: Literal[1, 2, 6] = 1
    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)?$")] = ""
    fit: How = "crop"
    objective: Annotated[str, Field(min_length=1, max_length=100)] = "classification"
    channels: Literal["rgb", "bgr"] = "rgb"
    interpolation: Interpolation = "bilinear"

    @classmethod
    def parse(cls, text: str, where: str) -> Recipe:
        """Read the recipe from JSON, which is in the file ``where``.

        Raises ValueError that begins with the field that is not as it must be, and
        OtherVersionError for a field that only another version can know.
        """
        try:
            return _recipes().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "metadata"
            got = repr(first["input"])[:LONGEST_SHOWN]
            if first["type"] == "unexpected_keyword_argument":
                raise OtherVersionError(
                    f"this model says '{place[:LONGEST_SHOWN]}', which Saccade {__version__} does "
                    "not know: a newer version wrote it",
                    where=where,
                    fix=UPDATE,
                ) from error
            raise ValueError(f"{place}: {first['msg']} (got {got})") from error

    @property
    def eval_side(self) -> int:
        """The side of images at evaluation and prediction, in pixels."""
        return self.eval_size or self.image_size

    @property
    def learned(self) -> Objective:
        """The objective of the network, which evaluates and names its outputs.

        Raises CheckpointError if this version does not know it.
        """
        return objectives.named(self.objective, self.classes)

    def normalised(self, images: Tensor) -> Tensor:
        """Return images, uint8 RGB (B, 3, S, S), as input of the network: float32, same shape."""
        return normalise(images, self.mean, self.std, self.channels)

    @property
    def framing(self) -> Fit:
        """How an image becomes the square input of the network."""
        fit = Fit.of(self.fit, self.eval_crop, self.mean)
        return replace(fit, interpolation=self.interpolation)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network in evaluation mode with its recipe."""

    network: nn.Module
    recipe: Recipe

    def to_bytes(self) -> bytes:
        """Return the file: safetensors with the recipe as JSON in its metadata."""
        metadata = {"saccade": json.dumps(asdict(self.recipe), ensure_ascii=False)}
        return safetensors.torch.save(separate(self.network.state_dict()), metadata)

    @classmethod
    def load(
        cls, path: Path, module: nn.Module | None = None, recipe: Recipe | None = None
    ) -> Classifier:
        """Read a classifier from a ``.safetensors`` file or a run folder.

        ``module`` is needed for the user's own network: the weights are copied into it; ``recipe``
        is needed if the file does not have it. Raises CheckpointError if the file is missing,
        damaged or belongs to another network.
        """
        file = path / MODEL_FILE if path.is_dir() else path
        # torch.compile and DataParallel put words before every name
        network = unwrapped(module) if module is not None else None
        recipe, tensors, network = _read(file, network, recipe)
        network.load_state_dict(tensors)
        return cls(network.to(memory_format=torch.channels_last).eval(), recipe)


@cache
def _recipes() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def no_model(file: Path) -> CheckpointError:
    """Return the error for a missing model file."""
    unfinished = (file.parent / "checkpoints").is_dir()
    return CheckpointError(
        "there is no trained model at this path"
        + (": the run is not finished" if unfinished else ""),
        where=str(file),
        fix="run the same `saccade train` command again to finish it, or add --best"
        if unfinished
        else "give a run folder, one of its checkpoints, or a model.safetensors",
    )


def _read(
    file: Path, module: nn.Module | None, known: Recipe | None = None
) -> tuple[Recipe, dict[str, Tensor], nn.Module]:
    """Return the recipe, the tensors by the network's names, and the network, which is built only
    if everything fits.
    """
    if not file.is_file():
        raise no_model(file)
    header = stored.header(file)
    try:
        if known is None and "saccade" not in header.remarks:
            raise ValueError("its metadata has no 'saccade'")
        recipe = known or Recipe.parse(header.remarks["saccade"], str(file))
    except ValueError as error:
        raise CheckpointError(
            f"this file is not a valid saccade model: {error}",
            where=str(file),
            fix=(
                "give a run folder or its model.safetensors; for weights from another "
                "program, use `--init`"
            ),
        ) from error

    # first without memory: a file may claim a network that no machine holds
    shape = module if module is not None else _build(recipe, file, is_real=False)
    own = {plain_name(name): name for name in shape.state_dict()}
    _refuse_others(header, recipe, shape, own, file=file)
    tensors = stored.read(file)
    _refuse_holes(tensors, shape, file)
    network = module if module is not None else _build(recipe, file, is_real=True)
    return recipe, {own[plain_name(name)]: tensor for name, tensor in tensors.items()}, network


def _refuse_others(
    header: stored.Header, recipe: Recipe, network: nn.Module, own: Mapping[str, str], file: Path
) -> None:
    """Raise CheckpointError, before a tensor is read, unless names, shapes and kinds of numbers
    are the network's.
    """
    state = network.state_dict()
    theirs = {plain_name(name): name for name in header.tensors}
    wrong = sorted(set(own) ^ set(theirs))
    for name in sorted(set(own) & set(theirs)):
        tensor, (_, shape) = state[own[name]], header.tensors[theirs[name]]
        if tuple(tensor.shape) != shape or tensor.is_floating_point() != header.is_floating(
            theirs[name]
        ):
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"the weights do not fit {recipe.model}: "
            f"{', '.join(wrong[:5])}{' ...' * (len(wrong) > 5)}",
            where=str(file),
            fix="pass the module that they were trained with",
        )


def _refuse_holes(tensors: Mapping[str, Tensor], network: nn.Module, file: Path) -> None:
    """Raise CheckpointError where a weight is NaN or infinite.

    Buffers of the user's own network may be.
    """
    weights = {plain_name(name) for name, _ in network.named_parameters()}
    if isinstance(network, Network):
        weights = {plain_name(name) for name in tensors}
    if name := stored.first_not_finite(
        {n: t for n, t in tensors.items() if plain_name(n) in weights}
    ):
        raise CheckpointError(
            f"the weights are damaged: {name} contains NaN or infinity",
            where=str(file),
            fix="use another run, or an earlier checkpoint of this run",
        )


def _build(recipe: Recipe, file: Path, *, is_real: bool) -> nn.Module:
    """Build the network of a recipe, without memory unless ``is_real``.

    Raises CheckpointError with the reason.
    """
    if recipe.model.startswith("custom:"):
        raise CheckpointError(
            f"these weights belong to your own network {recipe.model.removeprefix('custom:')}",
            where=str(file),
            fix="load it in Python: saccade.load(run, module=YourNetwork())",
        )
    build = create_model if is_real else meta_model
    answers = recipe.learned.answers
    try:
        network = build(
            recipe.model,
            num_classes=len(recipe.classes),
            image_size=recipe.image_size,
            strides=recipe.strides,
            patch_size=recipe.patch_size,
        )
        return network if answers else headless(network)[0]
    except ConfigError as error:
        raise CheckpointError(
            f"the network cannot be built: {error.what} ({error.where})",
            where=str(file),
            fix=error.fix,
        ) from error
    except Exception as error:  # sizes that no machine holds break any part of any library
        raise CheckpointError(
            f"the network {recipe.model[:LONGEST_SHOWN]} cannot be built: {type(error).__name__}",
            where=str(file),
            fix="give a run folder or its model.safetensors",
        ) from error
