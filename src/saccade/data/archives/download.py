"""Downloads of public data sets: continued after an interruption, and checked.

A file gets its name only when it is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError

from saccade import files
from saccade.data.archives import ranges
from saccade.data.archives.ranges import FAILURES, Changed, NoParts, Useless
from saccade.errors import ConfigError, DataError, DiskError
from saccade.log import Log
from saccade.system import doors
from saccade.units import human_size

ROUNDS = 3
"""Number of attempts on all mirrors without a single new byte."""

CONNECTIONS = 4
WAIT_S = 3600.0
"""Longest wait for another process, in seconds."""

SPARE_BYTES = 50_000_000
_MEGABYTE = 1_000_000

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A file in the network: size in bytes, MD5 (32 hexadecimal digits), addresses, best first.

    The size is None if only the server knows it. ``md5`` and ``sha256`` (64 digits) are empty if
    they were not published.
    """

    name: str
    size_bytes: int | None
    md5: str
    addresses: tuple[str, ...]
    sha256: str = ""

    @property
    def checksum(self) -> tuple[str, str]:
        """The kind of the strongest checksum that is known, and its digits; both may be empty."""
        return ("sha256", self.sha256) if self.sha256 else ("md5" * bool(self.md5), self.md5)


def fetch(
    remotes: Sequence[Remote], folder: Path, page: str, log: Log, connections: int = CONNECTIONS
) -> None:
    """Download the files that are not in ``folder`` yet; ``page`` is the web page for people.

    Of several processes one downloads while the others wait. Bytes that arrived before a crash or
    an interruption are not requested again. A large file uses several ``connections`` if the server
    allows it. Raises DataError if no mirror returns a correct file, and DiskError.
    """
    with _alone(folder, log):
        # looked for under the lock: another process may have brought them meanwhile
        missing = [remote for remote in remotes if not (folder / remote.name).exists()]
        missing = [measured(remote, folder, page) for remote in missing]
        parts = [files.Partial(folder / remote.name) for remote in missing]
        total = sum(remote.size_bytes or 0 for remote in missing)
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

                if reasons := _fetch(remote, part, tick, connections):
                    raise _unavailable(missing[place:], folder, page, reasons)
                whole += remote.size_bytes or 0


def measured(remote: Remote, folder: Path, page: str) -> Remote:
    """Return a file with its size, which is requested from the server if unknown."""
    reasons: dict[str, str] = {}
    for attempt in range(ROUNDS):
        for address in remote.addresses if remote.size_bytes is None else ():
            try:
                # one byte tells it, and is no request that a signed address would refuse
                answer, offer = ranges.opened(address, 0, 1)
                answer.close()
                if not offer.has_end and not any(remote.checksum):
                    raise Useless("it does not say how long the file is: nobody would notice a cut")
                return replace(remote, size_bytes=offer.size_bytes)
            except (Useless, *FAILURES) as error:
                reasons[address] = _words(error)
                if isinstance(error, Useless) and len(remote.addresses) == 1:
                    raise _unavailable([remote], folder, page, reasons) from error
        if reasons and attempt < ROUNDS - 1:
            time.sleep(ranges.PAUSE_S * (attempt + 1))
    if reasons:
        raise _unavailable([remote], folder, page, reasons)
    return remote


def _words(error: Exception) -> str:
    return str(error.reason) if type(error) is URLError else str(error)


def _unavailable(
    missing: Sequence[Remote], folder: Path, page: str, reasons: dict[str, str]
) -> DataError:
    wanted = ", ".join(f"{remote.name} ({_known(remote)})" for remote in missing)
    by_hand = f", or get {wanted} from {page} and put it into {folder}" if page else ""
    return DataError(
        f"{missing[0].name} could not be downloaded",
        # what stands behind the "?" may be a key
        where="; ".join(f"{at.partition('?')[0]}: {reason}" for at, reason in reasons.items()),
        fix=f"try again: what has arrived is kept{by_hand}"
        if page
        else "check the network and the address; the same command continues the download",
    )


def _known(remote: Remote) -> str:
    size = human_size(remote.size_bytes) if remote.size_bytes is not None else "size unknown"
    kind, digits = remote.checksum
    return f"{size}, {kind.upper()} {digits}" if kind else f"{size}, checksum unknown"


