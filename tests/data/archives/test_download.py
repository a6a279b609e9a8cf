"""Downloads from a server that cuts, lies, stalls and refuses; every address is on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.range_server import Quiet, Server, serving
from saccade import cache, files
from saccade.data.archives import download, ranges
from saccade.data.archives.download import Remote, fetch
from saccade.data.sources import open_source
from saccade.data.sources.official import OFFICIAL
from saccade.errors import ConfigError, DataError, DiskError
from saccade.log import Log

DATA = np.random.default_rng(1).bytes(3_000_000)
MD5 = hashlib.md5(DATA).hexdigest()
PAGE = "the page of the set"


class Handler(Quiet):
    """Gives a file by its name; the first part of the path says how it misbehaves."""

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        wanted = self.headers.get("Range")
        self.server.asked.append((how, wanted))
        data = self.server.does.content.get(name, b"")
        if how == "absent" or not data:
            self.send_error(404)
            return
        if how == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if how == "html":
            data = b"<html>please log in</html>"
        start = int(wanted[6:-1]) if wanted and how != "no-ranges" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if how != "endless":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if how == "cut":
            end = min(start + 1_000_000, len(data))
        elif how == "silent":
            end = start + 100
        self.wfile.write(data[start:end])
        if how == "silent":
            time.sleep(1.0)
        if how == "endless":
            self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Handler) as made:
        made.does.content = {"set.bin": DATA}
        yield made


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PAUSE_S", 0.01)
    monkeypatch.setattr(ranges, "TIMEOUT_S", 5.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SACCADE_DATA", raising=False)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def remote(server: Server, *ways: str, **changes: Any) -> Remote:
    addresses = tuple(f"{server.site}/{way}/set.bin" for way in ways)
    return replace(Remote("set.bin", len(DATA), MD5, addresses), **changes)


def get(wanted: Remote, folder: Path) -> None:
    fetch([wanted], folder, PAGE, Log(quiet=True))


def ways(server: Server) -> list[str]:
    return [how for how, _ in server.asked]


def test_a_file_arrives_whole_and_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        get(remote(server, "good"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA and server.asked == [("good", None)]
    assert {path.name for path in tmp_path.iterdir()} == {"set.bin", ".lock"}


def test_a_cut_connection_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    get(remote(server, "cut"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_later_process_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    files.Partial(tmp_path / "set.bin").append(DATA[:2_500_000])
    get(remote(server, "good"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA and server.asked == [
        ("good", "bytes=2500000-")
    ]


@pytest.mark.parametrize(
    "left", [DATA[:-1] + b"x", DATA + b"too much", b"rotten" + DATA[6:2_000_000], DATA]
)
def test_what_was_left_is_never_trusted(server: Server, tmp_path: Path, left: bytes) -> None:
    files.Partial(tmp_path / "set.bin").append(left)
    get(remote(server, "good"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA
    assert len(server.asked) == (0 if left == DATA else 1 + (len(left) < len(DATA)))


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    files.Partial(tmp_path / "set.bin").append(b"other" * 1000)
    get(remote(server, "no-ranges"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA and server.asked == [
        ("no-ranges", "bytes=5000-")
    ]


def test_other_mirrors_are_asked_when_one_is_useless(server: Server, tmp_path: Path) -> None:
    get(remote(server, "absent", "wrong", "html", "endless", "good"), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == DATA
    assert ways(server) == ["absent", "wrong", "html", "endless", "good"]


def test_a_silent_server_is_left_for_another(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "TIMEOUT_S", 0.2)
    get(remote(server, "silent", "good"), tmp_path)
    assert server.asked == [("silent", None), ("good", "bytes=100-")]
    assert (tmp_path / "set.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("way", "reason", "times"),
    [
        ("wrong", "the MD5 of the file is not", 1),
        ("absent", "404", 1),
        ("html", "26 bytes instead of 3000000", 1),
    ],
)
def test_no_file_appears_without_its_checksum(
    server: Server, tmp_path: Path, way: str, reason: str, times: int
) -> None:
    with pytest.raises(DataError, match=r"set\.bin could not be downloaded") as caught:
        get(remote(server, way), tmp_path)
    assert reason in caught.value.where and not (tmp_path / "set.bin").exists()
    assert len(server.asked) == times and caught.value.status == 65


def test_without_a_network_it_says_what_to_get_where(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/set.bin"
        two = [Remote(name, 3_000_000, MD5, (address,)) for name in ("one.gz", "two.gz")]
        with pytest.raises(DataError) as caught:
            fetch(two, tmp_path / "place", PAGE, Log(quiet=True))
    for words in ("one.gz (3.0 MB, MD5 ", "two.gz (3.0 MB", MD5, PAGE, str(tmp_path / "place")):
        assert words in caught.value.fix
    assert address in caught.value.where


def test_a_full_disk_is_said_before_and_while_it_fills(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskError, match="not enough space"):
        get(remote(server, "good", size_bytes=10**18), tmp_path)
    assert not server.asked
    if sys.platform != "win32":
        import resource

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, before[1]))
        try:
            with pytest.raises(DiskError, match="File too large"):
                get(remote(server, "good"), tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert ways(server) == ["good"], "a full disk is no reason to ask again"


def test_of_two_processes_one_downloads_and_one_waits(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from saccade.data.archives.download import "
        "Remote, fetch;"
        "from saccade.log import Log;"
        f"fetch([Remote('set.bin', {len(DATA)}, '{MD5}', ('{server.site}/good/set.bin',))],"
        " Path(sys.argv[1]), '', Log())"
    )
    with files.locked(tmp_path):  # the first of three
        others = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        said = [other.stderr.readline() for other in others if other.stderr]
        assert all(f"another process (pid {os.getpid()})" in line for line in said), said
    for other in others:
        assert other.communicate(timeout=60) and other.returncode == 0
    assert ways(server) == ["good"] and (tmp_path / "set.bin").read_bytes() == DATA


def test_waiting_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT_S", 0.1)
    with files.locked(tmp_path), pytest.raises(ConfigError, match="another process"):
        fetch([], tmp_path, PAGE, Log(quiet=True))


def idx(values: Any) -> bytes:
    return (
        bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    )


def small_mnist() -> dict[str, bytes]:
    """Write four idx files in gzip, 30 images each."""
    pixels, labels = np.zeros((30, 28, 28), np.uint8), (np.arange(30) % 10).astype(np.uint8)
    return {
        f"{split}-{what}-ubyte.gz": gzip.compress(idx(values))
        for split in ("train", "t10k")
        for what, values in (("images-idx3", pixels), ("labels-idx1", labels))
    }


def offer(
    server: Server, name: str, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a known name stand for small files of this server."""
    server.does.content = content
    remotes = tuple(
        Remote(file, len(data), hashlib.md5(data).hexdigest(), (f"{server.site}/good/{file}",))
        for file, data in content.items()
    )
    monkeypatch.setitem(OFFICIAL, name, replace(OFFICIAL[name], files=remotes, page=PAGE))


