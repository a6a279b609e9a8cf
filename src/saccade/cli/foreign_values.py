"""How values of other trainers' options are written here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

Line = Mapping[str, Sequence[str]]

OPTIMIZERS = {
    **{name: name for name in ("sgd", "adam", "adamw", "lamb", "rmsprop", "muon")},
    "nesterov": "sgd",
    "sgd_nesterov": "sgd",
    "rmsproptf": "rmsprop-tf",
    "momentum": "sgd --set optimizer.nesterov=false",
}
SCHEDULES = {
    **{name: name for name in ("cosine", "step", "multistep", "poly", "exponential", "plateau")},
    "constant": "constant",
    "linear": "linear",
    "onecycle": "onecycle",
    "steplr": "step",
    "cosineannealinglr": "cosine",
    "exponentiallr": "exponential",
    "step_lr": "step",
    "multistep_lr": "multistep",
    "reduce_lr_on_plateau": "plateau",
    "warmup_cosine_decay": "cosine",
    "cosine_annealing_warm_restarts": "restarts",
}
POLICIES = {
    "imagenet": "autoaugment-imagenet",
    "original": "autoaugment-imagenet",
    "cifar10": "autoaugment-cifar10",
    "svhn": "autoaugment-svhn",
    "ra": "randaugment",
    "ta_wide": "trivialaugment",
    "3a": "3augment",
}
DATA = {
    **{f"{name}_classification": name for name in ("cifar10", "cifar100")},
    **{f"torch/{name}": name for name in ("cifar10", "cifar100", "mnist")},
    "torch/fashion_mnist": "fashion-mnist",
}
DTYPES = {
    **dict.fromkeys(("float16", "fp16", "half"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bf16"),
    **dict.fromkeys(("float32", "fp32", "float"), "fp32"),
}
FILLS = {"pixel": "noise", "rand": "noise", "const": "mean"}

NAMES: Mapping[str, Mapping[str, str]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "policy": {**POLICIES, "rand": "randaugment"},
    "dtype": DTYPES,
    "erase": FILLS,
}
"""Kinds whose values are names: one that is not there has no counterpart."""

DEVICES = ("--devices", "--num-tasks", "--nproc-per-node", "--num-gpu", "--ngpus", "--num-gpus")
PROCESSES = ("--num-tasks", "--nproc-per-node")
ACCUMULATED = ("--grad-accum-steps", "--iter-size")
WHOLE = ("--effective-batch-size", "--total-batch-size")


def _listed(values: Sequence[str]) -> str:
    return f"[{','.join(values)}]"


def _policy(given: Sequence[str], line: Line) -> str | None:
    """Read timm's RandAugment, such as rand-m9-mstd0.5-inc1, or another policy's name."""
    text = given[0].lower()
    if text.startswith("rand"):
        settings = ["randaugment", "augment.rand_chance=0.5"]
        for letter, name in (("m", "magnitude"), ("mstd", "std"), ("n", "ops")):
            found = re.search(rf"-{letter}([\d.]+)(?:-|$)", text)
            settings += [f"augment.rand_{name}={found[1]}"] if found else []
        return " --set ".join(settings)
    # torchvision's strength is 9 of 30
    if text == "ra" and "--ra-magnitude" not in line:
        return "randaugment --set augment.rand_magnitude=3"
    return POLICIES.get(text)


def _area(given: Sequence[str]) -> str | None:
    """Read a range of areas; edgeai-torchvision's 0 means the crop of the evaluation."""
    if float(given[0]) == 0:
        return "crop=central"
    return f"crop_area={_listed(given)}" if len(given) == 2 else None


def _jitter(given: Sequence[str]) -> str | None:
    strengths = [*given] * 3 if len(given) == 1 else [*given]
    return _listed([*strengths, "0"][:4]) if len(strengths) in (3, 4) else None


def _batch(given: Sequence[str], line: Line, options: Sequence[str] = DEVICES) -> str:
    """Multiply a batch of one device by the devices and the cells, where the command says them."""
    if whole := _first(WHOLE, line):
        return str(int(whole))
    devices = _first(options, line) or "1"
    count = int(devices) if devices.isdecimal() else len(re.findall(r"(?<![\d:])\d+", devices)) or 1
    return str(int(given[0]) * count * int(_first(ACCUMULATED, line) or 1))


def _own_batch(given: Sequence[str], line: Line) -> str:
    """Read our ``--batch-size`` among options of others, as a batch of each of their processes."""
    return _batch(given, line, PROCESSES)


def _first(names: Sequence[str], line: Line) -> str:
    return next((line[name][-1] for name in names if line.get(name)), "")


