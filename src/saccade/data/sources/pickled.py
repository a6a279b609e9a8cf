"""The plain values of a Python 2 pickle, read without ``pickle``: nothing in the file can name code
that runs.

CIFAR's official batches are pickles of protocol 2. Only what those hold is understood: numbers,
strings, lists, tuples, dictionaries, and one kind of object, an array of bytes, which stays a view
of the file. *Source:* the opcodes of CPython's ``pickletools``; the state of
``numpy.ndarray.__reduce__``.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

OPCODES_LIMIT = 2_000_000
"""CIFAR-100's training file has about 250,000; each may take some 60 bytes of memory."""


class _Piece(Enum):
    """The parts of a pickled array. A file may mention only the first three by name."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"
    EMPTY_ARRAY = ""
    BYTES = "u1"


def plain_values(data: bytes | memoryview) -> dict[Any, Any]:
    """Return the dictionary in a pickle: strings are ``bytes``, arrays are uint8 of shape (n, m).

    Raises ValueError on damage, on any other object or function that the file names, and if it is
    no dictionary.
    """
    reader = _Reader(memoryview(data))
    try:
        value = reader.value()
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged before byte {reader.place}") from error
    if not isinstance(value, dict):
        raise ValueError("it does not contain a dictionary")
    return value


class _Reader:
    """The stack machine of a pickle, without the instructions that CIFAR does not use."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.place = view, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def value(self) -> Any:
        if bytes(self.take(2)) != b"\x80\x02":
            raise ValueError("it is not a pickle of protocol 2")
        for _ in range(OPCODES_LIMIT):
            code = chr(self.take(1)[0])
            if code == ".":
                return self.stack.pop()
            self.step(code)
        raise ValueError(f"it has more than {OPCODES_LIMIT} instructions")

    def take(self, size: int) -> memoryview:
        piece = self.view[self.place : self.place + size]
        if len(piece) < size:
            raise ValueError("the file ends too early")
        self.place += size
        return piece

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, code: str) -> None:
        stack, memo = self.stack, self.memo

        # the opcodes that a batch of images needs, as the module pickletools names them
        match code:
            case "K" | "M":
                stack.append(self.number(1 if code == "K" else 2))
            case "U":
                stack.append(bytes(self.take(self.number(1))))
            case "q":
                memo[self.number(1)] = stack[-1]
            case "r":
                memo[self.number(4)] = stack[-1]
            case "h" | "j":
                stack.append(memo[self.number(1 if code == "h" else 4)])
            case "J":
                stack.append(self.number(4, signed=True))
            case "T":
                stack.append(self.take(self.number(4)))
            case "N" | "\x88" | "\x89":
                stack.append({"N": None, "\x88": True, "\x89": False}[code])
            case "]" | "}" | ")":
                stack.append([] if code == "]" else {} if code == "}" else ())

            # what follows a mark becomes one tuple, or is added to a list or a dict
            case "(":
                self.marks.append(len(stack))
            case "t" | "\x85" | "\x86" | "\x87":
                if code != "t":
                    self.marks.append(len(stack) - (ord(code) - 0x84))
                stack.append(tuple(self.since_mark()))
            case "a":
                item = stack.pop()
                stack[-1].append(item)
            case "e":
                items = self.since_mark()
                stack[-1].extend(items)
            case "s" | "u":
                if code == "s":
                    self.marks.append(len(stack) - 2)
                items = self.since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))

            case "c" | "R" | "b":
                self.object_step(code)
            case _:
                raise ValueError(
                    f"the instruction {code!r} before byte {self.place} is not allowed there"
                )

    def object_step(self, code: str) -> None:
        """Name, call or fill an object.

        Nothing is really called: an array of bytes is recognised step by step.
        """
        if code == "c":
            name = f"{self.line()} {self.line()}".replace("numpy._core", "numpy.core")
            known = {
                piece.value: piece for piece in (_Piece.RECONSTRUCT, _Piece.NDARRAY, _Piece.DTYPE)
            }
            if name not in known:
                raise ValueError(
                    f"it tries to use '{name}', which image data does not need; no code was run"
                )
            self.stack.append(known[name])
            return

        state, target = self.stack.pop(), self.stack.pop()
        if code == "R" and target is _Piece.RECONSTRUCT and state[0] is _Piece.NDARRAY:
            self.stack.append(_Piece.EMPTY_ARRAY)
        elif code == "R" and target is _Piece.DTYPE and state[0] == b"u1":
            self.stack.append(_Piece.BYTES)
        elif code == "b" and target is _Piece.BYTES:
            self.stack.append(target)
        elif (
            code == "b"
            and target is _Piece.EMPTY_ARRAY
            and len(state[1]) == 2
            and state[2] is _Piece.BYTES
        ):
            self.stack.append(
                np.frombuffer(state[4], np.uint8).reshape(state[1], order="F" if state[3] else "C")
            )
        else:
            raise ValueError(
                f"before byte {self.place} it creates an object that is not an array of bytes"
            )

    def line(self) -> str:
        """Read a name up to its line end."""
        text = bytes(self.view[self.place : self.place + 200]).split(b"\n", 1)[0]
        self.place += len(text) + 1
        return text.decode("ascii")
