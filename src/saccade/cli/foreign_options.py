"""Options of other trainers: a command that has some is answered with what to write instead.

``foreign_options.txt`` is the table; ``docs/coming-from.md`` shows the same rows.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from saccade.cli import foreign_values
from saccade.errors import UsageError

TABLE = Path(__file__).with_name("foreign_options.txt")

OF_SAVED = "Verbs that take a trained model"
"""The subject whose rows come first for the verbs below."""

VERBS_OF_SAVED = ("eval", "predict", "report")
BROUGHT = "a trained model brings its own network, size, pixels and precision"

_PLACE = re.compile(r"\{(?:(\w+)=)?([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Row:
    """A family of options: ``ours`` is what to write here, empty where nothing is.

    ``valued`` are those of ``theirs`` that take a value although nothing comes of it.
    """

    subject: str
    theirs: tuple[str, ...]
    ours: str
    why: str
    valued: frozenset[str]

    @property
    def example(self) -> str:
        """What to write, with the example in the place of a value, for a shell."""
        return _quoted(_PLACE.sub(lambda place: _example(place[1], place[2]), self.ours))

    @property
    def kinds(self) -> list[str]:
        """How the values in ``ours`` are translated."""
        return [place[1] or "plain" for place in _PLACE.finditer(self.ours)]

    def advice(self, given: Sequence[str], line: foreign_values.Line) -> str:
        """Return what to write for the values that were given, the example where none translates.

        ``line`` has the values of all options of the command.
        """

        def translated(place: re.Match[str]) -> str:
            value = foreign_values.translate(place[1] or "plain", given, line)
            return _example(place[1], place[2]) if value is None else value

        return _quoted(_PLACE.sub(translated, self.ours))


def _example(kind: str | None, example: str) -> str:
    return f"[{example}]" if kind in foreign_values.LISTS else example


def _quoted(command: str) -> str:
    """Quote what a shell would take for its own, such as brackets."""
    try:
        return shlex.join(shlex.split(command))
    # a quote in a value that was given
    except ValueError:
        return command


@cache
def rows() -> tuple[Row, ...]:
    """Return the rows of the table, in order."""
    _, *sections = TABLE.read_text(encoding="utf-8").split("\n# ")
    return tuple(row for section in sections for row in _rows(section))


def _rows(section: str) -> Iterator[Row]:
    subject, *lines = section.splitlines()
    for line in filter(None, lines):
        theirs, ours, why = (part.strip() for part in line.split("|"))
        names = tuple(name.removesuffix("=") for name in theirs.split())
        valued = {name.removesuffix("=") for name in theirs.split() if name.endswith("=")}
        yield Row(subject, theirs=names, ours=ours, why=why, valued=frozenset(valued))


def find(name: str, verb: str = "train") -> Row | None:
    """Return the row of an option of others for a verb of ours, None for one that nobody has."""
    wanted = name.replace("_", "-")
    found = [row for row in rows() if wanted in row.theirs]
    found.sort(key=lambda row: row.subject != OF_SAVED)
    return next((r for r in found if r.subject != OF_SAVED or verb in VERBS_OF_SAVED), None)


@dataclass(slots=True)
class Part:
    """A word of a command, or an option with its values.

    ``name`` is empty for a word, ``row`` is what is known about an option of others, and ``ours``
    an option of ours in our spelling.
    """

    text: list[str]
    name: str = ""
    values: list[str] = field(default_factory=list)
    row: Row | None = None
    ours: str = ""


def answer(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> UsageError | None:
    """Return what to say about options of others in a command, None where there are none.

    ``own`` are the options of the verb and whether each takes a value.
    """
    parts = list(_parts(verb, arguments, own))
    line = {part.ours or _spelt(part.name): part.values for part in parts if part.name}
    told: list[tuple[str, str, str]] = []
    ours: list[str] = []
    foreign = False

    for part in parts:
        given = shlex.join(part.text)
        if part.row:
            advice, why = part.row.advice(part.values, line), part.row.why
            if not _flags(advice) <= {*own}:
                advice, why = "", BROUGHT if verb in VERBS_OF_SAVED else f"not for {verb}"
            told.append((given, advice or "leave it out", why))
            ours.append(advice)
            foreign = True
        elif part.ours and part.ours != part.name:
            told.append((given, shlex.join([part.ours, *part.values]), "our spelling"))
            ours.append(told[-1][1])
            foreign = True
        elif part.name and not part.ours:
            near = difflib.get_close_matches(part.name, own, n=1, cutoff=0.7)
            told.append((given, f"did you mean {near[0]}?" if near else "unknown", ""))
        else:
            ours.append(given)

    if not foreign:
        return None
    lines = [
        f"{given}  ->  {advice}" + (f"  ({why})" if why else "") for given, advice, why in told
    ]
    return UsageError(
        "\n".join(["some options are spelt as another trainer has them; here they are:", *lines]),
        where="docs/coming-from.md has the whole table",
        fix=" ".join(["saccade", verb, *filter(None, ours)]),
    )


def _flags(advice: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z-]+", advice))


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def _parts(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> Iterator[Part]:
    """Part a command into words, options of ours and options of others."""
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        if text == "--":
            return
        if not _is_option(text):
            yield Part([text])
            continue

        name, equals, value = text.partition("=")
        explicit = [value] if equals else []
        row = None if name in own or _spelt(name) in own else find(name, verb)
        # a short option with its value in one word, such as -j8
        if not row and name[1] != "-" and name[:2] != name and (row := find(name[:2], verb)):
            name, explicit = name[:2], [text[2:]]

        if row:
            values = explicit or _taken(rest, row, name)
            yield Part([text] if explicit else [name, *values], name, values, row)
        else:
            ours = name if name in own else _spelt(name) if _spelt(name) in own else ""
            takes = own.get(ours, False) and not equals and rest
            values = explicit or ([rest.pop(0)] if takes else [])
            yield Part([text] if equals else [name, *values], name, values, ours=ours)


def _is_option(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not re.match(r"-[\d.]", text)


def _taken(rest: list[str], row: Row, name: str) -> list[str]:
    """Take the values of an option of others from the arguments behind it."""
    values: list[str] = []
    if row.kinds or _spelt(name) in row.valued:
        several = any(kind in foreign_values.MANY for kind in row.kinds) or not row.kinds
        while rest and not _is_option(rest[0]):
            # the words of our commands are names: a second value of theirs is a number
            if values and not (several and re.fullmatch(r"-?[\d.]+(e-?\d+)?", rest[0])):
                break
            values.append(rest.pop(0))
    elif rest and rest[0] in ("True", "False"):
        values.append(rest.pop(0))
    return values
