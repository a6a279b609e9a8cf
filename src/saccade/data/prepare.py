"""A folder of image files, ``train/<class>/<image>``, from any source.

Each file is written under a temporary name and renamed, so that a name means a complete file; there
is one sync of the disk, at the end. Until then ``saccade-prepare.json`` says that the tree is
begun: a file of the wrong size is then what a power cut left of ours, and is written again. In any
other folder it belongs to somebody else and is never touched.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from saccade import files
from saccade.data.audit.image import Integers
from saccade.data.images import decode
from saccade.data.images.decode import RAW_PNM, BadImage, Data
from saccade.data.sources.digits import NAME as DIGITS
from saccade.data.sources.folder import open_folder
from saccade.data.sources.layout import WHOLE, arrange, is_image
from saccade.data.sources.peek import HEAD_BYTES, peek
from saccade.data.sources.split import Source, Split
from saccade.errors import DataError, DiskError, UsageError
from saccade.log import Log
from saccade.system.parallel import in_order
from saccade.units import human_size

MANIFEST = "saccade-prepare.json"
FORMAT = 1
BLOCK = 64
NAME_BYTES = 255
FILE_OVERHEAD_BYTES = 4096
"""Disk space of a file besides its contents, in bytes: the rest of its last block, its name, its
entry.
"""

State = Literal["", "begun", "complete"]

_UNSAFE = re.compile(r"[\\\x00-\x1f\ud800-\udfff]")
_MAPS = (".ppm", ".pgm")
_GRAY_MAPS = (b"P1", b"P2", b"P4", b"P5")
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10)))
)


@dataclass(eq=False)
class _Plan:
    """One split as files: ``names`` inside the class, ``paths`` below the target, in the order of
    the split.

    Portable maps, which few programs show, become PNG. ``todo`` are the places to be written, int64
    of shape (k,).
    """

    split: Split
    names: tuple[str, ...] = field(init=False)
    paths: list[str] = field(init=False)
    todo: Integers = field(init=False)

    def __post_init__(self) -> None:
        split = self.split
        folders = [f"{self.prefix}{name}/" for name in split.classes]
        self.names = tuple(f"{name[:-4]}.png" if _is_map(name) else name for name in split.names)
        self.paths = [
            folders[label] + name
            for label, name in zip(split.labels.tolist(), self.names, strict=True)
        ]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that have an image: a tree of files holds no others."""
        return tuple(sorted({self.split.classes[label] for label in np.unique(self.split.labels)}))

    @property
    def prefix(self) -> str:
        """What stands before the class in every path."""
        return "" if self.split.name == WHOLE else f"{self.split.name}/"

    def contents(self, i: int) -> Data:
        """Return the bytes of file ``i`` of the tree; raises DataError."""
        data = self.split.read(i)
        return _png(data, self.split.describe(i)) if _is_map(self.split.names[i]) else data

    def is_there(self, i: int, path: Path, state: State) -> bool:
        """Tell whether a file that exists is file ``i``: by its size in a tree of ours, by its
        content elsewhere.
        """
        if state and not _is_map(self.split.names[i]):
            return path.stat().st_size == self.split.sizes[i]
        there, wanted = path.read_bytes(), self.contents(i)
        if there == wanted or not _is_map(self.split.names[i]):
            return there == wanted
        try:  # another version of zlib packs the same pixels differently
            return np.array_equal(decode.decode(there), decode.decode(wanted))
        except BadImage:
            return False


def prepare(source: Source, target: Path, log: Log) -> dict[str, Any]:
    """Write what is missing of a source as a tree of files under ``target``, and return what was
    done.

    Existing files are never changed: a file of the same name and other content, an image that is
    not of the source, and a link raise DataError, as do names that the tree could not give back.
    Raises ConfigError while another process is at work there, DiskError where the space is too
    small.
    """
    plans = [_Plan(split) for split in source.splits.values()]
    paths = [path for plan in plans for path in plan.paths]
    _refuse_inside(source, target)
    refuse_names(paths, windows=os.name == "nt")
    _refuse_misread(plans, paths)

    with files.locked(target), files.staging(target) as aside:
        if (target / ".LOCK").exists():
            refuse_case_clashes(paths)

        facts = _read_manifest(target)
        states = [_state(facts, plan.split) for plan in plans]
        for plan, state in zip(plans, states, strict=True):
            plan.todo = _missing(plan, target, state)

        if any(len(plan.todo) for plan in plans) or set(states) != {"complete"}:
            _refuse_space(plans, target)
            files.write_json(target / MANIFEST, _manifest(facts, plans, "begun"))
            _write(plans, target, aside, log)
            _check(plans, target)
            files.write_json(target / MANIFEST, _manifest(facts, plans, "complete"))

    return {
        "target": str(target),
        "splits": {plan.split.name: len(plan.paths) for plan in plans},
        "written": sum(len(plan.todo) for plan in plans),
    }


