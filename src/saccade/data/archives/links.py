"""Links inside an archive: another name for a member, or a link outwards that is not followed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from saccade.data.archives.paths import clean_name

CHAIN_LIMIT = 40
"""Links that one after the other may lead to a file, as on Linux."""

GROWTH_LIMIT = 10
"""How many times as many files an archive may show through links to its folders as it holds."""


class Link(NamedTuple):
    """A link called ``name``.

    The target of a hard link starts at the archive, of a symbolic one at its folder.
    """

    name: str
    target: str
    symbolic: bool

    @property
    def kind(self) -> str:
        """What it is called."""
        return "symbolic link" if self.symbolic else "hard link"

    @property
    def aim(self) -> str:
        """The name of its target, without any ``..``. Empty if that is outside the archive."""
        parts = self.name.split("/")[:-1] if self.symbolic else []
        if self.target.startswith("/"):
            return ""
        for part in self.target.split("/"):
            if part == ".." and not parts:
                return ""
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        try:
            return clean_name("/".join(parts))
        except ValueError:
            return ""


def follow(
    links: Sequence[Link], places: Mapping[str, int]
) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Return the names that links give to files, and why the other links are broken.

    ``places`` are those of the files by name. A link to a folder gives names to all files in it. A
    file that links to itself, as tar writes a repeated file, is not a second file.
    """
    aims = {link.name: link.aim for link in links}
    found: dict[tuple[str, int], None] = {}
    lost: dict[str, str] = {}
    rest: dict[Link, str] = {}
    for link in links:
        aim, steps = link.aim, 0
        # a link may lead to a link; a circle is found by counting
        while aim in aims and aim not in places and steps < CHAIN_LIMIT:
            aim, steps = aims[aim], steps + 1
        if aim in places:
            found[link.name, places[aim]] = None
        elif steps == CHAIN_LIMIT:
            lost[link.name] = f"{link.kind} in a circle"
        else:
            rest[link] = aim

    # Sorted names put the contents of a folder side by side: two searches find them.
    names = sorted([*places.items(), *found])

    def inside(aim: str) -> list[tuple[str, int]]:
        return (
            # "0" is the character behind "/", so these two bounds enclose all names in the folder
            names[bisect_left(names, (f"{aim}/", -1)) : bisect_left(names, (f"{aim}0", -1))]
            if aim
            else []
        )

    # A folder of links to folders of links can show millions of files: both are bounded.
    folders = sorted(f"{link.name}/" for link, aim in rest.items() if inside(aim))
    budget = GROWTH_LIMIT * len(places)
    for link, aim in rest.items():
        files = inside(aim)
        nested = bisect_left(folders, f"{aim}/") < bisect_left(folders, f"{aim}0")
        budget -= len(files)
        if not files:
            lost[link.name] = (
                f"{link.kind} to a missing file" if aim else f"{link.kind} out of the archive"
            )
        elif nested or budget < 0:
            lost[link.name] = f"{link.kind} to a folder with links to folders"
        else:
            found |= {(link.name + name[len(aim) :], place): None for name, place in files}
    return [(name, place) for name, place in found if places.get(name) != place], lost
