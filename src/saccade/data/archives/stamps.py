"""Stamps: they tell whether files are unchanged, without reading them.

A stamp is a digest of size, times of content and of the entry (mtime, ctime; ns) and inode of every
file. Resetting the mtime after a change does not help: it changes the ctime, which no program can
set.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable
from os import stat_result
from pathlib import Path

import numpy as np

SETTLED_S = 2.0
"""A file that changed less than this ago may change again within one tick of the file system's
clock, which is up to 2 s long (FAT): it has no stamp yet.
"""

FACTS = 4
_WORD = (1 << 64) - 1


def facts_of(status: stat_result) -> tuple[int, int, int, int]:
    """Return (size, mtime in ns, ctime in ns, inode) of a file, each below 2**64."""
    facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    # some file systems report times before 1970 or wider inodes
    return facts[0] & _WORD, facts[1] & _WORD, facts[2] & _WORD, facts[3] & _WORD


def stamp(facts: array[int]) -> str:
    """Return the stamp (64 hexadecimal digits) of files.

    Empty if a file has just changed, or without files.

    ``facts`` holds those of ``facts_of`` one after the other, as unsigned 64-bit integers: 32 MB
    for a million files.
    """
    if not facts:
        return ""

    # Changes within one tick of the clock leave the same times: too early to believe them.
    latest = int(np.frombuffer(facts, np.uint64).reshape(-1, FACTS)[:, 1:3].max())
    if abs(time.time() - latest / 1e9) < SETTLED_S:
        return ""
    return hashlib.sha256(facts.tobytes()).hexdigest()


def stamp_of(paths: Iterable[Path]) -> str:
    """Return the stamp of the files at ``paths``; raises OSError where one is gone."""
    facts = array("Q")
    for path in paths:
        facts.extend(facts_of(path.stat()))
    return stamp(facts)