def refuse_names(paths: Sequence[str], *, windows: bool) -> None:
    """Raise DataError on a path that could leave its folder, or that no file system of this kind
    can hold.
    """
    for part in sorted({part for path in paths for part in path.split("/")}):
        reason = ""
        if part in ("", ".", "..") or _UNSAFE.search(part):
            reason = "could lead to another place"
        elif len(part.encode()) > NAME_BYTES:
            reason = f"is longer than {NAME_BYTES} bytes"
        elif windows and (
            part.partition(".")[0].lower() in _DEVICES
            or set(part) & set('<>:"|?*')
            or part[-1] in ". "
        ):
            reason = "cannot be a file on Windows"

        if reason:
            path = next(path for path in paths if part in path.split("/"))
            raise DataError(
                f"the name {part[:200]!r} {reason}",
                where=repr(path[:300]),
                fix="rename these images in the source",
            )

    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise DataError(
            f"two images would get the name '{twice[0]}'", fix="give each image a unique name"
        )


def refuse_case_clashes(paths: Sequence[str]) -> None:
    """Raise DataError if two paths or folders differ in upper and lower case only, which the
    disk ignores.
    """
    spellings: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            other = spellings.setdefault(name.casefold(), name)
            if other != name:
                raise DataError(
                    f"'{other}' and '{name}' are the same name on this disk",
                    fix="rename one of them, or use a disk with case-sensitive names",
                )


def _refuse_inside(source: Source, target: Path) -> None:
    root, there = Path(source.where).resolve(), target.resolve()
    if source.where != DIGITS and root.is_dir() and (there == root or root in there.parents):
        raise UsageError(
            "the target is inside the source, and the source is never changed",
            where=str(target),
            fix="choose another folder",
        )


def _refuse_misread(plans: Sequence[_Plan], paths: Sequence[str]) -> None:
    """Raise DataError if the folder would not be read back as the same data set."""
    owners = [(plan, i) for plan in plans for i in range(len(plan.paths))]

    def head(place: int) -> Data:
        plan, i = owners[place]
        return plan.contents(i)[:HEAD_BYTES]

    try:
        parts = arrange(paths, peeked=peek(paths, head)).parts
    except ValueError as error:
        raise DataError(f"as a folder of files this set would be ambiguous: {error}") from error

    for plan in (plan for plan in plans if plan.names):
        part = parts.get(plan.split.name)
        if part is None or len(part.names) != len(plan.names) or part.classes != plan.classes:
            raise DataError(
                f"as a folder of files, '{plan.split.name}' would not be read back as "
                f"{len(plan.names):,} images in {len(plan.classes):,} classes",
                where=plan.split.where,
                fix=(
                    "file names must not be hidden and must have the suffix of an image; classes "
                    "must not have names of splits"
                ),
            )


def _read_manifest(target: Path) -> dict[str, Any]:
    path = target / MANIFEST
    try:
        splits: dict[str, Any] = files.read_json(path)["splits"] if path.exists() else {}
        if all(entry["state"] in ("begun", "complete") for entry in splits.values()):
            return splits
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise DataError(
        f"{MANIFEST} is damaged or from another program",
        where=str(path),
        fix="choose another folder",
    )


def _state(facts: dict[str, Any], split: Split) -> State:
    entry = facts.get(split.name, {})
    state: State = entry["state"] if entry.get("source_fingerprint") == split.fingerprint else ""
    return state


def _manifest(facts: dict[str, Any], plans: Sequence[_Plan], state: State) -> dict[str, Any]:
    ours = {
        plan.split.name: {
            "state": state,
            "source": plan.split.where,
            "source_fingerprint": plan.split.fingerprint,
            "images": len(plan.split),
            "classes": len(plan.split.classes),
        }
        for plan in plans
    }
    return {"format": FORMAT, "splits": facts | ours}