def small_cifar() -> dict[str, bytes]:
    """Write an archive of the binary version, 10 images a batch, one of each class, under the
    official name.
    """
    records = b"".join(bytes([k]) + bytes([k * 20]) * 3072 for k in range(10))
    tree = {f"data_batch_{i}.bin": records for i in range(1, 6)} | {"test_batch.bin": records}
    tree["batches.meta.txt"] = "\n".join("abcdefghij").encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in tree.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return {"cifar-10-python.tar.gz": out.getvalue()}


@pytest.mark.parametrize(
    ("name", "content"),
    [("mnist", small_mnist), ("fashion-mnist", small_mnist), ("cifar10", small_cifar)],
)
@pytest.mark.spec(1)
def test_a_known_name_is_downloaded_once(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: Callable[[], dict[str, bytes]],
) -> None:
    offer(server, name, content(), monkeypatch)
    first = open_source(name)
    again = open_source(name)
    assert len(server.asked) == len(server.does.content)
    assert (
        first.name == name
        and list(first.splits) == ["test", "train"]
        and len(first.splits["train"].classes) == 10
    )
    assert first.splits["train"].fingerprint == again.splits["train"].fingerprint
    assert ("Sneaker" in first.splits["train"].classes) == (name == "fashion-mnist")
    assert Path(first.where).is_relative_to(cache.folder() / "datasets" / name)


def test_what_came_before_a_failure_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, "mnist", small_mnist(), monkeypatch)
    lost = server.does.content.pop("t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="t10k-images") as caught:
        open_source("mnist")
    assert "t10k-labels" in caught.value.fix and "train-images" not in caught.value.fix
    server.does.content["t10k-images-idx3-ubyte.gz"] = lost
    open_source("mnist")
    assert len(server.asked) == 3 + 2


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw"])
def test_data_that_lies_somewhere_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("SACCADE_DATA", str(tmp_path / "sets"))
    with pytest.raises(DataError, match="SACCADE_DATA does not name a folder"):
        open_source("mnist")
    (tmp_path / "sets" / place).mkdir(parents=True)
    for name, data in small_mnist().items():
        (tmp_path / "sets" / place / name).write_bytes(data)
    source = open_source("mnist")
    assert source.where == str(tmp_path / "sets" / place) and len(source.splits["test"]) == 30


def test_the_official_files_are_those_that_torchvision_knows() -> None:
    from torchvision import datasets

    known = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
    }
    for name, theirs in known.items():
        ours = {remote.name: remote.md5 for remote in OFFICIAL[name].files}
        assert ours == (
            dict(theirs.resources) if "mnist" in name else {theirs.filename: theirs.tgz_md5}
        )
