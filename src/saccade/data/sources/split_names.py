"""Which folders of a tree are splits: by their names, by how they lie, or because the user says
so.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from saccade.data.archives.paths import clean_name
from saccade.errors import ConfigError

SPLIT_FOLDERS = ("train", "val", "validation", "valid", "test")
"""Names of splits; the validation split is the first of the last four that exists."""

NO_SPLITS = "none"
"""Value of ``--split-names`` if folders that look like splits are classes."""

_EXAMPLE = "write train=FOLDER,val=FOLDER, or none if all folders are classes"
_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
_PLAIN = """
data dataset datasets set sets split splits image images img imgs picture pictures photo photos
folder folders dir file files sample samples jpg jpeg png raw
"""
_FILLERS = frozenset(_PLAIN.split())
_TOKEN = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")

Folder = tuple[str, ...]
Held = Mapping[Folder, int]
"""How many images lie directly in each folder."""


class Unclear(ValueError):
    """A tree that can be read in two ways: the text says what is seen, ``fix`` what settles it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class Meaning(NamedTuple):
    """What a name says: the split (``train``, ``val``, ``test`` or nothing) and the other words
    in it.
    """

    split: str
    rest: str


@dataclass(frozen=True)
class Roots:
    """Where the splits of a tree lie: the folders around everything, and the whole path of each
    split's folder.

    ``flat`` are the folders called like splits in which no class folders lie.
    """

    wrappers: Folder
    splits: Mapping[str, Folder]
    flat: tuple[str, ...] = ()


def meaning(name: str) -> Meaning:
    """Read the name of a folder: ``Training``, ``test_set`` and ``valImages`` are splits,
    ``seg_train`` has a rest.
    """
    splits: set[str] = set()
    rest = []
    for token in map(str.lower, _TOKEN.findall(_HUMP.sub(" ", name))):
        word = next(
            (token.removesuffix(end) for end in _FILLERS if token.removesuffix(end) in _WORDS),
            token,
        )
        if word in _WORDS:
            splits.add(_WORDS[word])
        elif token not in _FILLERS:
            rest.append(token)
    return Meaning(splits.pop() if len(splits) == 1 else "", " ".join(rest))


def words(name: str) -> set[str]:
    """Return the splits that the words of a file name tell, the usual five before others:
    ``training-000.tar``.
    """
    tokens = [token.lower() for token in _TOKEN.findall(_HUMP.sub(" ", name))]
    usual = {token for token in tokens if token in SPLIT_FOLDERS}
    return usual or {split for token in tokens if (split := meaning(token).split)}


def called(name: str) -> str:
    """Return the split that a folder's whole name means: ``Testing`` is ``test``; empty for others.

    The five usual words stay as they are written.
    """
    split, rest = meaning(name)
    return "" if rest or not split else name if name.lower() in SPLIT_FOLDERS else split


def parse(text: str) -> dict[str, str] | None:
    """Read ``--split-names``: folders by split, nothing for ``none``; None where nothing is said.

    Raises ConfigError.
    """
    if not text.strip():
        return None
    if text.strip().lower() == NO_SPLITS:
        return {}

    found: dict[str, str] = {}
    for entry in text.split(","):
        name, equals, folder = (part.strip() for part in entry.partition("="))
        try:
            path = clean_name(folder or ".")
        except ValueError as error:
            raise ConfigError(str(error), where="data.split_names", fix=_EXAMPLE) from error
        if not equals or not path or name.lower() not in SPLIT_FOLDERS or name.lower() in found:
            raise ConfigError(
                f"'{entry.strip()}' does not name the folder of a split "
                f"({', '.join(SPLIT_FOLDERS)}), or repeats one",
                where="data.split_names",
                fix=_EXAMPLE,
            )
        found[name.lower()] = path
    return found


def shared(text: str, *, apart: bool) -> tuple[str, str]:
    """Return what ``--split-names`` says about the training data and about validation data that
    lies ``apart``.
    """
    named = parse(text)
    if not named or not apart:
        return text, text
    sides = (
        [f"{k}={v}" for k, v in named.items() if (k == "train") is first] for first in (True, False)
    )
    first, second = map(",".join, sides)
    return first, second


