"""The contents of a run folder, read once; missing or damaged parts are skipped and reported."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from saccade import files, log, objectives
from saccade.config import plain_yaml
from saccade.data.sources import Split
from saccade.data.sources.ilsvrc import class_name
from saccade.errors import DataError, DivergedError, UsageError
from saccade.objectives.objective import Objective, Result
from saccade.objectives.page import Part, Seen

Event = dict[str, Any]

ANSWERS_FILE = "predictions.safetensors"
_FILES = ("run.json", "log.jsonl", "config.yaml")


@dataclass(frozen=True)
class Answers:
    """The network's predictions on the validation set.

    ``logits`` is float32 (n, C), ``labels`` (n,) or (n, C), both in the order of the split.
    """

    logits: Tensor
    labels: Tensor


@dataclass
class Record:
    """One run folder.

    ``facts`` is ``run.json``, ``config`` the resolved settings and ``config_text`` the file they
    came from, ``steps`` and ``evals`` the events of these kinds in order, ``split`` the validation
    images if they are at hand and are the ones that were scored, ``problems`` says what could not
    be read, ``weights`` which weights made the predictions.
    """

    folder: Path
    split: Split | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    steps: list[Event] = field(default_factory=list)
    evals: list[Event] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    answers: Answers | None = None
    problems: list[str] = field(default_factory=list)
    weights: str = "final weights"

    @classmethod
    def read(cls, folder: Path, split: Split | None = None) -> Record:
        """Read a run folder; raises UsageError if it has none of the files of a run."""
        if not any((folder / name).is_file() for name in _FILES):
            raise UsageError(
                "this is not a run folder",
                where=str(folder),
                fix=f"name a folder that `saccade train` wrote; it contains {', '.join(_FILES)}",
            )
        record = cls(folder, split)
        # the facts first: how the answers are read depends on them
        record._read_facts()
        record._read_config()
        record._read_log()
        record._read_answers()
        record._match_split()
        return record

    def judge(self, result: Result, split: Split, checkpoint: str) -> None:
        """Show the figures and predictions of a checkpoint on a split instead of those of the final
        weights.
        """
        self.split, self.weights = split, f"weights of {checkpoint}"
        self.answers = Answers(result.logits.float(), result.labels)
        data = self.config.get("data")
        views = data.get("eval_views", 1) if isinstance(data, dict) else 1
        self.facts["result"] = {**result.to_json(), "split": split.name, "views": views}
        # what was wrong with the file of answers no longer matters
        self.problems = [p for p in self.problems if not p.startswith(ANSWERS_FILE)]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @cached_property
    def result(self) -> dict[str, Any]:
        """The final figures as ``run.json`` has them, else as the predictions give them.

        Empty before the end.
        """
        said = self.section("result")
        if said or self.answers is None:
            return said
        return self.objective.judge(self.answers.logits, self.answers.labels).to_json()

    @cached_property
    def objective(self) -> Objective:
        """The objective; runs without one are of classification."""
        name = self.facts.get("objective") or self._model_facts().get("objective")
        if name is None:
            return objectives.of_facts({"dataset": {"classes": self.classes}})
        return objectives.named(str(name), self.classes)

    @property
    def parts(self) -> list[Part]:
        """The objective's sections about the predictions; nothing if there are none."""
        if self.answers is None:
            return []
        return self.objective.page(Seen(self.answers.logits, self.answers.labels, self.titles))

    @property
    def figures(self) -> dict[str, float]:
        """The numbers of the result.

        Those of the latest evaluation as long as there is no result.
        """
        found = self.result or (self.evals[-1] if self.evals else {})
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @cached_property
    def classes(self) -> list[str]:
        """The class names, or "class 0" and so on when nothing at hand holds them."""
        # names that do not fit the answers are those of another run
        width = self.answers.logits.shape[1] if self.answers else None
        for names in (self.section("dataset").get("classes"), self._model_facts().get("classes")):
            if isinstance(names, list) and width in (None, len(names)):
                return [str(name) for name in names]
        if self.split is not None and width in (None, len(self.split.classes)):
            return list(self.split.classes)
        return [f"class {i}" for i in range(width or 0)]

    @cached_property
    def titles(self) -> list[str]:
        """The class names for people: ImageNet's in English, all others unchanged."""
        return [class_name(name) for name in self.classes]

    def section(self, name: str) -> dict[str, Any]:
        """Return one part of ``run.json``, empty when it is not there."""
        part = self.facts.get(name)
        return part if isinstance(part, dict) else {}

    def series(self, kind: str, name: str, axis: str = "") -> tuple[list[float], list[float]]:
        """Return (places, values) of one number over the ``step`` or ``eval`` events that have it.

        Places are epochs or steps, as ``axis`` says; by default the run's own ``axis``. Of
        evaluations only those on ``watched``, with as many views, are taken: figures of two sets,
        or made in two ways, make no curve.
        """
        place, usual = axis or self.axis, self._usual
        events = self.steps if kind == "step" else [e for e in self.evals if _made(e) == usual]
        kept = [
            e
            for e in events
            if all(isinstance(e.get(field), int | float) for field in (place, name))
        ]
        x, y = [float(e[place]) for e in kept], [float(e[name]) for e in kept]
        # a pretraining was looked at before its first step, too
        before = self.section("untrained").get(name)
        if kind == "eval" and kept and isinstance(before, int | float):
            return [0.0, *x], [float(before), *y]
        return x, y

    @property
    def watched(self) -> str | None:
        """The split that most evaluations in the log were made on."""
        return self._usual[0]

    @property
    def _usual(self) -> tuple[str | None, int]:
        """How most evaluations were made; of equals the first."""
        ways = Counter(_made(e) for e in self.evals)
        return max(ways, key=ways.__getitem__, default=(None, 1))

    @property
    def axis(self) -> str:
        """The unit of all curves: "epoch" when every event has one, else "step"."""
        return "epoch" if all("epoch" in e for e in self.steps + self.evals) else "step"

    @property
    def last_step(self) -> int:
        """The last step that left an event, 0 when none did."""
        return max((int(e["step"]) for e in self.steps + self.evals), default=0)

    def _read_facts(self) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            return
        try:
            facts = files.read_json(path)
        except (OSError, ValueError) as error:
            self.problems.append(f"run.json cannot be read: {error}")
            return
        self.facts = facts if isinstance(facts, dict) else {}

    def _read_config(self) -> None:
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        try:
            self.config_text = files.read_text(path, plain_yaml.LIMIT_BYTES)
            config = plain_yaml.load(self.config_text)
        except (OSError, ValueError) as error:
            self.problems.append(f"config.yaml cannot be read: {error}")
            return
        self.config = config if isinstance(config, dict) else {}

    def _read_log(self) -> None:
        for event in log.read_events(self.folder / "log.jsonl"):
            if event["event"] == "step":
                self.steps.append(event)
            elif event["event"] == "eval":
                self.evals.append(event)
            elif event["event"] == "warning" and event.get("text") not in self.warnings:
                self.warnings.append(str(event.get("text", "")))
        # events of several attempts lie in the order in which they were written
        self.steps.sort(key=lambda e: int(e["step"]))
        self.evals.sort(key=lambda e: int(e["step"]))

    def _read_answers(self) -> None:
        path = self.folder / ANSWERS_FILE
        if not path.exists():
            return
        if self.facts and not self.section("result"):
            self.problems.append(
                f"{ANSWERS_FILE} belongs to an earlier end of this run, which was continued "
                "since then"
            )
            return

        try:
            tensors = safetensors.torch.load_file(path)
            labels = tensors["labels"]
            answers = Answers(
                tensors["logits"].float(), labels if labels.ndim > 1 else labels.long()
            )
            _check(answers)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError, DivergedError) as error:
            self.problems.append(
                f"predictions.safetensors cannot be used: {str(error).splitlines()[0]}"
            )
            return

        self.answers = answers
        self._compare_answers(answers)

    def _compare_answers(self, answers: Answers) -> None:
        """Report if the predictions do not give the figures of ``run.json``."""
        said = self.section("result")
        found = self.objective.judge(answers.logits, answers.labels).figures
        primary = self.objective.primary.name
        differing = [
            name
            for name, value in found.items()
            # the counts and the figure that decides: others may differ in their last digits
            if (isinstance(value, int) or name == primary)
            and isinstance(said.get(name), int | float)
            and not math.isclose(said[name], value, rel_tol=1e-6)
        ]
        if differing:
            held = ", ".join(f"{name} {found[name]:g}" for name in differing)
            told = ", ".join(f"{name} {said[name]:g}" for name in differing)
            self.problems.append(
                f"predictions.safetensors has {held}, but run.json says {told}: the details "
                "below belong to another evaluation than the result above"
            )

    def _match_split(self) -> None:
        """Forget the split unless it holds the scored images: as many, with the same labels in
        the same order.
        """
        if self.split is None or self.answers is None:
            return
        try:
            held = self.objective.truth(self.objective.matched(self.split))
        except DataError:
            held = None
        if held is None or not torch.equal(held, self.answers.labels):
            self.problems.append(
                f"no images shown: {self.split.where} no longer contains the images that were "
                "evaluated"
            )
            self.split = None

    def _model_facts(self) -> dict[str, Any]:
        path = self.folder / "model.safetensors"
        if not path.exists():
            return {}
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("saccade", "{}"))
        except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
            self.problems.append(f"model.safetensors cannot be read: {error}")
            return {}
        return facts if isinstance(facts, dict) else {}


def _made(evaluation: Event) -> tuple[str | None, int]:
    return evaluation.get("split"), evaluation.get("views", 1)


def _check(answers: Answers) -> None:
    logits, labels = answers.logits, answers.labels
    if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape) or not len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit together"
        )
    largest = logits.shape[1] - 1 if labels.ndim == 1 else 1
    if int(labels.min()) < 0 or int(labels.max()) > largest:
        raise ValueError(f"a label is outside 0..{largest}")
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError("a logit is not finite")
