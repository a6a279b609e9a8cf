"""Durable files: the order of the calls that make them durable, repairs, and limits of what is
read.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saccade import files
from saccade.data.archives.tars import RECORD_LIMIT_BYTES
from saccade.data.archives.zips import INFLATED_LIMIT_BYTES
from saccade.data.sources import open_source
from saccade.errors import DataError

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="names of open files come from /proc"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What the system is asked to do, in order: (call, name of the file, its size in bytes at
    that moment).
    """
    seen: list[tuple[str, str, int]] = []

    def watch(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            path = (
                os.readlink(f"/proc/self/fd/{arguments[0]}")
                if name == "fsync"
                else str(arguments[0])
            )
            seen.append(
                (name, Path(path).name, os.stat(path).st_size if os.path.isfile(path) else -1)
            )
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "replace"):
        watch(name)
    return seen


@linux
@pytest.mark.fault("B6")
def test_a_folder_is_published_in_an_order_that_survives_a_power_cut(
    tmp_path: Path, calls: list[tuple[str, str, int]]
) -> None:
    """Every file with all its bytes, then their folder, then the name, then the folder of the
    name.
    """
    contents = {"model.safetensors": b"x" * 100_000, "state.json": b"{}"}
    files.publish_folder(tmp_path / "checkpoints" / "step_1", contents)
    part = f"step_1.part-{os.getpid()}"
    manifest = (tmp_path / "checkpoints" / "step_1" / "manifest.json").stat().st_size
    assert calls == [
        ("fsync", "model.safetensors", 100_000),
        ("fsync", "state.json", 2),
        ("fsync", "manifest.json", manifest),
        ("fsync", part, -1),
        ("rename", part, -1),
        ("fsync", "checkpoints", -1),
    ]


@linux
@pytest.mark.fault("B6")
def test_a_file_is_written_in_an_order_that_survives_a_power_cut(
    tmp_path: Path, calls: list[tuple[str, str, int]]
) -> None:
    part = f".run.json.{os.getpid()}.part"
    wanted = [("fsync", part, 3), ("replace", part, 3), ("fsync", tmp_path.name, -1)]
    files.write_bytes(tmp_path / "run.json", b"{}\n")
    assert calls == wanted
    calls.clear()
    with files.aside(tmp_path / "run.json") as file:
        file.write(b"{}\n")
    assert calls == wanted
    calls.clear()
    partial = files.Partial(tmp_path / "set.bin")
    partial.append(b"123")
    partial.publish()
    assert calls == [
        ("fsync", partial.path.name, 3),
        ("replace", partial.path.name, 3),
        ("fsync", tmp_path.name, -1),
    ]


@linux
def test_an_old_folder_loses_its_name_before_its_files(
    tmp_path: Path, calls: list[tuple[str, str, int]]
) -> None:
    files.publish_folder(tmp_path / "step_1", {"a": b"1"})
    calls.clear()
    stages: list[tuple[str, list[str]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            files,
            "stage",
            lambda name: stages.append((name, sorted(p.name for p in tmp_path.iterdir()))),
        )
        files.remove_tree(tmp_path / "step_1")
    assert calls[0] == ("rename", "step_1", -1)
    assert stages == [("renamed for removal", [f"step_1.part-{os.getpid()}-removed"])]
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("F2")
def test_json_is_read_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path, 8) == {"a": 1}
    with pytest.raises(ValueError, match="larger than 7 bytes"):
        files.read_json(path, 7)
    for text, reason in (
        ("[" * 200_000, "deep"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("{", "Expecting"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            files.read_json(path)
    os.truncate(path, 64_000_001)  # a hole: not a byte of it is read
    with pytest.raises(ValueError, match="larger than 64,000,000 bytes"):
        files.read_json(path)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    for name in ("train/a/0.jpg", "train/b/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    os.truncate(tmp_path / "train/a/0.jpg", RECORD_LIMIT_BYTES + 1)  # a hole
    split = open_source(tmp_path).splits["train"]
    with pytest.raises(DataError, match="more than the limit"):
        split.read(0)
    assert bytes(split.read(1)) == b"\xff\xd8\xff"


@pytest.mark.parametrize("size", [INFLATED_LIMIT_BYTES + 1, RECORD_LIMIT_BYTES + 1])
def test_a_member_too_large_for_an_image_is_refused_by_what_it_declares(
    tmp_path: Path, size: int
) -> None:
    """The size stands in the directory of the zip, four bytes at a known place.

    Nothing is unpacked to find it.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("train/a/0.jpg", "train/b/0.jpg"):
            archive.writestr(name, b"\xff\xd8\xff" + os.urandom(1_100_000), zipfile.ZIP_DEFLATED)
    data = bytearray(out.getvalue())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    (tmp_path / "set.zip").write_bytes(data)
    split = open_source(tmp_path / "set.zip").splits["train"]
    with pytest.raises(DataError, match=f"declares {size} bytes, more than {size - 1}"):
        split.read(0)
    assert len(split.read(1)) == 1_100_003
