"""Whether the weights that a run starts from, or those before them, were trained on the images
that it is judged on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saccade.config.schema import Config
from saccade.data.audit import sample
from saccade.data.audit.sample import OVERLAP_LIMIT, Ledger
from saccade.data.sources import KNOWN, Split
from saccade.data.sources.digits import NAME as DIGITS
from saccade.errors import SaccadeError
from saccade.findings import Finding, listed
from saccade.setup.ancestor import find_weights
from saccade.training import datasets
from saccade.training.datasets import Data

ID = "init-saw-validation"


def findings(config: Config, data: Data) -> list[Finding]:
    """Compare the validation images with what each ancestor was trained on, as far as its images
    can be had.

    So are those of ``--minival``, which only choose the best model: a warning then.

    Weights that are gone were judged when the run began; of foreign weights nobody says what they
    have seen.
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
        elif seen.fingerprint not in known:
            known.add(seen.fingerprint)
            found += _judged(entry, sample.audit(seen, data.val), config, data)
            if config.data.minival:
                found += _chosen(entry, sample.audit(seen, data.chosen_on))
    return found


def _images(entry: Mapping[str, Any], config: Config) -> Split | None:
    """Return what a run was trained on, from where it lay then or lies now.

    None where neither is the same set.
    """
    for places in _places(entry, config):
        try:
            then = Config.model_validate({"data": entry["data"] | places, "seed": entry["seed"]})
            train = datasets.open_data(then, datasets.open_training(then)).train
        # anything may have become of it
        except (SaccadeError, OSError, ValueError, KeyError, TypeError):
            continue
        if train.fingerprint[:16] == entry["fingerprint"].partition("-")[0]:
            return train
    return None


def _places(entry: Mapping[str, Any], config: Config) -> Iterator[dict[str, Any]]:
    """Yield where the data of a run may lie: where it was, and where this run has its own."""
    here = {name: str(getattr(config.data, name)) for name in ("train", "val", "labels")}
    then, folder = entry["data"], Path(entry["folder"] or ".")
    there = {name: str(then.get(name) or "") for name in here}
    # others could start a download
    if there["train"] in (here["train"], DIGITS) or there["train"] not in KNOWN:
        yield {
            n: text if text in ("", *KNOWN) else str(folder / Path(text).expanduser())
            for n, text in there.items()
        }
    yield here | {"split_names": config.data.split_names}


def _judged(entry: Mapping[str, Any], read: Ledger, config: Config, data: Data) -> list[Finding]:
    twice = read.overlap
    if not twice:
        return []
    much = twice.count > OVERLAP_LIMIT * read.compared
    return [
        Finding(
            ID,
            "error" if much else "warning",
            f"{twice.count:,} of {read.compared:,} validation images were training images of "
            f"{_name(entry)}, from which "
            f"this run starts ({read.scope}): {listed(twice.first, twice.count, 2)}",
            where=data.val.where,
            fix=_way_out(entry, config),
            items=twice.first,
            status=65 if much else 0,
        )
    ]


def _chosen(entry: Mapping[str, Any], read: Ledger) -> list[Finding]:
    """Warn where the images that choose the best model are known to weights that the run starts
    from.
    """
    twice = read.overlap
    if not twice:
        return []
    share = entry["data"].get("minival")
    same = (
        f"choose on what it chose on, --minival {share} --seed {entry['seed']}, or "
        if share
        else ""
    )
    return [
        Finding(
            ID,
            "warning",
            f"{twice.count:,} of {read.compared:,} images of 'minival', which choose the "
            "best model, were training images "
            f"of {_name(entry)}, from which this run starts ({read.scope}): that choice is "
            "optimistic",
            where="data.minival",
            fix=f"{same}leave --minival out",
            items=twice.first,
        )
    ]


def _way_out(entry: Mapping[str, Any], config: Config) -> str:
    share, place = entry["data"].get("holdout"), str(entry["data"].get("train"))
    data = "" if place == config.data.train else f"--data {place} "
    same = (
        (
            f"hold out the images that it held out ({data}--holdout {share} --seed "
            f"{entry['seed']}, without --val)"
        )
        if share
        else "judge on the validation split that it was judged on"
    )
    return f"{same}, or judge on other images with --val"


def _unknown(entry: Mapping[str, Any]) -> Finding:
    return Finding(
        ID,
        "note",
        f"whether {_name(entry)}, from which this run starts, was trained on these "
        "validation images "
        f"cannot be said: its images ({entry['data'].get('train', 'unknown')}) are not there "
        "any more, or are others",
    )


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["run"])