def _missing(plan: _Plan, target: Path, state: State) -> Integers:
    """Return the places of the files to be written, int64 (k,).

    Raises DataError on anything that is in the way.
    """
    place = {path: i for i, path in enumerate(plan.paths)}
    missing = np.ones(len(plan.paths), np.bool_)
    # a split's folder that is itself a link is not entered
    linked = plan.prefix and (target / plan.split.name).is_symlink()

    for name in [plan.split.name] if linked else _present(target, plan.prefix, place):
        i, path = place.get(name), target / name
        if path.is_symlink():
            what = "is a link, and saccade does not write through links"
        elif i is None:
            what = "is an image from another source"
        elif plan.is_there(i, path, state):
            missing[i] = False
            continue
        elif state == "begun":
            continue
        else:
            what = "already exists with other contents"

        raise DataError(
            f"'{name}' {what}", where=str(path), fix="move it, or choose an empty folder"
        )
    return np.flatnonzero(missing)


def _present(target: Path, folder: str, ours: Collection[str]) -> Iterator[str]:
    """Yield the images, ours and others, and the links below a folder of the target, as paths
    below the target.
    """
    try:
        with os.scandir(target / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error}", where=str(target / folder)
        ) from error

    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _present(target, f"{folder}{entry.name}/", ours)
        elif entry.is_symlink() or is_image(entry.name) or folder + entry.name in ours:
            yield folder + entry.name


def _refuse_space(plans: Sequence[_Plan], target: Path) -> None:
    need = sum(
        int(plan.split.sizes[plan.todo].sum()) + FILE_OVERHEAD_BYTES * len(plan.todo)
        for plan in plans
    )
    free = files.free_bytes(target)
    if need > free:
        raise DiskError(
            f"this needs {human_size(need)}, but only {human_size(free)} are free",
            where=str(target),
            fix="free some space, or choose another disk",
        )


def _write(plans: Sequence[_Plan], target: Path, aside: Path, log: Log) -> None:
    def write(block: tuple[_Plan, Integers]) -> int:
        plan, places = block
        for i in places.tolist():
            files.place(aside, target / plan.paths[i], plan.contents(i))
        return len(places)

    blocks = [
        (plan, plan.todo[i : i + BLOCK]) for plan in plans for i in range(0, len(plan.todo), BLOCK)
    ]
    total = sum(len(plan.todo) for plan in plans)

    done = 0
    with log.progress("preparing", total) as bar:
        for written in in_order(write, blocks):
            done += written
            bar.update(done, "files written")
        bar.update(done, "waiting for the disk")
        files.settle(target / path for plan in plans for path in plan.paths)


def _check(plans: Sequence[_Plan], target: Path) -> None:
    """Read the finished tree as a source: it must be the same dataset."""
    tree = open_folder(target).splits
    for plan in (plan for plan in plans if plan.names):
        back, split = tree.get(plan.split.name), plan.split
        same = (
            back is not None
            and back.classes == plan.classes
            and sorted(back.names) == sorted(plan.names)
        )
        if same and back is not None and not any(map(_is_map, split.names)):
            same = np.array_equal(back.sizes, split.sizes)
        if not same:
            raise DataError(
                f"the finished folder differs from '{split.name}' in the source: something "
                "changed it meanwhile",
                where=str(target),
                fix="run the same command again",
            )


def _is_map(name: str) -> bool:
    return name.lower().endswith(_MAPS)


def _png(data: Data, where: str) -> bytes:
    """Pack a portable map as PNG without loss; raises DataError if it is damaged or has 16 bits."""
    header = RAW_PNM.match(data)
    if header and header[4] == b"65535":
        raise DataError(
            "a PPM image of 16 bits would lose half of its bits",
            where=where,
            fix="save it as PNG first",
        )
    try:
        pixels = decode.decode(data)
    except BadImage as error:
        raise DataError(
            f"this image cannot be read: {error}", where=where, fix="repair or remove it"
        ) from error
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if bytes(data[:2]) in _GRAY_MAPS else pixels).save(out, "PNG")
    return out.getvalue()
