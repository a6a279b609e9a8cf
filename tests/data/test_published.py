"""``saccade download`` against a real server: parts by several connections, kills, changes,
lies; a file has its name only when it is whole, and no file is overwritten.
"""

from __future__ import annotations

import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from console import Done, run_here
from data.range_server import DATA, Server, serving
from saccade import files
from saccade.data import published
from saccade.data.archives import ranges
from saccade.data.archives.download import Remote
from saccade.data.sources import open_source

OTHER = np.random.default_rng(8).bytes(len(DATA))
PART = 1 << 16
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PAUSE_S", 0.01)
    monkeypatch.setattr(ranges, "PART_BYTES", PART)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def get(server: Server, out: Path, *more: str, name: str = "set.bin") -> Done:
    return run_here("download", f"{server.site}/{name}", "--out", str(out), *more)


def started(server: Server, out: Path) -> subprocess.Popen[str]:
    """Start a download in a process of its own, with parts as small as in the other tests."""
    code = (
        "from saccade.data.archives import ranges; from saccade.cli.main import main;"
        f"ranges.PART_BYTES = {PART}; ranges.PAUSE_S = 0.01; main()"
    )
    command = [sys.executable, "-c", code, "download", f"{server.site}/set.bin", "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def places(server: Server, since: int = 0) -> list[int]:
    """Return where the parts begin that the server was asked for, in order."""
    asked = {wanted for _, wanted in server.asked[since:] if wanted and wanted != "bytes=0-0"}
    return sorted(int(one[6:].partition("-")[0]) for one in asked)


def wait_for(path: Path, size_bytes: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size_bytes:
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.01)


@pytest.mark.spec(1)
def test_several_connections_bring_disjoint_parts(server: Server, tmp_path: Path) -> None:
    server.does.block_s = 0.002
    done = get(server, tmp_path, "--connections", "4")
    assert done.status == 0 and (tmp_path / "set.bin").read_bytes() == DATA
    assert server.busiest >= 3
    assert places(server) == list(range(0, len(DATA), PART)), "every part, and nothing twice"
    assert {path.name for path in tmp_path.iterdir()} == {"set.bin", ".lock"}


def test_one_connection_is_enough_where_it_is_asked_for(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path, "--connections", "1").status == 0
    assert (tmp_path / "set.bin").read_bytes() == DATA and server.asked[-1] == ("set.bin", None)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"ranges": False},
        {"keeps_to_ranges": False},
        {"chunked": True, "ranges": False},
        {"etag": "", "date": "Sat, 28 Nov 2026 10:00:00 GMT"},
        {"cut_after": 50_000},
        {"moved": {"here": "/there", "there": "/set.bin"}},
    ],
    ids=lambda behaviour: next(iter(behaviour)),
)
def test_every_kind_of_server_gives_the_same_bytes(
    server: Server, tmp_path: Path, behaviour: dict[str, Any]
) -> None:
    server.does = replace(server.does, **behaviour)
    name = "here" if "moved" in behaviour else "set.bin"
    done = get(server, tmp_path, name=name)
    assert done.status == 0, done.stderr
    assert (tmp_path / name).read_bytes() == DATA and SHA256 in done.stdout


def test_a_file_that_changes_on_the_way_is_never_a_mixture(server: Server, tmp_path: Path) -> None:
    server.does.change_at, server.does.changed = 8, OTHER
    done = get(server, tmp_path)
    assert done.status == 0, done.stderr
    assert (tmp_path / "set.bin").read_bytes() == OTHER


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.spec(1)
def test_after_a_kill_the_same_command_goes_on(
    server: Server, tmp_path: Path, changes: bool
) -> None:
    server.does.block_s = 0.02
    process = started(server, tmp_path)
    wait_for(tmp_path / ".set.bin.partial", 4 * PART)
    process.kill()
    process.communicate()
    arrived = (tmp_path / ".set.bin.partial").stat().st_size
    assert not (tmp_path / "set.bin").exists() and arrived < len(DATA)
    server.does.block_s, before = 0.0, len(server.asked)
    if changes:
        server.does.content, server.does.etag = {"set.bin": OTHER}, '"two"'
    assert get(server, tmp_path).status == 0
    assert (tmp_path / "set.bin").read_bytes() == (OTHER if changes else DATA)
    again = places(server, before)
    assert again[0] == (0 if changes else arrived), "what had arrived is not asked for again"


