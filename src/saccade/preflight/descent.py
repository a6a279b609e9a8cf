"""Checking whether the initial weights were trained on the validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saccade.config.schema import Config
from saccade.data.audit import sample
from saccade.data.audit.sample import OVERLAP_LIMIT, Ledger
from saccade.data.sources import KNOWN, Split
from saccade.data.sources.digits import NAME as DIGITS
from saccade.data.sources.unlabelled import NO_LABELS
from saccade.errors import SaccadeError
from saccade.findings import Finding, listed
from saccade.setup.ancestor import METHOD, find_weights
from saccade.training import datasets
from saccade.training.datasets import Data

ID = "init-saw-validation"
WITHOUT_LABELS = "pretrain-saw-validation"
"""The finding where the images were seen without labels, which is a smaller advantage."""


def findings(config: Config, data: Data) -> list[Finding]:
    """Compare the validation images with what each ancestor of the weights was trained on.

    The images of ``--minival`` are compared too; they only choose the best model, so copies among
    them are a warning. Weights that are gone were checked when the run began. The training images
    of foreign weights are unknown.
    """
    if not config.model.init:
        return []
    try:
        lineage = find_weights(config.model.init).lineage
    except FileNotFoundError:
        return []
    found: list[Finding] = []
    known = {data.train.fingerprint}  # these are compared with the validation images in any case
    for entry in lineage:
        seen = _images(entry, config)
        if seen is None:
            found.append(_unknown(entry))
        # several ancestors may share one set: it is read once
        elif seen.fingerprint not in known:
            known.add(seen.fingerprint)
            found += _judged(entry, sample.audit(seen, data.val), config, data)
            if config.data.minival:
                found += _chosen(entry, sample.audit(seen, data.chosen_on))
    return found


def _images(entry: Mapping[str, Any], config: Config) -> Split | None:
    """Return the training images of a run, from their old or current place.

    None if neither has the same set.
    """
    for places in _places(entry, config):
        settings = {"data": entry["data"] | places, "seed": entry["seed"]}
        if _is_pretraining(entry):
            settings["pretrain"] = {"method": entry["method"]}
        try:
            then = Config.model_validate(settings)
            train = datasets.open_data(then, datasets.open_any_training(then)).train
        # anything may have become of it
        except (SaccadeError, OSError, ValueError, KeyError, TypeError):
            continue
        # the same place may hold another set by now
        if train.fingerprint[:16] == entry["fingerprint"].partition("-")[0]:
            return train
    return None


def _places(entry: Mapping[str, Any], config: Config) -> Iterator[dict[str, Any]]:
    """Yield possible places of a run's data: its old place, and the place of this run's data."""
    here = {name: str(getattr(config.data, name)) for name in ("train", "val", "labels")}
    then, folder = entry["data"], Path(entry["folder"] or ".")
    there = {name: str(then.get(name) or "") for name in here}
    # others could start a download
    if there["train"] in (here["train"], DIGITS) or there["train"] not in KNOWN:
        yield {
            n: text if text in ("", NO_LABELS, *KNOWN) else str(folder / Path(text).expanduser())
            for n, text in there.items()
        }
    # images without labels may have got theirs since
    labels = {"labels": NO_LABELS} if then.get("labels") == NO_LABELS else {}
    yield here | {"split_names": config.data.split_names} | labels


def _judged(entry: Mapping[str, Any], read: Ledger, config: Config, data: Data) -> list[Finding]:
    twice = read.overlap
    if not twice:
        return []
    unlabelled = _is_pretraining(entry)
    # a loss on images without labels is no figure that anybody is misled by
    judges = config.pretrain.method == "none"
    much = twice.count > OVERLAP_LIMIT * read.compared and judges and not unlabelled
    how = ", without labels: accuracy on them may be higher than on new images" * unlabelled
    return [
        Finding(
            WITHOUT_LABELS if unlabelled else ID,
            "error" if much else "warning",
            f"{twice.count:,} of {read.compared:,} validation images were training images of "
            f"{_name(entry)}, from which this run starts ({read.scope}){how}: "
            f"{listed(twice.first, twice.count, 2)}",
            where=data.val.where,
            fix="validate on other images with --val, or pretrain without these images"
            if unlabelled
            else _way_out(entry, config),
            items=twice.first,
            status=65 if much else 0,
        )
    ]


def _chosen(entry: Mapping[str, Any], read: Ledger) -> list[Finding]:
    """Warn if the initial weights were trained on images that choose the best checkpoint."""
    twice = read.overlap
    if not twice:
        return []

    # The same seed and fraction hold the same images out again.
    fraction, same = entry["data"].get("minival"), ""
    if fraction:
        same = (
            f"choose on the same images as that run (--minival {fraction} --seed "
            f"{entry['seed']}), or "
        )
    return [
        Finding(
            ID,
            "warning",
            f"{twice.count:,} of {read.compared:,} images of 'minival' (they choose the best "
            f"checkpoint) were training images of {_name(entry)}, from which this run starts "
            f"({read.scope}): the choice is optimistic",
            where="data.minival",
            fix=f"{same}remove --minival",
            items=twice.first,
        )
    ]


def _way_out(entry: Mapping[str, Any], config: Config) -> str:
    fraction, place = entry["data"].get("holdout"), str(entry["data"].get("train"))
    data = "" if place == config.data.train else f"--data {place} "
    same = "use the validation split of that run"
    if fraction:
        same = (
            f"hold out the same images as that run ({data}--holdout {fraction} --seed "
            f"{entry['seed']}, without --val)"
        )
    return f"{same}, or validate on other images with --val"


def _unknown(entry: Mapping[str, Any]) -> Finding:
    return Finding(
        ID,
        "note",
        f"it is unknown whether {_name(entry)}, from which this run starts, was trained on these "
        f"validation images: its training images ({entry['data'].get('train', 'unknown')}) are "
        "missing or were changed",
    )


def _is_pretraining(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("method", METHOD)) != METHOD


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["run"])
