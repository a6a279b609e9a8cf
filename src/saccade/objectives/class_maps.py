"""Comparing the classes of training and validation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from saccade.data.sources import Split
from saccade.findings import Finding, listed


def _present(split: Split) -> set[str]:
    return {split.classes[i] for i in np.unique(split.labels)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def doubles(names: set[str]) -> list[str]:
    """Return the names that differ only in case, as ``'Cat' / 'cat'``.

    Letters may be classes of their own.
    """
    spellings: dict[str, list[str]] = {}
    for name in sorted(names):
        spellings.setdefault(_folded(name), []).append(name)
    # one letter in two cases is often two classes, as in sets of handwriting
    doubled = [found for found in spellings.values() if len(found) > 1 < len(found[0])]
    return [" / ".join(f"'{name}'" for name in found) for found in doubled]


def class_maps(train: Split, val: Split, *, held_out: bool) -> list[Finding]:
    """Compare the classes of both sides by name.

    A class without an image does not count.
    """
    known, judged = _present(train), _present(val)
    missing, extra = known - judged, judged - known

    # names that differ only in case are one finding, not two
    twins = {_folded(name): name for name in extra}
    pairs = [(name, twins[_folded(name)]) for name in sorted(missing) if _folded(name) in twins]
    missing -= {a for a, _ in pairs}
    extra -= {b for _, b in pairs}

    findings = _case(pairs, known, train, val)
    if missing:
        findings.append(_missing(sorted(missing), val, held_out))
    if extra:
        findings.append(_extra(sorted(extra), train, val))
    findings += _hollow(known | judged, train, val)
    if len(known) < 2:
        findings.append(_one_class(known, train))
    return findings


def _case(
    pairs: Sequence[tuple[str, str]], known: set[str], train: Split, val: Split
) -> list[Finding]:
    """List the classes that differ only in upper and lower case, between splits or within one."""
    findings = []
    if pairs:
        names = [f"'{a}' / '{b}'" for a, b in pairs]
        findings.append(
            Finding(
                "class-case-differs",
                "error",
                f"class names differ only in upper and lower case between {train.name} and "
                f"{val.name}: "
                f"{listed(names, len(names))}",
                where=f"{train.where} and {val.where}",
                fix="use the same name for each class on both sides",
                items=tuple(names),
                status=65,
            )
        )

    if twice := doubles(known):
        findings.append(
            Finding(
                "class-case-differs",
                "warning",
                f"classes of {train.name} differ only in upper and lower case: "
                f"{listed(twice, len(twice))}",
                train.where,
                items=tuple(twice),
            )
        )
    return findings


def _extra(names: Sequence[str], train: Split, val: Split) -> Finding:
    return Finding(
        "class-missing-in-train",
        "error",
        f"the training split '{train.name}' has no images of these classes of '{val.name}': "
        f"{listed(names, len(names))}",
        where=val.where,
        fix=f"add training images of them, or remove them from '{val.name}'",
        items=tuple(names),
        status=65,
    )


def _hollow(used: set[str], train: Split, val: Split) -> list[Finding]:
    """List the class folders without an image: those with other files are refused."""
    findings = []
    unread = sorted({*train.left_out, *val.left_out})
    if unread:
        findings.append(
            Finding(
                "class-left-out",
                "error",
                f"{len(unread)} class folder(s) contain files, but no readable image: "
                f"{listed(unread, len(unread))}",
                where=train.where,
                fix="convert the files to JPEG or PNG, or move these folders to another place",
                items=tuple(unread),
                status=65,
            )
        )

    # a class may be empty on one side and used on the other
    empty = sorted({*train.empty_classes, *val.empty_classes} - used - {*unread})
    if empty:
        findings.append(
            Finding(
                "empty-class",
                "warning",
                f"{len(empty)} class folder(s) are empty and are skipped: "
                f"{listed(empty, len(empty))}",
                train.where,
                items=tuple(empty),
            )
        )
    return findings


def _one_class(known: set[str], train: Split) -> Finding:
    return Finding(
        "one-class",
        "error",
        f"all training images have the same class, {', '.join(known)}: there is nothing to learn",
        where=train.where,
        fix="arrange the images as train/<class>/<image> with at least two classes",
        items=tuple(known),
        status=65,
    )


def _missing(names: Sequence[str], val: Split, held_out: bool) -> Finding:
    if held_out:
        return Finding(
            "class-missing-in-val",
            "warning",
            "classes with a single image, which is used for training and not evaluated: "
            f"{listed(names, len(names))}",
            val.where,
            items=tuple(names),
        )

    hollow = " (its folder is there, but empty)" if set(names) & set(val.empty_classes) else ""
    return Finding(
        "class-missing-in-val",
        "error",
        f"'{val.name}' has no images of these classes of the training split: "
        f"{listed(names, len(names))}{hollow}",
        where=val.where,
        fix=f"add images of them to '{val.name}', or remove these classes from training",
        items=tuple(names),
        status=65,
    )
