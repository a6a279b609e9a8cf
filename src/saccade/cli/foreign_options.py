"""Options of other trainers: a command with such options is told what to write instead.

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
from saccade.cli.options import KNOWN_DATA
from saccade.errors import UsageError

TABLE = Path(__file__).with_name("foreign_options.txt")

OF_SAVED = "Verbs that take a trained model"
"""The subject whose rows come first for the verbs below."""

VERBS_OF_SAVED = ("eval", "predict", "report")
FLAGS_OF_OTHERS = ("--model-ema", "--ra-sampler")
"""Options without a value there, though the row that answers them has one."""

BATCH = "--batch-size"
BROUGHT = "a trained model brings its own network, size, pixels and precision"

YAML = (".yaml", ".yml")
_PLACE = re.compile(r"\{(?:(\w+)=)?([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Row:
    """A family of options: ``ours`` is what to write here, empty if there is nothing.

    ``valued`` are those of ``theirs`` that take a value although nothing comes of it.
    """

    subject: str
    theirs: tuple[str, ...]
    ours: str
    why: str
    valued: frozenset[str]

    @property
    def example(self) -> str:
        """What to write in a shell, with the example as the value."""
        return _quoted(_PLACE.sub(lambda place: _example(place[1], place[2]), self.ours))

    @property
    def kinds(self) -> list[str]:
        """How the values in ``ours`` are translated."""
        return [place[1] or "plain" for place in _PLACE.finditer(self.ours)]

    def advice(self, given: Sequence[str], line: foreign_values.Line) -> str:
        """Return what to write for the given values, or the example if they have no translation.

        ``line`` has the values of all options of the command.
        """

        def translated(place: re.Match[str]) -> str:
            value = foreign_values.translate(place[1] or "plain", given, line)
            return _example(place[1], place[2]) if value is None else value

        return _quoted(_PLACE.sub(translated, self.ours))

    def missing(self, given: Sequence[str], line: foreign_values.Line) -> str:
        """List the available names if the given one has no counterpart; else return nothing."""
        for kind in self.kinds:
            names = foreign_values.NAMES.get(kind)
            if names and given and foreign_values.translate(kind, given, line) is None:
                return f"not available; available are: {', '.join(dict.fromkeys(names.values()))}"
        return ""


def _example(kind: str | None, example: str) -> str:
    return f"[{example}]" if kind in foreign_values.LISTS else example


def _quoted(command: str) -> str:
    """Quote characters that a shell would interpret, such as brackets."""
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
    """Return the row of a foreign option for a verb, None for an unknown option."""
    wanted = name.replace("_", "-")
    found = [row for row in rows() if wanted in row.theirs]
    found.sort(key=lambda row: row.subject != OF_SAVED)
    return next((r for r in found if r.subject != OF_SAVED or verb in VERBS_OF_SAVED), None)


@dataclass(slots=True)
class Part:
    """A word of a command, or an option with its values.

    ``name`` is empty for a word, ``row`` is what is known about an option of others, and ``ours``
    an option of ours in our spelling. ``guessed``: that is the nearest one, to a name nobody has.
    """

    text: list[str]
    name: str = ""
    values: list[str] = field(default_factory=list)
    row: Row | None = None
    ours: str = ""
    guessed: bool = False


def answer(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> UsageError | None:
    """Return what to say about options of others in a command, None where there are none.

    ``own`` are the options of the verb and whether each takes a value.
    """
    parts = list(_parts(verb, arguments, own))
    line = {part.ours or _spelt(part.name): part.values for part in parts if part.name}
    if not any(part.row or _is_respelt(part) for part in parts):
        return None
    told = [(shlex.join(part.text), *_reply(part, verb, line, own)) for part in parts]
    told = _with_one_data(told)

    lines = [
        f"{given} -> {ours or 'remove it'}" + (f" ({why})" if why else "")
        for given, ours, why in told
        if why or given != ours
    ]
    foreign = any(part.row or "_" in part.name for part in parts)
    what = "some options are spelled as in another trainer; Saccade's are:"
    return UsageError(
        "\n".join([what if foreign else "some options are misspelled:", *lines]),
        where="docs/coming-from.md has the complete table" if foreign else "",
        fix=" ".join(["saccade", verb, *filter(None, dict.fromkeys(ours for _, ours, _ in told))]),
    )


def _reply(
    part: Part, verb: str, line: foreign_values.Line, own: Mapping[str, bool]
) -> tuple[str, str]:
    """Return what to write for a part, empty for nothing, and why, empty for what is ours."""
    given = shlex.join(part.text)
    if part.row:
        if missing := part.row.missing(part.values, line):
            return "", missing
        advice = part.row.advice(part.values, line)
        if _flags(advice) <= {*own}:
            return advice, part.row.why or ("" if advice != given else "the same")
        return "", BROUGHT if verb in VERBS_OF_SAVED else f"not for {verb}"

    if part.ours == BATCH and any(find(name) for name in line if name not in own):
        batch = foreign_values.translate("own_batch", part.values, line)
        why = "ours is global: theirs x devices x accumulation"
        return shlex.join([BATCH, batch or part.values[-1]] if part.values else [BATCH]), why
    if part.ours and part.ours != part.name:
        why = f"did you mean {part.ours}?" if part.guessed else "our spelling"
        return shlex.join([part.ours, *part.values]), why
    if part.name and not part.ours:
        return "", "unknown"

    if not part.name and "--data" in own and part.text[0] != "--":
        if part.text[0].endswith(".py"):
            return "", "saccade itself is the script"
        if _is_images(part.text[0]):
            return shlex.join(["--data", part.text[0]]), "a folder, tar, zip or known name"
    return given, ""


def _is_respelt(part: Part) -> bool:
    return bool(part.ours) and part.ours != part.name and not part.guessed


def _is_images(word: str) -> bool:
    """Say whether a word is the place of images, as timm has it, and not a file of settings."""
    path = Path(word)
    return path.is_dir() or ("/" in word and not path.is_file() and path.suffix not in YAML)


def _with_one_data(told: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Keep one of several places of the images: an existing one, else a known name."""
    places = [shlex.split(ours)[1] for _, ours, _ in told if ours.startswith("--data ")]
    if len(set(places)) < 2:
        return told
    # the name of a data set beside its path, as edgeai-torchvision and timm have them
    kept = max(places, key=lambda place: (Path(place).exists(), place in KNOWN_DATA, "/" in place))
    return [
        (given, "", f"the images are --data {kept}")
        if ours.startswith("--data ") and shlex.split(ours)[1] != kept
        else (given, ours, why)
        for given, ours, why in told
    ]