def find_roots(held: Held, named: Mapping[str, str] | None) -> Roots:
    """Find the splits of a tree by its folders; ``named`` is what the user says.

    Raises ValueError if it is unclear.
    """
    wrappers = _wrappers(held)
    if named:
        return Roots((), _named_roots(held, named, wrappers))
    if named is not None:
        return Roots(wrappers, {})

    depth = len(wrappers)
    below: dict[str, dict[Folder, int]] = defaultdict(dict)
    for folder, count in held.items():
        if len(folder) > depth and folder[:depth] == wrappers:
            below[folder[depth]][folder[depth + 1 :]] = count

    like = _like_splits(below)
    roots = {name: _unwrapped(name, below[name]) for name in like}
    deep = {
        name
        for name, root in roots.items()
        if any(len(inner) >= len(root) for inner in below[name])
    }

    splits: dict[str, Folder] = {}
    for name in sorted(deep):
        twins = sorted(other for other in deep if like[other].lower() == like[name].lower())
        if len(twins) > 1:
            raise Unclear(
                f"the split folders {_listed(twins)} have the name of the same split, "
                f"'{like[name].lower()}'",
                "keep one, or name the splits: --split-names train=FOLDER,val=FOLDER",
            )
        splits[like[name]] = wrappers + roots[name]

    if splits:
        _refuse_more_beside(below, deep, like)
    else:
        _refuse_likenesses(below, like)
    return Roots(wrappers, splits, tuple(sorted(like.keys() - deep)))


def _wrappers(held: Held) -> Folder:
    """Return the folders around everything.

    Each is the only one at its place, has folders inside, and is not called like a split.
    """
    found: Folder = ()
    while True:
        depth = len(found)
        inside = [folder for folder in held if len(folder) > depth and folder[:depth] == found]
        firsts = {folder[depth] for folder in inside} - _unlabelled_beside(inside, depth)
        if len(firsts) != 1 or max(map(len, inside)) < depth + 2 or any(map(called, firsts)):
            return found
        found += tuple(firsts)


def _unlabelled_beside(inside: Collection[Folder], depth: int) -> set[str]:
    """Return the folders without labels, such as ``test``, that lie beside the splits one level
    too high.
    """
    tests = {folder[depth] for folder in inside if called(folder[depth])}
    if not tests or not any(
        called(name) for f in inside if f[depth] not in tests for name in f[depth + 1 :]
    ):
        return set()
    below = {
        name: [folder[depth + 1 :] for folder in inside if folder[depth] == name] for name in tests
    }
    return {
        name for name in tests if max(map(len, below[name])) < len(_unwrapped(name, below[name]))
    }


def _like_splits(below: Mapping[str, Held]) -> dict[str, str]:
    """Return the folders that may be splits by their names, each with the split: ``seg_train``
    beside ``seg_test``.
    """
    plain = {name: called(name) for name in below if called(name)}
    families: dict[str, dict[str, str]] = defaultdict(dict)
    for name in below:
        split, rest = meaning(name)
        if split and rest and any(below[name]):
            families[rest][name] = split
    pairs = [
        family
        for family in families.values()
        if "train" in family.values() and len(set(family.values())) > 1
    ]
    return plain or (pairs[0] if len(pairs) == 1 else {})


def _unwrapped(name: str, inside: Collection[Folder]) -> Folder:
    """Return where the class folders of a split begin: below ``train/train`` or ``test/images``,
    too.
    """
    root: Folder = (name,)
    while True:
        depth = len(root) - 1
        firsts = {
            inner[depth] for inner in inside if len(inner) > depth and inner[:depth] == root[1:]
        }
        if len(firsts) != 1:
            return root
        (only,) = firsts
        tokens = _TOKEN.findall(only.lower())
        doubled = only.lower() == name.lower() or meaning(only).split == meaning(name).split != ""
        if not doubled and not (tokens and _FILLERS.issuperset(tokens)):
            return root
        root += (only,)