def test_without_a_version_nothing_tells_whose_beginning_it_is(
    server: Server, tmp_path: Path
) -> None:
    server.does.etag = ""
    files.Partial(tmp_path / "set.bin").append(OTHER[:500_000])
    assert get(server, tmp_path).status == 0
    assert (tmp_path / "set.bin").read_bytes() == DATA


@pytest.mark.parametrize("silent", [False, True])
def test_ctrl_c_ends_at_once_and_keeps_what_arrived(
    server: Server, tmp_path: Path, silent: bool
) -> None:
    server.does.block_s = 0.02
    process = started(server, tmp_path)
    wait_for(tmp_path / ".set.bin.partial", 2 * PART)
    server.does.silent = silent
    if silent:
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command continues" in said, said
    assert "Traceback" not in said and (tmp_path / ".set.bin.partial").exists()
    assert not (tmp_path / "set.bin").exists()


@pytest.mark.spec(1)
def test_a_file_that_is_there_is_left_alone(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "set.bin"
    for text, status in ((DATA, 0), (DATA[:-1], 65)):
        place.write_bytes(text)
        done = get(server, tmp_path)
        assert done.status == status and place.read_bytes() == text and server.sent <= 2
    assert "never overwritten: it has 999999 bytes" in done.stderr and "--out" in done.stderr
    place.write_bytes(OTHER)
    done = get(server, tmp_path, name=f"set.bin#sha256={SHA256}")
    assert done.status == 65 and SHA256 in done.stderr and place.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("fragment", "status"),
    [
        (f"#sha256={SHA256}", 0),
        (f"#MD5={hashlib.md5(DATA).hexdigest()}", 0),
        (f"#sha256={'0' * 64}", 65),
        ("#sha256=123", 2),
        ("#crc=12345678", 2),
    ],
)
def test_a_checksum_of_the_user_is_checked(
    server: Server, tmp_path: Path, fragment: str, status: int
) -> None:
    done = get(server, tmp_path, name=f"set.bin{fragment}")
    assert done.status == status and (tmp_path / "set.bin").exists() == (status == 0)
    said = {0: "is right", 65: "the SHA256 of the file is not", 2: "is not a checksum"}[status]
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"content": {}}, "404"),
        ({"length": str(len(DATA) + 10), "ranges": False, "etag": ""}, "was cut after 1000000"),
        ({"length": "", "ranges": False}, "does not say how long"),
        ({"length": "999", "ranges": False}, ""),
    ],
    ids=["404", "truncated", "no length", "wrong length"],
)
def test_no_file_appears_that_may_not_be_whole(
    server: Server, tmp_path: Path, behaviour: dict[str, Any], reason: str
) -> None:
    server.does = replace(server.does, **behaviour)
    done = get(server, tmp_path, name="set.bin?key=secret")
    if reason:
        assert done.status == 65 and reason in done.stderr and "secret" not in done.stderr
        assert not (tmp_path / "set.bin").exists()
    else:  # what a server calls the end of a file is its end: no client can know more
        assert (tmp_path / "set.bin").read_bytes() == DATA[:999]


