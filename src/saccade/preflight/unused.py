"""Splits of the data that a run does not use."""

from __future__ import annotations

from saccade.data.sources import Source
from saccade.findings import Finding
from saccade.training.datasets import Data


def left_out(data: Data) -> list[Finding]:
    """Say which splits of the data are not used."""
    sources: list[Source] = (
        [data.source] if data.val_source is data.source else [data.source, data.val_source]
    )
    findings = []
    for source in sources:
        findings += [Finding("empty-split", "warning", note, source.where) for note in source.notes]
        if source.ignored:
            names = source.ignored_names
            shown = f": {', '.join(names[:4])}{' ...' * (len(names) > 4)}" if names else ""
            findings.append(
                Finding(
                    "ignored-files",
                    "warning" if source.lacks_images else "note",
                    f"{source.ignored_text()}{shown}",
                    source.where,
                    items=names,
                )
            )
    return findings
