"""Settings from several places, merged in order into one configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from saccade import files
from saccade.config import plain_yaml
from saccade.config.augment import AugmentSection as AugmentSection
from saccade.config.schema import Config, fields, flatten, kinds
from saccade.errors import ConfigError
from saccade.printable import plain

LONGEST_NAME = 8
"""Parts of a dotted name; no setting lies as deep."""


class Layers:
    """Settings from several places, merged in order.

    Remembers where each came from, for the error messages.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._origin: dict[str, str] = {}

    def add(self, tree: Mapping[str, Any], origin: str) -> None:
        """Merge nested settings over what is there; raises ConfigError at the first unknown key."""
        known = kinds()
        for name, value in flatten(tree).items():
            if name not in known:
                raise _unknown(name, origin)
            self._values[name] = value
            self._origin[name] = origin

    def merge(self, other: Layers) -> None:
        """Merge other layers over these."""
        self._values |= other._values
        self._origin |= other._origin

    def add_file(self, path: Path) -> None:
        """Merge a YAML file.

        Raises ConfigError naming file and line when it is not YAML or not a mapping.
        """
        try:
            tree = plain_yaml.load(files.read_text(path, plain_yaml.LIMIT_BYTES))
        except (OSError, ValueError) as error:
            line = (
                f", line {error.line}"
                if isinstance(error, plain_yaml.BadYaml) and error.line
                else ""
            )
            raise ConfigError(
                f"the file cannot be read: {error}",
                where=f"{path}{line}",
                fix="correct the YAML there",
            ) from error
        if not isinstance(tree, dict):
            raise ConfigError(
                "the file must hold `name: value` settings",
                where=str(path),
                fix="`saccade recipes digits` prints an example",
            )
        # what a recipe says of itself, and what a run chose by itself, are no settings
        tree = {k: v for k, v in tree.items() if k not in ("about", "source", "claims", "resolved")}
        self.add({"recipe": str(path.stem), **tree}, str(path))

    def set(self, assignment: str) -> None:
        """Merge one ``section.key=value``; the value is read as YAML."""
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(
                f"'{_short(assignment)}' is not an assignment",
                where="--set",
                fix="write --set section.key=value",
            )

        try:
            value = plain_yaml.load(text) if text else ""
        except plain_yaml.BadYaml as error:
            raise ConfigError(
                f"'{_short(text)}' is not a YAML value: {error}",
                where=f"--set {_short(name)}",
                fix=(
                    "write a name, a number, true, false, null, [a, b] or {name: value}; a text "
                    "may be in quotes"
                ),
            ) from error

        tree: Any = value
        parts = name.strip().split(".")
        if len(parts) > LONGEST_NAME:
            raise _unknown(_short(name), "--set")
        for part in reversed(parts):
            tree = {part: tree}
        self.add(tree, f"--set {_short(assignment)}")

    def resolve(self) -> Config:
        """Check everything and return the one configuration.

        Raises ConfigError in one clear line.
        """
        tree: dict[str, Any] = {}
        for name, value in self._values.items():
            inner = tree
            *sections, last = name.split(".")
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = value
        try:
            return Config.model_validate(tree)
        except ValidationError as error:
            raise self._explain(error) from error

    def value(self, name: str) -> Any:
        """Return a setting as it was given, None for a default."""
        return self._values.get(name)

    def forget(self, name: str) -> None:
        """Go back to the default of a setting."""
        self._values.pop(name, None)
        self._origin.pop(name, None)

    def origin(self, name: str) -> str:
        """Return where a setting came from, empty for a default."""
        return self._origin.get(name, "")

    def names(self) -> list[str]:
        """Return the settings that were given, in their order."""
        return list(self._values)

    def _explain(self, error: ValidationError) -> ConfigError:
        first = error.errors()[0]
        parts = [str(p) for p in first["loc"] if not isinstance(p, int)]
        name = ".".join(parts)
        # a rule over several fields: its message starts with the field's name
        if name not in self._origin:
            name = str(first["msg"]).removeprefix("Value error, ").split(":")[0]
        if name not in kinds():
            return ConfigError(str(first["msg"]))
        message = plain(str(first["msg"])).removeprefix(name + ": ")
        given = _short(repr(self._values.get(name)))
        return ConfigError(
            f"{name}: {message}" + ("" if given in message else f" (got {given})"),
            where=self._origin.get(name, "defaults"),
            fix=f"change {name} ({next(doc for n, _, doc, _ in fields() if n == name)})",
        )


def _short(text: str, limit: int = 200) -> str:
    """Cut what a user gave to what fits into a message."""
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _unknown(name: str, origin: str) -> ConfigError:
    known = list(kinds())
    if inside := [k for k in known if k.startswith(f"{name}.")]:
        what, some = f"'{name}' is a section, not a setting", ", ".join(inside[:4])
        return ConfigError(
            what, where=origin, fix=f"set one of its settings ({some} ...), or remove '{name}'"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        # the right name in the wrong section
        near = [k for k in known if k.split(".")[-1] == name.split(".")[-1]][:1]
    return ConfigError(
        f"unknown setting '{name}'",
        where=origin,
        fix=f"did you mean '{near[0]}'?"
        if near
        else "`saccade train --dry-run` prints every setting",
    )