def test_a_file_that_does_not_fit_the_disk_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.does.length, server.does.ranges = str(10**18), False
    done = get(server, tmp_path)
    assert done.status == 74 and "not enough space for" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_without_a_network_the_reason_is_said(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/set.bin"
        done = run_here("download", address, "--out", str(tmp_path))
    assert done.status == 65 and "set.bin could not be downloaded" in done.stderr
    assert "refused" in done.stderr and "check the network" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["cifar11"], 2, "did you mean 'cifar10'?"),
        (["unlike-all"], 2, "there is no known data set 'unlike-all'"),
        (["ftp://host/set.bin"], 2, "'ftp' addresses cannot be downloaded"),
        (["file:///etc/passwd"], 2, "no server"),
        (["https://host/"], 2, "does not end in a file name"),
        (["https://a/x.zip", "https://b/x.zip"], 2, "two addresses have a file named x.zip"),
        (["imagenet"], 65, "1d675b47d978889d74fa0da5fadfb00e"),
        (["ILSVRC2012"], 65, "saccade train --data imagenet/"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.spec(1)
def test_what_cannot_be_downloaded_is_refused_before_anything_is_asked(
    tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    done = run_here("download", *words, "--out", str(tmp_path / "out"))
    assert done.status == status and said in done.stderr
    assert not (tmp_path / "out").exists()


def tree() -> bytes:
    """Return a tgz of four images in train/ and val/, in one folder, as fast.ai's are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for split in ("train", "val"):
            for number, name in enumerate(("n01440764", "n02102040")):
                picture = io.BytesIO()
                Image.new("RGB", (20, 20), (90 * number, 0, 0)).save(picture, "jpeg")
                info = tarfile.TarInfo(f"imagenette2-160/{split}/{name}/{number}.JPEG")
                info.size = picture.tell()
                picture.seek(0)
                archive.addfile(info, picture)
    return out.getvalue()


@pytest.mark.spec(1)
def test_a_known_set_can_be_trained_on_where_it_was_put(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.does.content = {"imagenette2-160.tgz": tree()}
    one = published.PUBLISHED["imagenette-160"]
    (remote,) = (replace(file, addresses=(f"{server.site}/{file.name}",)) for file in one.files)
    monkeypatch.setitem(published.PUBLISHED, "imagenette-160", replace(one, files=(remote,)))
    done = run_here("download", "imagenette-160", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    place = "data/imagenette-160/imagenette2-160.tgz"
    assert told["files"][0]["path"] == place and told["files"][0]["checked"] == ""
    assert told["use"] == [f"saccade train --data {place}"]
    source = open_source(tmp_path / place)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 2, "val": 2}


def test_the_checksums_are_those_that_torchvision_knows() -> None:
    from torchvision.datasets import imagenet

    def md5(name: str) -> dict[str, str]:
        return {file.name: file.md5 for file in published.PUBLISHED[name].files}

    assert md5("food-101") == {"food-101.tar.gz": datasets.Food101._MD5}
    assert md5("flowers-102") == dict(datasets.Flowers102._file_dict.values())
    assert md5("oxford-pets") == {
        address.rpartition("/")[2]: digits for address, digits in datasets.OxfordIIITPet._RESOURCES
    }
    theirs = [tuple(one) for one in imagenet.ARCHIVE_META.values()]
    assert sorted(theirs) == sorted(
        (name, digits) for name, (_, digits) in published.IMAGENET_FILES.items()
    )


def test_a_file_of_imagenet_is_known_by_its_name(server: Server, tmp_path: Path) -> None:
    name = "ILSVRC2012_img_val.tar"
    server.does.content = {name: DATA}
    done = get(server, tmp_path, name=name)
    assert done.status == 65 and published.IMAGENET_FILES[name][1] in done.stderr
    assert not (tmp_path / name).exists()


def test_all_known_sets_are_listed_with_what_is_known_of_them() -> None:
    listed = json.loads(run_here("download", "--json").stdout)
    assert [row["set"] for row in listed] == list(published.PUBLISHED)
    assert all(row["page"].startswith("https://") for row in listed)
    unknown = {row["set"] for row in listed if row["checksum"] == "unknown"}
    assert unknown == {name for name in published.PUBLISHED if name.startswith("image")}
    assert all(
        isinstance(file, Remote) for one in published.PUBLISHED.values() for file in one.files
    )