def _quotient(given: Sequence[str], line: Line) -> str:
    """Divide the side of the crop by the side before it."""
    crop = _first(("--img-crop", "--val-crop-size", "--image-size"), line) or "224"
    return f"{float(crop) / float(given[0]):.4g}"


def _val_quotient(given: Sequence[str], line: Line) -> str:
    """Divide torchvision's validation crop by the side before it."""
    return f"{float(_eval_size(given, line)) / float(given[0]):.4g}"


def _eval_size(given: Sequence[str], line: Line) -> str:
    """Return torchvision's side of the validation crop, which does not follow the training's."""
    return _first(("--val-crop-size",), line) or "224"


def _repeats(given: Sequence[str], line: Line) -> str:
    return _first(("--ra-reps",), line) or "4"


def _mean(given: Sequence[str], line: Line) -> str:
    """Divide means by 255, and turn those of blue, green and red images round."""
    return _listed(_in_rgb([f"{float(value) / 255:.4g}" for value in given], line))


def _std(given: Sequence[str], line: Line) -> str:
    """Turn factors into deviations, and those of blue, green and red images round."""
    return _listed(_in_rgb([f"{1 / (255 * float(value)):.4g}" for value in given], line))


def _in_rgb(values: list[str], line: Line) -> list[str]:
    turned = line.get("--input-channel-reverse", ("False",))
    return values if turned and turned[0].lower() in ("false", "0", "no") else values[::-1]


def _half_life(given: Sequence[str], line: Line) -> str | None:
    """Turn a decay per step into a half-life; torchvision's decay counts something else."""
    decay = next(iter(line.get("--model-ema-decay", ())), None)
    if decay is None or "--model-ema-steps" in line:
        return None
    return f"{math.log(2) / (1 - float(decay)):.0f}step"


def _end(given: Sequence[str], line: Line) -> str | None:
    """Divide the last rate by the first, where the command has it."""
    peak = next((line[name][0] for name in ("--lr", "--learning-rate") if line.get(name)), None)
    return f"{float(given[0]) / float(peak):.4g}" if peak else None


def _weights(given: Sequence[str], line: Line) -> str | None:
    """Read a path; torchvision and timm name the network elsewhere."""
    text = given[0] if given and given[0] not in ("True", "False") else ""
    if "_Weights" in text or not text:
        model = next((line[name][0] for name in ("--model", "--arch", "-a") if line.get(name)), "")
        return f"timm:{model}" if model else None
    return text


_OF_VALUES: dict[str, Callable[[Sequence[str]], str | None]] = {
    "plain": lambda given: given[0],
    "last": lambda given: given[-1].split("x")[-1],
    "first": lambda given: given[0],
    "second": lambda given: given[1],
    "comma": lambda given: ",".join(given) + ("," if len(given) == 1 else ""),
    "first_gpu": lambda given: f"{int(given[0])},",
    "device": lambda given: re.sub(r"^cuda:(\d+)$", r"\1,", given[0]),
    "list": _listed,
    "epochs": lambda given: _listed([f"{value}ep" for value in given]),
    "third": lambda given: f"{float(given[0]) / 3:.3g}",
    "optimizer": lambda given: OPTIMIZERS.get(given[0].lower()),
    "schedule": lambda given: SCHEDULES.get(given[0].lower()),
    "data": lambda given: DATA.get(given[0].lower(), given[0]),
    "dtype": lambda given: DTYPES.get(given[0].lower()),
    "erase": lambda given: FILLS.get(given[0].lower()),
    "area": _area,
    "jitter": _jitter,
}
_OF_LINE: dict[str, Callable[[Sequence[str], Line], str | None]] = {
    "ema": _half_life,
    "end": _end,
    "batch": _batch,
    "own_batch": _own_batch,
    "quotient": _quotient,
    "val_quotient": _val_quotient,
    "eval_size": _eval_size,
    "repeats": _repeats,
    "policy": _policy,
    "mean": _mean,
    "std": _std,
    "weights": _weights,
}

LISTS = ("list", "epochs", "mean", "std", "jitter")
"""Kinds whose value is written in brackets."""

MANY = (*LISTS, "area", "comma", "last", "first", "second")
"""Kinds that read several values."""


def translate(kind: str, given: Sequence[str], line: Line) -> str | None:
    """Return how a value is written here, None where it has no translation.

    ``given`` are the values of the option, ``line`` those of all options of the command.
    """
    if kind in (*LISTS, "area"):
        given = [part for value in given for part in value.split(",")]
    try:
        if kind in _OF_LINE:
            return _OF_LINE[kind](given, line)
        return _OF_VALUES[kind](given)
    # no value, or another than this option has there
    except (ValueError, IndexError, ZeroDivisionError):
        return None
