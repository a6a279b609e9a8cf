"""The version: the only place where it is defined, and how to get a newer one."""

__version__ = "0.1.0"

UPDATE = "pip install --upgrade saccade-train"
"""The command that installs the newest version."""


def is_newer(other: str) -> bool:
    """Tell whether a version such as ``0.2.1`` is newer than this one; not for what is none."""
    try:
        theirs, ours = ([int(part) for part in v.split(".")] for v in (other, __version__))
    except ValueError:
        return False
    return theirs > ours
