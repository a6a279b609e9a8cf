"""The initial weights of a run: their place, their identity, and the settings of their training.

They are identified by their digest: a moved file is the same source, a changed one is not. The
settings of an own run are followed unless the user sets others; its data is recorded in
``run.json``, so that a run knows all its ancestors even if their folders are gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from saccade import files
from saccade.config.schema import Config, DataSection
from saccade.errors import CheckpointError, SaccadeError
from saccade.evaluation.classifier import Recipe
from saccade.models import Network, backends, find, is_foreign, meta_model
from saccade.models.parts.layers import strides_for
from saccade.models.weights import preprocessing, stored
from saccade.models.weights.content import AVERAGE_FILE, MODEL_FILE
from saccade.training import checkpoint, recorded

METHOD = "classification"
PATCHED = ("vit", "swin")
"""Families whose first layer sees patches of ``model.patch_size`` pixels."""

LONGEST_LINEAGE = 20
"""Largest number of earlier runs that are followed."""

# how a run was judged, which decides nothing about its weights
_APART = {"eval_size", "eval_views"}
FOLLOWED = tuple(
    f"data.{f.name}" for f in fields(Recipe) if f.name in {*DataSection.model_fields} - _APART
)
"""What decides which pixels the weights expect."""

JUDGED_AT = "data.eval_size"
"""The side of whole images where a run of pretraining learned from smaller crops; a training that
starts from it sees images of that side.
"""

SHAPES = ("model.name", "model.strides", "model.patch_size")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """Where weights come from.

    ``text`` is what the user wrote, ``path`` the file or checkpoint folder, None for a library's
    weights; ``digest`` is the SHA-256 of the weights, or a library's name of them. ``settings`` are
    those of its training, by dotted name, as far as known; ``run`` is its run folder and
    ``lineage`` the data of it and its ancestors, nearest first. ``is_gone``: only the records of
    the run that started from it are left. ``said_by`` is the source of its mean and standard
    deviation, empty if unknown.
    """

    text: str
    path: Path | None
    digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    lineage: tuple[Mapping[str, Any], ...] = ()
    is_gone: bool = False
    said_by: str = ""

    @property
    def model(self) -> str:
        """The name of its network, empty if unknown."""
        return str(self.settings.get("model.name", ""))

    @property
    def method(self) -> str:
        """How its run learned: ``classification``, or one of pretraining; empty without a run."""
        if self.run is None:
            return ""
        return str(self.lineage[0].get("method", METHOD)) if self.lineage else METHOD

    def shape(self) -> dict[str, Any]:
        """Return its strides and patch size if the image size decided them.

        Another size would give others. Empty if its network has neither.
        """
        if not self.model or self.model.startswith("custom:") or is_foreign(self.model):
            return {}
        side = int(self.settings["data.image_size"])
        strides = strides_for(side, tuple(self.settings["model.strides"]))
        patch = int(self.settings["model.patch_size"])
        # read off the built network, so that a default patch is written down as the number it is
        # now
        if find(self.model).family in PATCHED:
            network = meta_model(self.model, num_classes=2, image_size=side, patch_size=patch)
            assert isinstance(network, Network)
            return {"model.patch_size": network.levels[0].stride}
        try:
            meta_model(self.model, num_classes=2, image_size=side, strides=strides)
        except SaccadeError:
            return {}  # a network that has no strides to set
        return {"model.strides": list(strides)}

    def of_network(self, model: str) -> Ancestor:
        """Return it with a library's mean and standard deviation for its network ``model``, if
        neither its run nor its file has them.
        """
        if "data.mean" in self.settings or not backends.is_backend(model):
            return self
        # a tag names the very weights: timm:resnet50.a1_in1k
        facts = backends.preprocessing(self.text if backends.is_backend(self.text) else model)
        if facts is None:
            return self
        said = {"data.mean": list(facts.mean), "data.std": list(facts.std)}
        return replace(self, settings=dict(self.settings) | said, said_by=model.partition(":")[0])

    @property
    def phrase(self) -> str:
        """A description with the followed settings, for the line at the start."""
        known = {n.partition(".")[2]: v for n, v in self.settings.items() if v not in ([], 0, "")}
        said = ", ".join(
            f"{name} {written(value)}" for name, value in known.items() if name != "name"
        )
        digest = f" (SHA-256 {self.digest[:12]})" if self.path else ""
        who = f" (as {self.said_by} says)" * bool(self.said_by)
        how = f"pretrained by {self.method}" * (self.method not in ("", METHOD))
        followed = [part for part in (self.model, how, said and said + who) if part]
        if "mean" not in known:
            followed.append("mean and std unknown")
        return f"{self.text}{digest}: {', '.join(followed)}"

    def record(self, took: str, share: float) -> dict[str, Any]:
        """Return its entry in ``run.json``.

        ``took`` is the table of tensors, ``share`` the fraction of the weights.
        """
        return {
            "source": self.text,
            "path": str(self.path.absolute()) if self.path else None,
            "digest": self.digest,
            "run": str(self.run.absolute()) if self.run else None,
            "method": self.method or None,
            "took": took,
            "share": round(share, 4),
            "settings": dict(self.settings),
            "lineage": [dict(entry) for entry in self.lineage],
        }


def own_entry(config: Config, fingerprint: str) -> dict[str, Any]:
    """Return a run's record of its training images, so that runs that start from it can find
    them."""
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted under our feet
        folder = ""
    data = config.dump()["data"]
    return {
        "method": METHOD if config.pretrain.method == "none" else config.pretrain.method,
        "data": data,
        "seed": config.seed,
        "folder": folder,
        "fingerprint": fingerprint,
    }


def seek(text: str, out: str = "") -> Ancestor:
    """Find the weights that ``model.init`` names.

    If they are gone, they are known from the run that started from them.

    ``out`` is that run's folder, empty for all in ``runs``. Raises CheckpointError when there are
    none.
    """
    try:
        return find_weights(text)
    except FileNotFoundError as error:
        # the weights may be gone when their run is resumed; its run.json still says what they were
        for folder in [Path(out)] if out else sorted(Path("runs").glob("*")):
            if known := _remembered(text, folder):
                return known
        raise CheckpointError(
            "there are no weights at this path",
            where=text,
            fix="give a run folder, a checkpoint folder, a .safetensors, a .pth or a .pt file",
        ) from error


def _remembered(text: str, folder: Path) -> Ancestor | None:
    """Return the recorded source of a run, if it started from weights of this name."""
    try:
        facts = recorded.facts(folder)
        init = (facts or {}).get("init")
    except CheckpointError:
        return None
    if not isinstance(init, dict) or not {"source", "path", "digest", "settings"} <= set(init):
        return None
    path = Path(str(init["path"]))
    mine = Path(text).expanduser().absolute()
    # the same file may be called otherwise, or by the run folder that it lies in
    if text != init["source"] and not (path == mine or mine in path.parents):
        return None
    settings = init["settings"] if isinstance(init["settings"], dict) else {}
    return Ancestor(text, path, str(init["digest"]), settings, is_gone=True)


def find_weights(text: str) -> Ancestor:
    """Find existing weights.

    Raises FileNotFoundError if they do not exist, CheckpointError for invalid ones.
    """
    if backends.is_backend(text):
        library, _, name = text.partition(":")
        settings = {"model.name": f"{library.lower()}:{name.partition('.')[0]}"}
        return Ancestor(text, None, f"{library.lower()}:{name}", settings)

    # a folder means its final weights, and its newest good checkpoint where there are none yet
    path = Path(text).expanduser()
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        path = _newest(path)
    elif path.name == MODEL_FILE and _is_checkpoint(path.parent):
        path = path.parent
    if _is_checkpoint(path):
        return _of_checkpoint(text, path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(file)
    return _of_file(text, file)


def _is_checkpoint(path: Path) -> bool:
    return all((path / name).is_file() for name in (MODEL_FILE, "manifest.json", "state.json"))


def _newest(run: Path) -> Path:
    """Return the newest checkpoint of an unfinished run that verifies; raises FileNotFoundError."""
    for step in checkpoint.steps_on_disk(run / "checkpoints"):
        folder = run / "checkpoints" / f"step_{step:08d}"
        try:
            files.verify_folder(folder)
        except ValueError:
            continue
        return folder
    raise FileNotFoundError(run / MODEL_FILE)


def _of_checkpoint(text: str, folder: Path) -> Ancestor:
    meta = checkpoint.read_meta(folder)
    average = folder / AVERAGE_FILE
    # the average is what is evaluated and saved, so it is what others start from
    digest = files.digest(average if average.is_file() else folder / MODEL_FILE)
    config = recorded.resolved(meta["config"], folder / "state.json")
    return _with_run(Ancestor(text, folder, digest, _settings_of(config)), folder.parent.parent)


def _of_file(text: str, file: Path) -> Ancestor:
    known = Ancestor(text, file, files.digest(file))
    # files of saccade say in their head what they are
    facts = stored.header(file).remarks.get("saccade") if file.suffix == ".safetensors" else None
    if facts is None:
        colours = preprocessing.normalisation(file)
        if colours is None:
            return known
        said = {"data.mean": list(colours[0]), "data.std": list(colours[1])}
        return replace(known, settings=said, said_by="the file")

    try:
        recipe = Recipe.parse(facts, str(file))
    except ValueError as error:
        raise CheckpointError(
            f"this file is not a valid saccade model: {error}",
            where=f"{file}, metadata 'saccade'",
            fix="use the original file, or a file with the tensors only",
        ) from error

    settings = {name: getattr(recipe, name.partition(".")[2]) for name in FOLLOWED}
    settings |= {
        "model.name": recipe.model,
        "model.strides": recipe.strides,
        "model.patch_size": recipe.patch_size,
    }
    return _with_run(replace(known, settings=_plain(settings)), file.parent)


def _settings_of(config: Config) -> dict[str, Any]:
    tree = config.dump()
    return {
        name: tree[name.partition(".")[0]][name.partition(".")[2]] for name in (*SHAPES, *FOLLOWED)
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }


def _with_run(known: Ancestor, folder: Path) -> Ancestor:
    """Add the records of the run folder about the training images of the weights and their
    ancestors.
    """
    facts = recorded.facts(folder)
    if facts is None:
        return known
    found = replace(known, run=folder, lineage=tuple(_entries(folder, facts)))
    side = found.lineage[0]["data"].get("eval_size") if found.lineage else None
    if found.method == METHOD or not isinstance(side, int) or side <= 0:
        return found
    return replace(found, settings=dict(found.settings) | {JUDGED_AT: side})


def _entries(folder: Path, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    own = facts.get("trained_on")
    if not isinstance(own, dict):  # a run of an earlier version
        config = recorded.settings(folder)
        own = (
            own_entry(config, str(facts["dataset"]["fingerprint"])) | {"folder": ""}
            if config
            else None
        )
    init = facts.get("init")
    older = init.get("lineage") if isinstance(init, dict) else None
    entries = [
        own and own | {"run": str(folder.absolute())},
        *(older if isinstance(older, list) else ()),
    ]
    yield from filter(_is_entry, entries[:LONGEST_LINEAGE])


def _is_entry(entry: Any) -> bool:
    """Tell whether an entry of a lineage, which is not trusted, has the form of `own_entry`."""
    forms = {"data": dict, "seed": int, "folder": str, "fingerprint": str, "run": str}
    return isinstance(entry, dict) and all(
        isinstance(entry.get(name), form) for name, form in forms.items()
    )


def written(value: Any) -> str:
    """Return a setting for people: numbers of a list with spaces between them."""
    return " ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
