"""Receipts: what recipes reached, written from run folders and never by hand."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saccade import files, units
from saccade.config import plain_yaml
from saccade.config import schema as configuration
from saccade.config.layers import Layers
from saccade.errors import ConfigError
from saccade.recipes import TUNING, RecipeFile, find, names

FOLDER = Path(__file__).parent / "receipts"
FREE = ("seed", "device", "recipe", "data.train", "data.val")
"""What two runs of one recipe may differ in, besides the settings of kind ``run``."""

OF_WEIGHTS = ("model.", "data.mean", "data.std", "data.channels", "data.image_size")
"""How the settings begin that a run of a recipe for fine-tuning has from its weights."""

FIGURE = "top1"
"""The figure of the runs that have receipts; all recipes are of classification so far."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One finished run of a recipe: ``seconds`` from start to exit, ``log`` the SHA-256 of its
    log.
    """

    run: str
    seed: int
    top1: float
    correct: int
    n: int
    seconds: float
    date: str
    commit: str
    machine: str
    torch: str
    data: str
    command: str
    log: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a recipe reached on one set of images, from one file of weights if from any.

    ``settings`` is the digest of the recipe when its runs began.
    """

    recipe: str
    settings: str
    runs: tuple[Measurement, ...]

    @property
    def data(self) -> str:
        """The images, and the weights of a fine-tuning, in words."""
        return self.runs[0].data

    @property
    def seconds(self) -> float:
        """Shortest time of a run, from start to exit: other work on the machine only adds to it."""
        return min(run.seconds for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean top-1, 0..1."""
        return statistics.mean(run.top1 for run in self.runs)

    @property
    def band(self) -> tuple[float, float]:
        """Where the next run is expected, as top-1 from 0 to 1.

        Two standard deviations of one run around the mean, never narrower than twice the error that
        the number of validation images leaves.
        """
        tops = [run.top1 for run in self.runs]
        chance = (self.mean * (1 - self.mean) / self.runs[0].n) ** 0.5
        spread = 2 * max(statistics.stdev(tops) if len(tops) > 1 else 0.0, chance)
        return max(self.mean - spread, 0.0), min(self.mean + spread, 1.0)

    @property
    def summary(self) -> str:
        """One line: ``80.48 % (80.14 to 80.81, n = 3)``."""
        tops = sorted(100 * run.top1 for run in self.runs)
        spread = f"{tops[0]:.2f} to {tops[-1]:.2f}, " if len(tops) > 1 else ""
        return f"{100 * self.mean:.2f} % ({spread}n = {len(tops)})"


def settings_digest(recipe: RecipeFile) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of what a recipe sets.

    Words and layout of the file do not count.
    """
    return hashlib.sha256(json.dumps(recipe.settings, sort_keys=True).encode()).hexdigest()


def read(name: str) -> tuple[Receipt, ...]:
    """Return the stored receipts of a recipe, one for each set of images, in their order."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return ()
    tree = json.loads(path.read_text(encoding="utf-8"))
    runs: dict[str, list[Measurement]] = {}
    for run in tree["runs"]:
        measurement = Measurement(**run)
        runs.setdefault(measurement.data, []).append(measurement)
    return tuple(Receipt(tree["recipe"], tree["settings"], tuple(found)) for found in runs.values())


def status(recipe: RecipeFile) -> str:
    """Return ``measured``, ``changed since measured``, ``ported`` or ``untested``."""
    stored = read(recipe.name)
    if not stored:
        return "ported" if recipe.source else "untested"
    # a file has one digest: all receipts in it are of the same settings
    same = stored[0].settings == settings_digest(recipe)
    return "measured" if same else "changed since measured"


def record(runs: Sequence[Path]) -> list[Receipt]:
    """Write the receipts of finished runs, one for each recipe and set of images among them.

    Earlier receipts on the same images are replaced; those on other images stay, unless the recipe
    has changed since. Raises ConfigError for a run that is not finished, or whose settings are not
    those of its recipe.
    """
    found: dict[str, dict[str, list[Measurement]]] = {}
    for folder in runs:
        name, measurement = _measured(folder)
        found.setdefault(name, {}).setdefault(measurement.data, []).append(measurement)

    new = [
        _receipt(name, measurements)
        for name, sets in sorted(found.items())
        for _, measurements in sorted(sets.items())
    ]
    for name in sorted(found):
        settings = settings_digest(find(name))
        kept = {old.data: old for old in read(name) if old.settings == settings}
        kept |= {receipt.data: receipt for receipt in new if receipt.recipe == name}
        all_runs = [asdict(run) for _, receipt in sorted(kept.items()) for run in receipt.runs]
        tree = {"recipe": name, "settings": settings, "runs": all_runs}
        files.write_json(FOLDER / f"{name}.json", tree)
    return new


def _receipt(name: str, measurements: Sequence[Measurement]) -> Receipt:
    """Make one receipt of runs on the same images; raises ConfigError for a seed twice."""
    if len({run.seed for run in measurements}) < len(measurements):
        raise ConfigError(
            f"two runs of '{name}' on {measurements[0].data} have the same seed",
            fix="use a different --seed for each run",
        )
    ordered = tuple(sorted(measurements, key=lambda run: run.seed))
    return Receipt(name, settings_digest(find(name)), ordered)


def comment(name: str) -> str:
    """Return the receipts of a recipe as comments that may follow its YAML, empty without one."""
    lines = []
    for receipt in read(name):
        first = receipt.runs[0]
        lines += [
            f"# {status(find(name))}: {receipt.summary} on {receipt.data}",
            f"# shortest time {units.human_time(receipt.seconds)}, {first.machine}, "
            f"torch {first.torch}, {first.date}",
        ]
    return "\n".join(["", *lines, ""]) if lines else ""


def judge(folder: Path, top1: float) -> str:
    """Say where the top-1 (0..1) of a finished run lies beside the receipt of its recipe on the
    same images.

    Empty without one.
    """
    try:
        name, measurement = _measured(folder)
        stored = read(name)
    except ConfigError:
        return ""
    receipt = next((known for known in stored if known.data == measurement.data), None)
    if receipt is None:
        return ""
    low, high = receipt.band
    place = "within" if low <= top1 <= high else "above" if top1 > high else "below"
    return (
        f"{place} the range of recipe '{name}': {100 * low:.1f} to {100 * high:.1f} % "
        f"({receipt.summary})"
    )


def _measured(folder: Path) -> tuple[str, Measurement]:
    try:
        facts = files.read_json(folder / "run.json")
        settings = plain_yaml.load(files.read_text(folder / "config.yaml", plain_yaml.LIMIT_BYTES))
        log = (folder / "log.jsonl").read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"this is not a run folder: {error}", where=str(folder)) from error
    try:
        return _measurement(folder, facts, settings, log)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"its records were changed or damaged: {error}", where=str(folder)
        ) from error


def _measurement(folder: Path, facts: Any, settings: Any, log: bytes) -> tuple[str, Measurement]:
    if facts.get("status") != "done":
        raise ConfigError(
            "the run is not finished",
            where=str(folder),
            fix="run the same `saccade train` command again",
        )

    settings.pop("resolved", None)
    name = Path(settings["recipe"]).stem
    _require_same(folder, settings, find(name))

    result, environment = facts["result"], facts["environment"]
    if facts.get("primary", FIGURE) != FIGURE:
        raise ConfigError(
            f"receipts need {FIGURE}, but the primary figure of this run is {facts['primary']}",
            where=str(folder),
        )

    # functions are no settings: the run would pass for one of the recipe, whatever they do
    if others := facts.get("handed_over"):
        raise ConfigError(
            f"the run used your own {', '.join(sorted(others))}, which a recipe cannot contain",
            where=str(folder),
            fix="record a run of the `saccade train` command",
        )

    return name, Measurement(
        run=folder.name,
        seed=settings["seed"],
        top1=result["top1"],
        correct=result["correct"],
        n=result["n"],
        seconds=facts["seconds"],
        date=facts["ended"][:10],
        commit=environment.get("commit") or "",
        machine=_machine(facts),
        torch=environment["torch"],
        data=_data(facts),
        command=without_place(facts.get("command", "")),
        log=hashlib.sha256(log).hexdigest(),
    )


def _require_same(folder: Path, settings: dict[str, Any], recipe: RecipeFile) -> None:
    """Raise ConfigError when a run differs from its recipe in anything that decides its numbers."""
    theirs = OF_WEIGHTS if recipe.name in TUNING else ()
    layers = Layers()
    layers.add_file(recipe.path)
    differing = [
        f"{field} {old} -> {new}"
        for field, kind, old, new in configuration.diff(layers.resolve().dump(), settings)
        if kind != "run" and field not in FREE and not field.startswith(theirs)
    ]
    if differing:
        raise ConfigError(
            f"the run does not follow recipe '{recipe.name}': {', '.join(differing[:5])}",
            where=str(folder),
            fix="run the unchanged recipe, or write these settings into it first",
        )


def without_place(command: str) -> str:
    """Leave out where a run was put, and the folders of its data: those of one machine mean
    nothing on another.
    """
    words = command.split()
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    return " ".join(
        Path(word).name if word.startswith(("/", "../", "~")) else word for word in words
    )


def _machine(facts: dict[str, Any]) -> str:
    environment = facts["environment"]
    device = (
        environment.get("gpu") or f"{environment.get('cores', environment['threads'])} CPU cores, "
    )
    return f"{device}{'' if environment.get('gpu') else environment['processor']}"


def _data(facts: dict[str, Any]) -> str:
    dataset, init = facts["dataset"], facts.get("init")
    text = f"{dataset['name']} ({dataset['train']:,} + {dataset['val']:,})"
    # runs from other weights are no runs of the same receipt
    return f"{text}, from weights {init['digest'][:12]}" if init else text


def table() -> str:
    """Return the page of records in Markdown, computed from the stored receipts."""
    lines = [
        "# Records",
        "",
        "Results of recipes, written from run folders by `saccade recipes record`, printed by "
        "`... records`.",
        "",
        "| recipe | status | top-1 | data (training + validation) | shortest time | machine "
        "| date |",
        "|---|---|---|---|---|---|---|",
    ]
    details = [
        "",
        "| recipe | data | seed | top-1 | correct | seconds | commit | torch | log (SHA-256) |",
        "|---" * 9 + "|",
    ]

    for receipt in (receipt for name in names() for receipt in read(name)):
        name, first = receipt.recipe, receipt.runs[0]
        lines.append(
            f"| {name} | {status(find(name))} | {receipt.summary} | {receipt.data} | "
            f"{receipt.seconds:.0f} s | {first.machine} | {first.date} |"
        )
        details += [
            f"| {name} | {run.data.split(' (')[0]} | {run.seed} | {100 * run.top1:.2f} | "
            f"{run.correct} / {run.n} | {run.seconds:.0f} | "
            f"{run.commit[:10]} | {run.torch} | {run.log[:16]} |"
            for run in receipt.runs
        ]

    return "\n".join([*lines, *details]) + "\n"
