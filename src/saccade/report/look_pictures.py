"""The images of the checks of a pretraining, in the report."""

from __future__ import annotations

import io
import re

from PIL import Image

from saccade.report.html import Html, element, image
from saccade.report.record import Record
from saccade.report.sections import section

WIDEST = 1100
"""Pixels of a sheet on the page; a larger one is shown smaller, in all its pixels."""
LARGEST_BYTES = 16_000_000


def shown(record: Record) -> Html:
    """Return the images of the latest check, empty if there are none."""
    columns = record.objective.columns_of_pictures
    folder = record.folder / "visuals"
    sheets = sorted(p for p in folder.glob("step-*.png") if re.fullmatch(r"step-\d+", p.stem))
    if not columns or not sheets or sheets[-1].stat().st_size > LARGEST_BYTES:
        return Html("")

    content, step = sheets[-1].read_bytes(), int(sheets[-1].stem.removeprefix("step-"))
    try:
        with Image.open(io.BytesIO(content)) as opened:
            width = opened.width
    except OSError as error:
        record.problems.append(f"{sheets[-1].name} cannot be read: {error}")
        return Html("")
    said = f"Held-out images after step {step:,}; from left to right: {', '.join(columns)}."
    more = f" visuals/ has the images of {len(sheets)} checks." if len(sheets) > 1 else ""
    drawn = image(content, said, scale=max(width / WIDEST, 1.0), class_="plot")
    note = element("p", said + more, class_="note")
    return section("Images", element("div", drawn, note, class_="card"))
