"""HTML that is escaped by construction: a plain string becomes text, only ``Html`` is used
unchanged.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from PIL import Image

from saccade.printable import printable

_EMPTY = frozenset({"img", "meta"})


class Html(str):
    """Text that is already HTML."""


def element(tag: str, *children: str | Iterable[str], **attributes: str | int) -> Html:
    """Return ``<tag>children</tag>``; children and attributes that are not Html are escaped.

    ``class_`` stands for the attribute ``class``.
    """
    written = "".join(
        f' {name.rstrip("_")}="{_shown(str(value))}"' for name, value in attributes.items()
    )
    if tag in _EMPTY:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[str | Iterable[str]]) -> Html:
    """Put children, or lists of children, one after the other, escaping all that is not Html."""
    parts = (child if isinstance(child, Html) else _text(child) for child in children)
    return Html("".join(parts))


def _text(child: str | Iterable[str]) -> str:
    return _shown(child) if isinstance(child, str) else join(child)


def _shown(text: str) -> str:
    """Escape a text for a page.

    A mark of writing direction in a name would reverse the text beside it.
    """
    return escape(printable(text))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()
) -> Html:
    """Return a table that scrolls sideways on a narrow screen.

    The columns in ``numbers`` are right-aligned.
    """

    def cells(tag: str, row: Sequence[str]) -> Html:
        return element(
            "tr",
            [
                element(tag, c, **({"class_": "n"} if i in numbers else {}))
                for i, c in enumerate(row)
            ],
        )

    body = element("tbody", [cells("td", row) for row in rows])
    return element(
        "div", element("table", element("thead", cells("th", head)), body), class_="scroll"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return a list of names and values; pairs with an empty value are omitted."""
    rows = [
        element("div", element("dt", name), element("dd", value)) for name, value in pairs if value
    ]
    return element("dl", rows, class_="facts")


def image(
    picture: bytes, alt: str, *, dark: bytes | None = None, scale: float = 1.0, class_: str = "plot"
) -> Html:
    """Return an embedded PNG or JPEG.

    ``dark`` is shown instead of it on screens with a dark colour scheme.

    ``scale`` is the number of pixels of the picture to a pixel of the page. The style sheet chooses
    between the two: a browser that prints would not ask a ``<picture>`` again and put the dark one
    on white paper.
    """
    with Image.open(io.BytesIO(picture)) as opened:
        width, height = (round(side / scale) for side in opened.size)
    kinds = (
        {class_: picture} if dark is None else {f"{class_} light": picture, f"{class_} dark": dark}
    )
    shown = [
        element("img", src=_data(content), alt=alt, width=width, height=height, class_=kind)
        for kind, content in kinds.items()
    ]
    return shown[0] if dark is None else element("div", shown, class_="both")


def page(title: str, *sections: Html) -> bytes:
    """Return a complete document without external resources."""
    style = resources.files("saccade.report").joinpath("page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return (
        "<!doctype html>\n<html "
        f'lang="en">{head}{element("body", element("main", sections))}</html>\n'
    ).encode()


def _data(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
