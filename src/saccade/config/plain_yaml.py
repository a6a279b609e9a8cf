"""The one reader of YAML: names, numbers, texts, lists and mappings.

Nothing that YAML can do beyond that.

Settings come from strangers, too: with a recipe, or in a run folder. Tags would choose how a value
is made, anchors let a few bytes stand for a gigabyte, and deep nesting fills the stack. None of
that is needed to write settings.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

LIMIT_BYTES = 1 << 18
"""Settings are a few kB; the parser reads some 100 kB in a second."""

LIMIT_DEPTH = 32

_LEFT_OUT = ("timestamp", "merge", "value")
"""Kinds of words that have no place in settings: a date is a text here, ``<<`` and ``=`` are
ordinary names.
"""

_OLD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""What YAML 1.1 counts in eights and sixties: ``012`` would be 10, and ``1:30`` would be 90."""


class BadYaml(ValueError):
    """A text that is no plain YAML.

    The message is the reason, ``line`` counts from 1, 0 where unknown.
    """

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


def load(text: str) -> Any:
    """Read one document.

    Raises BadYaml on everything that is not plain, too large, too deep or twice there.
    """
    if len(text) > LIMIT_BYTES:
        raise BadYaml(f"the text is longer than {LIMIT_BYTES:,} characters")
    loader: _Plain | None = None
    try:
        loader = _Plain(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadYaml(reason, mark.line + 1 if mark else 0) from error
    except (ValueError, OverflowError) as error:  # `0x_` looks like a number, and is none
        line = loader.line if loader is not None else 0
        raise BadYaml(
            "a word looks like a number but is not one; put it in quotes", line
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader without tags, anchors, aliases, dates and merges, to a bounded depth."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own table, by first letter
        letter: [(tag, pattern) for tag, pattern in found if not tag.endswith(_LEFT_OUT)]
        for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.line = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse before anything is built."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        # looked at before it is built: a few bytes of aliases can stand for gigabytes
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse(
                "anchors (&) and aliases (*) are not supported; write the value out", event
            )
        if event.tag is not None:
            self._refuse(
                f"tags such as {event.tag[:40]} are not supported; write the plain value", event
            )
        self.depth += 1
        if self.depth > LIMIT_DEPTH:
            self._refuse(f"the settings are nested deeper than {LIMIT_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Read as text what only YAML 1.1 takes for a number, as YAML 1.2 does.

        Its setting says what it takes.
        """
        if kind is yaml.ScalarNode and implicit[0] and _OLD_NUMBER.fullmatch(value):
            return "tag:yaml.org,2002:str"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Remember the line for what Python itself finds wrong with a number."""
        self.line = node.start_mark.line + 1
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a name that is there twice: the first value would be lost without a word."""
        mapping = super().construct_mapping(node, deep)
        # the mapping is shorter than what was written: a name was there twice
        if len(mapping) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), names[0])
            raise yaml.MarkedYAMLError(
                problem=f"'{twice[:80]}' is set twice", problem_mark=node.start_mark
            )
        return mapping

    def _refuse(self, reason: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)