@contextmanager
def _alone(folder: Path, log: Log) -> Iterator[None]:
    """Hold the lock of a folder, after waiting for the process that has it."""
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


def _fetch(remote: Remote, part: files.Partial, tick: Tick, connections: int) -> dict[str, str]:
    """Try one mirror after the other until the file is there; returns why each failed, or
    nothing."""
    useful = list(remote.addresses)
    reasons: dict[str, str] = {}
    most, rounds = part.size, 0
    while useful and rounds < ROUNDS:
        for address in tuple(useful):
            try:
                _receive(address, remote, part, tick, connections=connections)
                part.publish()
                doors.remove(_note(part))
                return {}
            except Useless as error:
                # other addresses may still have the right file
                useful.remove(address)
                reasons[address] = str(error)
            except Changed:
                part.clear()
                reasons[address] = "the file changes on the server while it is downloaded"
            except FAILURES as error:
                reasons[address] = _words(error)

        # A round that brought bytes is progress: a slow mirror is not a failing one.
        rounds = 0 if part.size > most else rounds + 1
        most = max(most, part.size)
        if useful and 0 < rounds < ROUNDS:
            time.sleep(ranges.PAUSE_S * rounds)
    return reasons


def _receive(
    address: str, remote: Remote, part: files.Partial, tick: Tick, *, connections: int
) -> None:
    """Complete a file from one address.

    Raises Useless, Changed, or an error after which a retry makes sense.
    """
    size, (kind, digits) = remote.size_bytes, remote.checksum
    if size is not None and part.size > size:
        part.clear()
    begun = part.size
    if size is None or begun < size:
        _transfer(address, remote, part, tick, connections=connections)
    if not kind:
        return

    # A continued file may have got its two halves from two versions: it is tried anew.
    if files.digest(part.path, kind) != digits:
        part.clear()
        if begun:
            raise ConnectionError(f"the continued file has a different {kind.upper()}")
        raise Useless(f"the {kind.upper()} of the file is not {digits}")


def _transfer(
    address: str, remote: Remote, part: files.Partial, tick: Tick, *, connections: int
) -> None:
    begun, size = part.size, remote.size_bytes
    try:
        answer, offer = ranges.opened(address, begun)
    except HTTPError as error:
        # the server has less than we do: our part is not of this file
        if error.code == 416:
            part.clear()
        raise

    with answer:
        if offer.size_bytes not in (None, size) and size is not None:
            # refused before a byte is written: an error page would spoil what has arrived
            raise Useless(f"it offers a file of {offer.size_bytes} bytes instead of {size}")
        is_same = any(remote.checksum) or (offer.version and offer.version == _version(part))
        if begun and not (offer.is_part and is_same):
            # it ignored the range and begins anew, or has another version
            part.clear()
        if begun and offer.is_part and not is_same:
            raise Changed
        if not part.size:
            _note_version(part, offer.version)

        left = size - part.size if size is not None else 0
        if not (connections > 1 and offer.gives_parts and left > 2 * ranges.PART_BYTES):
            _stream(answer, part, tick, size)
            return
    # the first answer has told what there is; its body is left to the connections
    try:
        for block in ranges.parts(
            address,
            part.size,
            part.size + left,
            version=offer.version,
            connections=connections,
        ):
            part.append(block)
            tick(part.size)
    except NoParts:
        _transfer(address, remote, part, tick, connections=1)


def _stream(answer: HTTPResponse, part: files.Partial, tick: Tick, size_bytes: int | None) -> None:
    # A server may send more or less than it said.
    while block := answer.read1(ranges.BLOCK_BYTES):
        part.append(block)
        tick(part.size)
        if size_bytes is not None and part.size > size_bytes:
            raise Useless(f"it sends more than {size_bytes} bytes")
    if size_bytes is not None and part.size < size_bytes:
        raise ConnectionError(f"the connection was cut after {part.size} of {size_bytes} bytes")


def _version(part: files.Partial) -> str:
    """Return the version on the server whose beginning has arrived, empty where none is noted."""
    try:
        return files.read_text(_note(part), 10_000)
    except (OSError, ValueError):
        return ""


def _note_version(part: files.Partial, version: str) -> None:
    """Note a version before its first byte is written, so that a kill leaves no unknown bytes."""
    files.write_bytes(_note(part), version.encode())


def _note(part: files.Partial) -> Path:
    return part.path.with_suffix(".version")
