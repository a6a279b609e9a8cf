"""Images with any number of labels: each distinct set of labels is a class of the split.

A set is written ``{cat, dog}``, an image without labels has ``{}``. So names, order, fingerprint,
packs and prepared folders of such a set need nothing of their own, and what reads them again finds
the labels in the names of the classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FORBIDDEN = frozenset("{}[](),|;'\"")
"""Characters that a label of a set must not contain: it would be read as several labels, or as part
of a list.
"""


def written(labels: Iterable[str]) -> str:
    """Return the name of a set of labels: ``{cat, dog}``."""
    return "{" + ", ".join(sorted(set(labels))) + "}"


def are_sets(classes: Sequence[str]) -> bool:
    """Tell whether all classes of a split are sets of labels."""
    return bool(classes) and all(name[:1] == "{" and name[-1:] == "}" for name in classes)


def labels_in(name: str) -> tuple[str, ...]:
    """Return the labels of a set, sorted; of a plain class the class itself."""
    if not are_sets([name]):
        return (name,)
    return tuple(label for label in name[1:-1].split(", ") if label)