def _flags(advice: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z-]+", advice))


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def _parts(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> Iterator[Part]:
    """Split a command into words, own options and foreign options."""
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        if text == "--":
            yield Part([text, *rest])
            return
        if not _is_option(text):
            yield Part([text])
            continue

        name, equals, value = text.partition("=")
        explicit = [value] if equals else []
        row = None if name in own or _spelt(name) in own else find(name, verb)
        # a short option with its value in one word, such as -j8
        if not row and re.match(r"-[a-zA-Z][\d.]", text) and (row := find(name[:2], verb)):
            name, explicit = name[:2], [text[2:]]
        ours = "" if row else _ours(name, own)
        if not row and not ours:
            row = _abbreviated(name, verb)

        if row:
            values = explicit or _taken(rest, row, name)
            yield Part([text] if explicit else [name, *values], name, values, row)
            continue

        guessed = not ours
        if guessed:
            ours = next(iter(difflib.get_close_matches(name, own, n=1, cutoff=0.7)), "")
        if ours:
            takes = own[ours] and not equals and bool(rest)
        else:
            takes = bool(rest and re.fullmatch(r"True|False|-?[\d.]+(e-?\d+)?", rest[0]))
        values = explicit or ([rest.pop(0)] if takes else [])
        yield Part([text] if equals else [name, *values], name, values, ours=ours, guessed=guessed)


def _ours(name: str, own: Mapping[str, bool]) -> str:
    """Return the own option that is meant: another spelling, or an unambiguous beginning."""
    spelt = f"--{_spelt(name).lstrip('-')}"
    found = [option for option in own if option.startswith(spelt)] if len(spelt) > 3 else []
    if name in own or spelt in own:
        return name if name in own else spelt
    return found[0] if len(found) == 1 else ""


def _abbreviated(name: str, verb: str) -> Row | None:
    """Return the row for the beginning of a foreign option, which the other programs accept."""
    if len(name) < 5 or not name.startswith("--"):
        return None
    begun = {n for row in rows() for n in row.theirs if n.startswith(_spelt(name))}
    found = {id(row): row for n in begun if (row := find(n, verb))}
    return next(iter(found.values())) if len(found) == 1 else None


def _is_option(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not re.match(r"-[\d.]", text)


def _taken(rest: list[str], row: Row, name: str) -> list[str]:
    """Take the values of a foreign option from the arguments after it."""
    values: list[str] = []
    if _spelt(name) in FLAGS_OF_OTHERS:
        return values
    # a flag in timm, a path in edgeai-torchvision
    if name == "--pretrained" and rest and not re.search(r"[/.:]|^(True|False)$", rest[0]):
        return values
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
