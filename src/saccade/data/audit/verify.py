"""The complete check of a data set: every byte is read once, every problem is named.

The result is made of plain values and sorted, so that the ledgers of two copies of a set can be
compared.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from saccade import cache, files
from saccade.data.archives import packs
from saccade.data.audit import known_sets
from saccade.data.audit.image import ERRORS, NOTES, Integers, Part, first_equal, survey
from saccade.data.audit.known_sets import Known
from saccade.data.audit.sample import OVERLAP_LIMIT
from saccade.data.sources.peek import BESIDE_SUFFIXES
from saccade.data.sources.split import Source, Split
from saccade.errors import UsageError
from saccade.log import Log
from saccade.system import consoles
from saccade.units import human_size

FORMAT = 1
LISTED = 10_000
"""Names that are kept of each kind in each split; the counts are always complete."""

SHOWN = 5

Severity = Literal["error", "warning", "note"]
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of problem in one split: the number and the names of the images.

    ``docs/data.md`` explains the kinds.
    """

    severity: Severity
    kind: str
    split: str
    count: int
    text: str = ""
    images: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, severity: Severity, kind: str, split: str, names: Sequence[str], text: str = ""
    ) -> Entry:
        """Make the entry about some images."""
        return cls(severity, kind, split, len(names), text, tuple(names[:LISTED]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ledger as plain values, and whether something in it is an error."""

    facts: Facts
    entries: tuple[Entry, ...]

    @property
    def failed(self) -> bool:
        """Whether an image is unreadable, splits overlap too much, or an archive is not the
        original."""
        return any(entry.severity == "error" for entry in self.entries)

    def to_json(self) -> Facts:
        """Return everything as plain values."""
        return self.facts | {
            "findings": [asdict(entry) | {"images": list(entry.images)} for entry in self.entries]
        }


def verify(source: Source, log: Log, *, archives: Sequence[Path] = ()) -> Verdict:
    """Read all images of a source, and the MD5 of ``archives``.

    The ledger is kept in the user's cache folder.
    """
    entries = [entry for path in archives for entry in _md5(path, log)]
    if packs.is_pack(Path(source.where)) and (hurt := list(packs.damage(Path(source.where)))):
        entries.append(
            Entry.of(
                "error", "damaged-pack", "", hurt, text="files were changed after they were written"
            )
        )

    parts = [Part(split, np.arange(len(split))) for split in _training_first(source)]
    total = sum(len(part.places) for part in parts)
    with log.progress("verifying", total) as bar:
        survey(parts, lambda done: bar.update(done, "read, hashed, decoded"))

    looks_like = _recognise(parts)
    facts: Facts = {
        "format": FORMAT,
        "source": source.name,
        "where": source.where,
        "looks_like": looks_like.name if looks_like else None,
        "splits": {part.split.name: _split_facts(part) for part in parts},
        "ignored": dict(sorted(source.ignored.items())),
    }

    for part in parts:
        entries += _oddities(part)
        entries += _counts(part, looks_like)
    entries += _left_out(source)
    entries += [entry for pair in combinations(parts, 2) for entry in _overlap(*pair)]

    # Found again by names and sizes alone: so changed bytes are noticed the next time.
    kept = cache.within("verify", f"{_fingerprint(parts)}.json")
    entries += _changed(kept, facts)

    order = ("error", "warning", "note")
    verdict = Verdict(
        facts, tuple(sorted(entries, key=lambda e: (order.index(e.severity), e.kind)))
    )
    cache.remember(kept, verdict.to_json())
    return verdict


def known_archives(path: Path) -> list[Path]:
    """Return the archives of known MD5 that ``path`` is or holds.

    Raises UsageError if there is none.
    """
    found = [path / name if path.is_dir() else path for name in known_sets.ARCHIVES]
    found = sorted({one for one in found if one.name in known_sets.ARCHIVES and one.is_file()})
    if not found:
        names = " and ".join(known_sets.ARCHIVES)
        raise UsageError(
            "there is no archive with a known MD5 at this place",
            where=str(path),
            fix=f"--md5 is for {names}",
        )
    return found


def _md5(path: Path, log: Log) -> Iterator[Entry]:
    md5, done = hashlib.md5(usedforsecurity=False), 0
    with log.progress(f"MD5 of {path.name}", path.stat().st_size) as bar, open(path, "rb") as file:
        while block := file.read(8 * files.COPY_BYTES):
            md5.update(block)
            done += len(block)
            bar.update(done, "")
    wanted, is_now = known_sets.ARCHIVES[path.name], md5.hexdigest()
    if is_now != wanted:
        yield Entry(
            "error",
            "md5-differs",
            "",
            count=1,
            text=f"the MD5 of {path.name} is {is_now} instead of {wanted}",
        )


def _training_first(source: Source) -> list[Split]:
    return sorted(
        source.splits.values(), key=lambda split: (split.name.lower() != "train", split.name)
    )


def _recognise(parts: Sequence[Part[Split]]) -> Known | None:
    rows = np.concatenate([part.rows[part.rows["sound"]] for part in parts])
    classes = {name for part in parts for name in part.split.classes}
    sides = np.concatenate([rows["width"], rows["height"]])
    return known_sets.recognise(classes, int(sides.min()), int(sides.max())) if len(sides) else None


def _fingerprint(parts: Sequence[Part[Split]]) -> str:
    lines = "".join(f"{part.split.name}\0{part.split.fingerprint}\n" for part in parts)
    return hashlib.sha256(lines.encode()).hexdigest()


def _split_facts(part: Part[Split]) -> Facts:
    split, rows = part.split, part.rows[part.rows["sound"]]
    short, long = (choose(rows["width"], rows["height"]) for choose in (np.minimum, np.maximum))
    turns = Counter(rows["turn"].tolist())
    return {
        "images": len(split),
        "usable": len(rows),
        "classes": len(split.classes),
        "empty_classes": list(split.empty_classes),
        "images_per_class": _spread(np.bincount(split.labels, minlength=len(split.classes))),
        "file_bytes": _spread(split.sizes) | {"sum": int(split.sizes.sum())},
        "short_side": _spread(short),
        "long_side": _spread(long),
        "formats": _ranked(part.forms),
        "colours": _ranked(part.colours),
        "exif_orientation": {str(turn): turns[turn] for turn in sorted(turns) if turn > 1},
        "fingerprint": split.fingerprint,
        "content": _content(part),
    }


def _spread(values: Integers) -> Facts:
    if not len(values):
        return {"min": 0, "median": 0, "max": 0}
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _content(part: Part[Split]) -> str:
    """Return the SHA-256 over (class, name, SHA-256 of the file) of every image in canonical
    order.
    """
    split, sha = part.split, hashlib.sha256()
    for label, name, digest in zip(
        split.labels.tolist(), split.names, part.rows["digest"], strict=True
    ):
        sha.update(f"{split.classes[label]}\0{name}\0{digest.ljust(32, bytes(1)).hex()}\n".encode())
    return sha.hexdigest()


def _oddities(part: Part[Split]) -> Iterator[Entry]:
    """Yield the problems of the images, and duplicates inside the split."""
    name = part.split.name
    yield from (
        Entry.of("error", kind, name, part.named(kind)) for kind in ERRORS if kind in part.kinds
    )
    yield from (
        Entry.of("note", kind, name, part.named(kind)) for kind in NOTES if kind in part.kinds
    )
    first, labels = first_equal(part), part.split.labels
    copies = np.flatnonzero(first != np.arange(len(first)))
    torn = labels[copies] != labels[first[copies]]
    if torn.any():
        yield Entry.of(
            "warning", "duplicate-other-class", name, _pairs(part, copies[torn], part, first)
        )
    if not torn.all():
        yield Entry.of(
            "note", "duplicate-same-class", name, _pairs(part, copies[~torn], part, first)
        )


def _pairs(part: Part[Split], rows: Integers, other: Part[Split], first: Integers) -> list[str]:
    return [f"{part.describe(i)} = {other.describe(first[i])}" for i in rows]


def _overlap(first: Part[Split], second: Part[Split]) -> Iterator[Entry]:
    """Yield the images of the second split that are also in the first."""
    theirs = first_equal(first, second)[len(first.rows) :]
    rows = np.flatnonzero(theirs < len(first.rows))
    if len(rows):
        names = _pairs(second, rows, first, theirs)
        severity: Severity = "error" if len(rows) > OVERLAP_LIMIT * len(second.rows) else "warning"
        text = (
            f"{len(rows) / len(second.rows):.2%} of '{second.split.name}' is also in "
            f"'{first.split.name}'"
        )
        yield Entry.of(severity, "duplicate-across-splits", second.split.name, names, text=text)


def _left_out(source: Source) -> Iterator[Entry]:
    """Yield the files of the source that are not read."""
    for split in source.splits.values():
        if split.left_out:
            text = (
                "class folders with files, but without a readable image: "
                f"{', '.join(split.left_out)}"
            )
            yield Entry.of("error", "class-left-out", split.name, split.left_out, text=text)

    notes = {f"not an image by its name ({suffix})" for suffix in BESIDE_SUFFIXES} | {
        "hidden or system file"
    }
    if source.ignored.keys() - notes:
        severity: Severity = "warning" if source.lacks_images else "note"
        names = source.ignored_names
        yield Entry(
            severity,
            "ignored-files",
            "",
            count=source.ignored.total(),
            text=source.ignored_text(),
            images=names,
        )


def _counts(part: Part[Split], looks_like: Known | None) -> Iterator[Entry]:
    """Yield differences in number from the known set that this looks like."""
    split = part.split
    if looks_like is None or split.name.lower() not in looks_like.images:
        return
    for kind, unit, is_now, wanted in (
        ("count-differs", "images", len(split), looks_like.images[split.name.lower()]),
        ("class-count-differs", "classes", len(split.classes), looks_like.num_classes),
    ):
        if is_now != wanted:
            text = f"{is_now:,} {unit}; {looks_like.name} has {wanted:,}"
            yield Entry("warning", kind, split.name, count=abs(is_now - wanted), text=text)
    counts = np.bincount(split.labels, minlength=len(split.classes))
    if wrong := looks_like.uneven(split.name.lower(), split.classes, counts):
        count, text = wrong
        yield Entry("warning", "class-size-differs", split.name, count=count, text=text)


def _changed(kept: Path, facts: Facts) -> Iterator[Entry]:
    """Yield the splits whose bytes have changed although every name and size is the same."""
    try:
        before = files.read_json(kept)
        old = {name: str(before["splits"][name]["content"]) for name in facts["splits"]}
    except (OSError, ValueError, TypeError, KeyError):
        return
    for name, content in old.items():
        if content != facts["splits"][name]["content"]:
            text = (
                f"the contents differ from those verified before in {before['where']}: compare "
                "both with a good copy"
            )
            yield Entry("warning", "content-changed", name, count=1, text=text)


def show(verdict: Verdict) -> None:
    """Print the result for people on stdout: the splits side by side, then the problems."""
    facts = verdict.facts
    title = f"{facts['source']}" + (
        f" (looks like {facts['looks_like']})" if facts["looks_like"] else ""
    )
    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        caption="a / b / c: smallest, median, largest",
        caption_justify="left",
    )

    table.add_column("")
    for name in facts["splits"]:
        table.add_column(name, overflow="fold")
    for row in zip(*(_cells(one) for one in facts["splits"].values()), strict=True):
        table.add_row(row[0][0], *(text for _, text in row))

    console = consoles.console(soft_wrap=True)
    console.print(table, markup=False)
    for entry in verdict.entries:
        where = f" in {entry.split}" if entry.split else ""
        colour = {"error": "red", "warning": "yellow", "note": "dim"}[entry.severity]
        console.print(f"[{colour}]{entry.severity:<7}[/] ", end="")
        console.print(f"{entry.kind}{where}: {entry.text or f'{entry.count:,}'}", markup=False)
        for name in entry.images[:SHOWN]:
            console.print(f"          {name}", markup=False)
        if entry.count > SHOWN < len(entry.images):
            console.print(f"          and {entry.count - SHOWN:,} more", markup=False)

    counts = Counter(entry.severity for entry in verdict.entries)
    found = [f"{counts[kind]} {kind}(s)" for kind in ("error", "warning") if counts[kind]]
    console.print(", ".join(found) or "no problems found")


def _cells(split: Facts) -> Iterator[tuple[str, str]]:
    """Yield the rows about one split: what, and the figure."""
    empty = f", {len(split['empty_classes'])} empty" if split["empty_classes"] else ""
    yield (
        "images",
        f"{split['images']:,}"
        + ("" if split["usable"] == split["images"] else f" ({split['usable']:,} usable)"),
    )
    yield "classes", f"{split['classes']:,}{empty}"
    yield "images per class", _range(split["images_per_class"], "{:,}".format)
    yield "bytes", human_size(split["file_bytes"]["sum"])
    yield "file size", _range(split["file_bytes"], human_size)
    yield "short side, px", _range(split["short_side"], "{:,}".format)
    yield "long side, px", _range(split["long_side"], "{:,}".format)
    for name in ("formats", "colours", "exif_orientation"):
        counts = (f"{count:,} {what}" for what, count in split[name].items())
        yield name.replace("_", " "), "\n".join(counts) or "-"
    yield "fingerprint", split["fingerprint"][:16]
    yield "content", split["content"][:16]


def _range(spread: Facts, form: Callable[[int], str]) -> str:
    return " / ".join(form(spread[name]) for name in ("min", "median", "max"))
