"""Options that several verbs share, each declared once.

A flag that is also a setting is listed here and in ``FLAGS`` of ``setup/flags.py``.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from saccade.setup.compose import Request

KNOWN_DATA = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist")
"""The names in ``KNOWN`` of the data sources, without importing them."""


def _complete_data(incomplete: str) -> list[str]:
    return [name for name in KNOWN_DATA if name.startswith(incomplete)]


def _complete_recipe(incomplete: str) -> list[str]:
    from saccade import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

# What is trained, on what
Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="A YAML file, a recipe or a model; several are merged in order.",
        autocompletion=_complete_recipe,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A known name (digits, cifar10 ...), a folder, a tar or zip, or shards.",
        autocompletion=_complete_data,
    ),
]
Val = Annotated[
    str | None, typer.Option("--val", help="Validation data, when it is not inside --data.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", help="A CSV (path, label, perhaps split) for images not in class folders."
    ),
]
SplitNames = Annotated[
    str | None,
    typer.Option(
        "--split-names",
        help="Which folders are the splits: train=Alpha,val=Beta; or none: all are classes.",
    ),
]
Model = Annotated[str | None, typer.Option("--model", help="A name from `saccade models`.")]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", help="Start from weights: a run, a .safetensors or .pth file, timm:NAME."
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="Fraction of the training images held out for validation: 10%."),
]
Minival = Annotated[
    str | None,
    typer.Option(
        "--minival", help="Fraction of the training images held out to choose the best checkpoint."
    ),
]
Freeze = Annotated[
    str | None,
    typer.Option(
        "--freeze", help="What to freeze: backbone, stem, a module's name, or 75% of the layers."
    ),
]

# How
Epochs = Annotated[str | None, typer.Option("--epochs", help="Length: 90, 90ep or 5000step.")]
Within = Annotated[
    str | None,
    typer.Option("--within", help="Choose the length that fits into this total time: 3m, 1h."),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images per optimiser step, over all devices (global)."),
]
Rate = Annotated[float | None, typer.Option("--lr", help="Effective learning rate, never scaled.")]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Side of the images the network sees, in pixels.")
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        help="Mean of red, green, blue, subtracted from values in 0..1: 0.485,0.456,0.406.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std", help="Standard deviation of red, green, blue, the divisor: 0.229,0.224,0.225."
    ),
]
Bgr = Annotated[
    bool | None,
    typer.Option("--bgr", help="The network expects BGR: blue first, then green and red."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of all random draws.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: section.key=value (repeatable).")
]

# Where, and how long
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", help="auto, cpu, mps, 8 (GPUs), 0,2 (these GPUs) or cpu:2 (processes)."
    ),
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16, or fp16 (GPUs only).")
]
MaxTime = Annotated[
    str | None, typer.Option("--max-time", help="Save and stop (exit 75) after this time: 20m, 2h.")
]
Patience = Annotated[
    int | None,
    typer.Option("--patience", help="End after this many evaluations without improvement."),
]

# What is there already
Run = Annotated[
    Path, typer.Argument(help="A run folder, a checkpoint in it, or a model.safetensors.")
]
Weights = Annotated[
    Path,
    typer.Argument(help="A run, a checkpoint in it, or a weights file, also from another program."),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--model", help="For weights from another program: the network, resnet50 or timm:NAME."
    ),
]
Best = Annotated[
    bool,
    typer.Option("--best", help="Use the best checkpoint of the run instead of its final weights."),
]
DevicesAsRun = Annotated[str, typer.Option("--devices", help="auto (the run's), cpu, cuda or mps.")]
PrecisionAsRun = Annotated[
    str, typer.Option("--precision", help="auto (the run's), fp32, bf16, or fp16.")
]
Source = Annotated[str, typer.Argument(help="digits, a folder, a tar or a zip (.gz, .xz too).")]


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a run that ``train`` and ``check`` share."""

    words: Words = None
    data: Data = None
    val: Val = None
    labels: Labels = None
    split_names: SplitNames = None
    model: Model = None
    init: Init = None
    epochs: Epochs = None
    within: Within = None
    batch_size: BatchSize = None
    lr: Rate = None
    image_size: ImageSize = None
    mean: Mean = None
    std: Std = None
    bgr: Bgr = None
    seed: Seed = None
    devices: Devices = None
    precision: Precision = None
    max_time: MaxTime = None
    patience: Patience = None
    holdout: Holdout = None
    minival: Minival = None
    freeze: Freeze = None
    sets: Sets = None

    def request(self, out: str = "", pretrains: bool | None = None) -> Request:
        """Return it as a request to be composed into settings; ``out`` is the run folder, and
        ``pretrains`` says whether to learn without labels, None where either will do.

        Raises UsageError or ConfigError where the value of a flag means nothing.
        """
        from saccade.setup.compose import Request
        from saccade.setup.flags import FLAGS, flag_settings

        settings = flag_settings(**{name: getattr(self, name) for name in FLAGS})
        return Request(self.words or (), settings, self.sets or (), out=out, pretrains=pretrains)


def asking(verb: Callable[..., None], unseen: Sequence[str] = ()) -> Callable[..., None]:
    """Give a verb all options of ``Asked``, which reach it as its first argument.

    Typer reads the signature of a function: the result's has the shared options and the verb's own.
    Its help leaves out those that are ``unseen``: the verb refuses them and says why.
    """
    hints = get_type_hints(Asked, include_extras=True)
    for name in unseen:
        plain, option = get_args(hints[name])
        option = copy.copy(option)
        option.hidden = True
        hints[name] = Annotated[plain, option]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Asked)
    ]
    # without the first, which stands for all shared options
    own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        asked = Asked(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        verb(asked, **given)

    run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*shared, *own]}
    return run