def _refuse_more_beside(
    below: Mapping[str, Held], deep: Collection[str], like: Collection[str]
) -> None:
    """Refuse a lone split beside folders that hold more: ``train`` may be a vehicle like ``bus``
    and ``car``.
    """
    beside = {
        name: sum(count for inner, count in held.items() if inner)
        for name, held in below.items()
        if name not in like
    }
    if len(deep) == 1 and sum(beside.values()) > sum(sum(below[name].values()) for name in deep):
        (name,) = deep
        raise Unclear(
            (
                f"'{name}' has the name of a split, but there are more images beside it, in "
                f"{_listed(beside)}"
            ),
            "use --split-names none to read all of them as classes, or --split-names "
            f"train={name} to skip the others",
        )


def _refuse_likenesses(below: Mapping[str, Held], like: Collection[str]) -> None:
    """Refuse to read folders as classes that may be splits, or splits without class folders."""
    settle = (
        "name the splits with --split-names train=FOLDER,val=FOLDER, or use --split-names none "
        "if all are classes"
    )

    others = [name for name in below if name not in like]
    if like and others:
        raise Unclear(
            f"{_listed(like)} has the name of a split, but is beside {_listed(others)}",
            f"{settle}; move a folder of images without labels to another place",
        )
    if like or (
        below and all(meaning(name).split and not any(held) for name, held in below.items())
    ):
        raise Unclear(
            f"{_listed(below)} contain images without class folders, so their classes are unknown",
            "arrange them as train/<class>/<image>, or use a table with --labels; --split-names "
            "none reads each folder as a class",
        )

    if len(below) < 2:
        return
    families = Counter(meaning(name).rest for name in below if meaning(name).split)
    twins = [name for name in below if meaning(name).split and families[meaning(name).rest] > 1]
    if twins:
        raise Unclear(
            (
                f"{_listed(twins)} have names of splits, but it is unclear which class folders "
                "belong to which split"
            ),
            "arrange the images as train/<class>/<image> and val/<class>/<image>; "
            "--split-names train=FOLDER,val=FOLDER"
            " names the splits, --split-names none reads each folder as a class",
        )

    inner = {name: {folder[0] for folder in held if folder} for name, held in below.items()}
    lone = [name for name in below if meaning(name).split and len(inner[name]) > 1]
    if lone:
        raise Unclear(
            f"'{lone[0]}' has the name of a split and contains {_listed(inner[lone[0]])}", settle
        )

    common, union = set.intersection(*inner.values()), set.union(*inner.values())
    flat = any(not folder for held in below.values() for folder in held)
    if not flat and common and all(map(called, union)):
        raise Unclear(
            f"the split folders {_listed(union)} are inside the class folders {_listed(below)}",
            "arrange the images as train/<class>/<image> and val/<class>/<image>; --split-names "
            "none reads each class as a whole",
        )
    if not flat and len(common) > 1 and 2 * len(common) >= len(union):
        raise Unclear(
            (
                f"{_listed(below)} all contain the folders {_listed(common)}: this is typical of "
                "splits, not of classes"
            ),
            settle,
        )


def _named_roots(held: Held, named: Mapping[str, str], wrappers: Folder) -> dict[str, Folder]:
    roots = {}
    for split, text in named.items():
        folder = tuple(text.split("/"))
        starts = [
            start
            for start in (folder, wrappers + folder)
            if any(f[: len(start)] == start for f in held)
        ]
        if not starts:
            depth = len(wrappers)
            seen = {"/".join(f[depth : depth + 1]) for f in held if len(f) > depth}
            raise Unclear(
                f"--split-names says {split}={text}, but there are no images",
                f"name folders that contain images, such as {_listed(seen)}"
                if seen
                else "check the names of the folders",
            )

        start = starts[0]
        inside = [f[len(start) :] for f in held if f[: len(start)] == start]
        roots[split] = start[:-1] + _unwrapped(start[-1], inside)

    for first, one in roots.items():
        for second, other in roots.items():
            if first != second and one[: len(other)] == other:
                raise Unclear(
                    f"--split-names gives the same images to {first} and {second}", _EXAMPLE
                )
    return roots


def _listed(names: Collection[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in sorted(names)[:4])
    return quoted + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")
