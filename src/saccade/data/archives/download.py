"""Files of public datasets from the network: continued after a cut, and checked.

A file has its name only when it is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from saccade import files
from saccade.errors import ConfigError, DataError, DiskError
from saccade.log import Log
from saccade.units import human_size

TIMEOUT_S = 30.0
"""How long a server may be silent."""

ROUNDS = 3
"""How often all mirrors are tried again without a single new byte."""

PAUSE_S = 1.0
WAIT_S = 3600.0
"""How long another process may take."""

BLOCK_BYTES = 1 << 20
SPARE_BYTES = 50_000_000
_MEGABYTE = 1_000_000
_TRY_AGAIN = (408, 416, 429)


class _Useless(Exception):
    """This address will not give the file, however often it is asked."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file in the network: size in bytes, MD5 (32 hexadecimal digits), addresses, best first."""

    name: str
    size_bytes: int
    md5: str
    addresses: tuple[str, ...]


def fetch(remotes: Sequence[Remote], folder: Path, page: str, log: Log) -> None:
    """Bring the files that are not in ``folder`` yet; ``page`` is where a person would find them.

    Of several processes one downloads while the others wait. What has arrived before a crash or a
    cut connection is not asked for again. Raises DataError when no mirror gives a file as it should
    be, and DiskError.
    """
    with _alone(folder, log):
        # looked for under the lock: another process may have brought them meanwhile
        missing = [remote for remote in remotes if not (folder / remote.name).exists()]
        parts = [files.Partial(folder / remote.name) for remote in missing]
        total = sum(remote.size_bytes for remote in missing)
        arrived = sum(part.size for part in parts)
        if files.free_bytes(folder) < total - arrived + SPARE_BYTES:
            raise DiskError(
                f"there is not enough space for {human_size(total - arrived)}",
                where=str(folder),
                fix="free some space",
            )
        with log.progress("downloading, MB", -(-total // _MEGABYTE)) as bar:
            bar.start_at(arrived // _MEGABYTE)
            whole = 0
            for place, (remote, part) in enumerate(zip(missing, parts, strict=True)):

                def tick(size_bytes: int, before: int = whole, name: str = remote.name) -> None:
                    bar.update((before + size_bytes) // _MEGABYTE, name)

                if reasons := _fetch(remote, part, tick):
                    raise _unavailable(missing[place:], folder, page, reasons)
                whole += remote.size_bytes


def _unavailable(
    missing: Sequence[Remote], folder: Path, page: str, reasons: dict[str, str]
) -> DataError:
    wanted = ", ".join(
        f"{remote.name} ({human_size(remote.size_bytes)}, MD5 {remote.md5})" for remote in missing
    )
    return DataError(
        f"{missing[0].name} could not be downloaded",
        where="; ".join(f"{address}: {reason}" for address, reason in reasons.items()),
        fix=f"try again, or get {wanted} from {page} and put it into {folder}",
    )


@contextmanager
def _alone(folder: Path, log: Log) -> Iterator[None]:
    """Hold the lock of a folder, after the process that holds it now."""
    begun = said = time.monotonic()
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(files.locked(folder))
                break
            except ConfigError as error:
                if said == begun:
                    log.say(f"waiting: {error.what} ({folder})")
                said = time.monotonic()
                if said - begun > WAIT_S:
                    raise
                time.sleep(0.2)
        yield


def _fetch(remote: Remote, part: files.Partial, tick: Callable[[int], None]) -> dict[str, str]:
    """Try the mirrors in turn until the file is there; returns why each failed, or nothing."""
    useful = list(remote.addresses)
    reasons: dict[str, str] = {}
    most, rounds = part.size, 0
    while useful and rounds < ROUNDS:
        for address in tuple(useful):
            try:
                _receive(address, remote, part, tick)
                part.publish()
                return {}
            except _Useless as error:
                # other addresses may still have the right file
                useful.remove(address)
                reasons[address] = str(error)
            except (OSError, HTTPException, ValueError) as error:
                reasons[address] = str(error)

        # A round that brought bytes is progress: a slow mirror is not a failing one.
        rounds = 0 if part.size > most else rounds + 1
        most = max(most, part.size)
        if useful and 0 < rounds < ROUNDS:
            time.sleep(PAUSE_S * rounds)
    return reasons


def _receive(
    address: str, remote: Remote, part: files.Partial, tick: Callable[[int], None]
) -> None:
    """Complete a file from one address.

    Raises _Useless, or an error after which it may be tried again.
    """
    if part.size > remote.size_bytes:
        part.clear()
    begun = part.size
    if begun < remote.size_bytes:
        _transfer(address, remote.size_bytes, part, tick)

    # A continued file may have got its two halves from two versions: it is tried anew.
    if files.digest(part.path, "md5") != remote.md5:
        part.clear()
        if begun:
            raise ConnectionError("the continued file has another MD5")
        raise _Useless(f"the file has another MD5 than {remote.md5}")


def _transfer(
    address: str, size_bytes: int, part: files.Partial, tick: Callable[[int], None]
) -> None:
    begun = part.size
    headers = {"User-Agent": "saccade"} | ({"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urlopen(Request(address, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        # the server has less than we do: our part is not of this file
        if error.code == 416:
            part.clear()
        if 400 <= error.code < 500 and error.code not in _TRY_AGAIN:
            raise _Useless(str(error)) from error
        raise

    with answer:
        continued = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {begun}-"
        )
        offered = int(answer.headers.get("Content-Length", size_bytes)) + (
            begun if continued else 0
        )

        if offered != size_bytes:
            # refused before a byte is written: an error page would spoil what has arrived
            raise _Useless(f"it offers a file of {offered} bytes instead of {size_bytes}")
        # It ignored the range and begins anew.
        if begun and not continued:
            part.clear()

        # A server may send more or less than it said.
        while block := answer.read1(BLOCK_BYTES):
            part.append(block)
            tick(part.size)
            if part.size > size_bytes:
                raise _Useless(f"it sends more than {size_bytes} bytes")
    if part.size < size_bytes:
        raise ConnectionError(f"the connection was cut after {part.size} of {size_bytes} bytes")
