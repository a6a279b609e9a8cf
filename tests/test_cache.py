"""The cache folder: wherever it can be, bounded, cleaned of what killed processes left, and
never a reason to fail.
"""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from console import run_here
from saccade import cache, files
from saccade.data.sources import archive, open_source
from saccade.errors import DataError, DiskError

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the places and rights are those of POSIX"
)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "saccade"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container under a number: no HOME, no entry in the list of users."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setattr(cache.Path, "home", staticmethod(no_home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"saccade-cache-{os.getuid()}"


def test_without_a_home_it_is_a_private_temporary_folder(homeless: Path) -> None:
    assert cache.folder() == homeless / "saccade"
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert cache.folder() == homeless / "saccade", "the second start finds it again"


@pytest.mark.parametrize("made", ["open", "link"])
def test_a_temporary_folder_that_others_can_change_is_not_used(
    homeless: Path, made: str, tmp_path: Path
) -> None:
    if made == "open":
        homeless.mkdir()
        homeless.chmod(0o777)
    else:
        (tmp_path / "theirs").mkdir()
        homeless.symlink_to(tmp_path / "theirs")
    with pytest.raises(DiskError, match="another user") as caught:
        cache.folder()
    assert "XDG_CACHE_HOME" in caught.value.fix


def test_a_copy_is_made_once_whole_or_not_at_all(own: Path) -> None:
    assert cache.copy("x.tar", io.BytesIO(b"12345"), 5).read_bytes() == b"12345"
    assert cache.copy("x.tar", io.BytesIO(b"other"), 5).read_bytes() == b"12345"
    with pytest.raises(DataError, match="more than"):
        cache.copy("y.tar", io.BytesIO(b"123456"), 5)
    assert [p.name for p in own.iterdir()] == ["x.tar"]


def test_a_bomb_of_compressed_zeros_ends_at_the_limit(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "DECOMPRESSED_LIMIT_BYTES", 10_000_000)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(11_000_000)))
    with pytest.raises(DataError, match="decompresses to more than"):
        open_source(tmp_path / "bomb.tar.gz")
    assert list(own.iterdir()) == []


KILLED = """
import os, sys, time
from pathlib import Path
from saccade import files
with files.aside(Path(sys.argv[1])) as out:
    out.write(b"x" * 1000)
    out.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(own: Path) -> None:
    def writer(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(own / name)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"writing\n"
        return process

    dead, alive = writer("dead.tar"), writer("alive.tar")
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert sorted(p.name for p in own.iterdir()) == [
        f".alive.tar.{alive.pid}.part",
        f".dead.tar.{dead.pid}.part",
    ]
    try:
        cache.copy("new.tar", io.BytesIO(b"1"), 5)
        assert sorted(p.name for p in own.iterdir()) == [f".alive.tar.{alive.pid}.part", "new.tar"]
    finally:
        alive.kill()
        alive.communicate()
    cache.copy("new.tar", io.BytesIO(b"1"), 5)
    assert [p.name for p in own.iterdir()] == ["new.tar"], (
        "swept, too, where the copy is there already"
    )


def test_half_written_results_are_swept_when_they_are_old(own: Path) -> None:
    for name in ("index/a.part-7", "preflight/.b.json.7.part"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("half")
    cache.copy("x.tar", io.BytesIO(b"1"), 5)
    assert (own / "index/a.part-7").exists(), "it may be being written"
    for name in ("index/a.part-7", "preflight/.b.json.7.part"):
        os.utime(own / name, (0, 0))
    cache.copy("x.tar", io.BytesIO(b"1"), 5)
    assert not list(own.rglob("*part*"))


def test_a_cache_that_cannot_be_written_names_the_way_out(own: Path, tmp_path: Path) -> None:
    own.parent.write_text("a file where the folder should be")
    cache.remember(own / "preflight" / "x.json", {})
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(bytes(10_240)))
    done = run_here("verify", str(tmp_path / "set.tar.gz"))
    assert done.status == 74 and "XDG_CACHE_HOME" in done.stderr


def test_a_deleted_working_directory_is_said(tmp_path: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); from saccade.__main__ import start; start()"
    for words in (["models"], ["check", "--data", "/x"]):
        (tmp_path / "here").mkdir()
        command = [sys.executable, "-P", "-c", code, *words]
        done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
        assert done.returncode == 2 and "working directory no longer exists" in done.stderr, (
            done.stderr
        )


LONG = "q" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("verify", LONG),
        ("verify", "{a,a}" * 1200),
        ("verify", "{" * 3000 + "}" * 3000),
        ("eval", LONG),
        ("report", LONG),
        ("predict", LONG, LONG),
        ("train", "--data", LONG),
        ("train", LONG),
        ("lr", LONG),
        ("recipes", LONG),
        ("train", "--init", LONG, "--data", "digits"),
        ("train", "--out", LONG),
        ("verify", f"{LONG}.tar"),
        ("train", "--val", LONG),
        ("verify", "digits", "--out", LONG),
        ("train", f"{LONG}.yaml"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_a_name_that_no_file_system_holds_is_said(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_here(*words, cwd=tmp_path)
    assert done.status in (2, 65, 66, 74, 78) and done.stderr


def test_a_path_that_is_no_utf8_is_kept_exactly_in_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"where": "caf\udce9"})
    assert files.read_json(tmp_path / "x.json") == {"where": "caf\udce9"}
    assert (tmp_path / "x.json").read_bytes().isascii()


@pytest.mark.full
@pytest.mark.parametrize("limit_bytes", [1_500_000_000, 3_000_000_000])
def test_too_little_memory_to_load_torch_is_said(limit_bytes: int, tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * "
        "2); sys.argv[1:2] = [];"
        "from saccade.__main__ import start; start()"
    )
    command = [sys.executable, "-c", code, str(limit_bytes), "train", "lenet", "--epochs", "1step"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 78) and "Traceback" not in done.stderr, done.stderr
