"""Text made safe to show: characters that would act on a terminal are written out, ``\\x1b``.

Names come from archives of strangers. A control character in one can clear the screen, rename the
window or hide a line; a mark of writing direction turns round what stands behind it; a cell that
begins with ``=`` is a formula in a spreadsheet.
"""

from __future__ import annotations

import json
from typing import Any

_JOINERS = "\u200c\u200d"  # needed to spell Persian and the languages of India, and in emoji
_SPACES = (
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_PLAIN = {
    "Input should be": "it must be",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "a valid string": "a text",
}


def printable(text: str, keep: str = "\n\t") -> str:
    """Return a text with all invisible characters written out, except those in ``keep``.

    A byte of a file name that is no UTF-8 becomes ``\\xe9``, as every character below 256.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep or c in _JOINERS or c in _SPACES else _written(c)
        for c in text
    )


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python stands for a byte that is no UTF-8
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def to_json(value: Any) -> str:
    """Return one line of JSON that shows on a terminal what it means.

    Raises ValueError on NaN and infinity.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    safe = (
        c if c.isprintable() or c in _JOINERS or c in _SPACES else json.dumps(c)[1:-1] for c in text
    )
    return "".join(safe)


def cell(text: str, *, path: bool = False) -> str:
    """Return what a spreadsheet shows instead of computing it: ``'=1+1``, a path ``./=1+1``."""
    shown = printable(text, keep="")
    if not text.startswith(_FORMULA):
        return shown
    return f"./{shown}" if path else f"'{shown}"


def plain(message: str) -> str:
    """Return what pydantic says about a bad value in the words of this program."""
    message = message.removeprefix("Value error, ").partition(", unable to ")[0]
    for theirs, ours in _PLAIN.items():
        message = message.replace(theirs, ours)
    return message
