"""Data that plug-ins open: functions that other packages name in the group ``saccade.sources``."""

from __future__ import annotations

from saccade import plugins
from saccade.data.sources.split import Source
from saccade.errors import SaccadeError


def open_plugged(spec: str) -> Source | None:
    """Return the source from the first plug-in that knows this name or path; None if none does.

    Each is a function that gets the text behind ``--data`` and returns a source, or None. One that
    fails is named in a warning, and the next is asked; its own refusals, a SaccadeError, are told.
    """
    for name in plugins.names(plugins.SOURCES):
        opener = plugins.load(plugins.SOURCES, name)
        if opener is None:
            continue

        try:
            found = opener(spec)
        except SaccadeError:
            raise
        except (Exception, SystemExit) as error:  # any code may run here
            what = f"fails on '{spec}': {type(error).__name__}: {error}"
            plugins.warn(plugins.SOURCES, name, what)
            continue

        if isinstance(found, Source):
            return found
        if found is not None:
            what = f"returned a {type(found).__name__} for '{spec}', not a saccade Source or None"
            plugins.warn(plugins.SOURCES, name, what)
    return None
