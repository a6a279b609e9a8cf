"""Links, pipes and second names inside a run or cache folder: nothing outside is ever touched
through them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from console import Done, run_here
from saccade import cache, files
from saccade.errors import DiskError, SaccadeError
from saccade.system import doors

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="who makes a link there is asked for a privilege"
)
PRECIOUS = "precious\n" * 100


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with files that have nothing to do with us, named so that our cleaning would take
    them.
    """
    folder = tmp_path / "outside"
    (folder / "inner.part-7").mkdir(parents=True)
    for name in ("victim", ".x.7.part", "step_00000001", "inner.part-7/deep"):
        (folder / name).write_text(PRECIOUS)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def train(out: Path, *more: str) -> Done:
    return run_here(
        "train",
        "lenet",
        "--epochs",
        "1step",
        "--batch-size",
        "16",
        "--out",
        str(out),
        "--set",
        "data.threads=1",
        *more,
    )


FILES = (
    ".lock",
    "log.jsonl",
    "config.yaml",
    "run.json",
    "model.safetensors",
    "report.html",
    "predictions.safetensors",
)
FOLDERS = ("checkpoints", "plots")


@pytest.mark.parametrize("dangling", [False, True])
def test_no_link_in_a_run_folder_reaches_anything_outside(
    tmp_path: Path, outside: Path, dangling: bool
) -> None:
    """What is replaced as a whole may take the place of a link.

    What is opened or entered must not be one.
    """
    before = contents(outside)
    for name in (*FILES, *FOLDERS):
        run = tmp_path / f"run-{name}"
        run.mkdir()
        target = (
            outside / "nowhere" if dangling else outside if name in FOLDERS else outside / "victim"
        )
        (run / name).symlink_to(target)
        done = train(run) if name in (".lock", "checkpoints", "log.jsonl") else None
        if done is not None:
            assert done.status == 74, (name, done.stderr)
            assert f"{run / name}" in done.stderr and "this is a link" in done.stderr
            assert "remove or move it" in done.stderr
        assert contents(outside) == before, name
        assert (run / name).is_symlink(), "the link itself is somebody's evidence"


def test_what_is_written_as_a_whole_takes_the_place_of_a_link(
    tmp_path: Path, outside: Path
) -> None:
    before = contents(outside)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "config.yaml"):  # what they say is looked at first, and is not ours
        (run / name).symlink_to(outside / "victim")
        assert train(run).status == 66
        (run / name).unlink()
        (run / name).symlink_to(outside / "nowhere")
    for name in ("model.safetensors", "report.html", "predictions.safetensors"):
        (run / name).symlink_to(outside / "victim")
    assert train(run).status == 0
    assert contents(outside) == before
    assert not any((run / name).is_symlink() for name in FILES)
    shutil.rmtree(run / "plots")
    (run / "plots").symlink_to(outside)
    done = run_here("report", str(run))
    assert done.status == 74 and f"{run / 'plots'}" in done.stderr
    assert contents(outside) == before


def test_the_run_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert train(tmp_path / "run").status == 0
    assert json.loads((tmp_path / "real" / "run.json").read_text())["status"] == "done"


def test_left_over_parts_that_are_links_are_removed_and_not_followed(
    tmp_path: Path, outside: Path
) -> None:
    before = contents(outside)
    for name, target in ((".x.1.part", "victim"), ("step_1.part-1", "."), ("a.part-2", "nowhere")):
        (tmp_path / name).symlink_to(outside / target)
    files.sweep_parts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert contents(outside) == before


def test_a_link_under_the_name_of_our_own_part_is_not_written_through(
    tmp_path: Path, outside: Path
) -> None:
    before, pid = contents(outside), os.getpid()
    (tmp_path / f".new.{pid}.part").symlink_to(outside / "victim")
    files.write_bytes(tmp_path / "new", b"x")
    (tmp_path / f"step_1.part-{pid}").symlink_to(outside)
    files.publish_folder(tmp_path / "step_1", {"a": b"1"})
    (tmp_path / f".saccade.part-{pid}").symlink_to(outside)
    with files.staging(tmp_path) as aside:
        files.place(aside, tmp_path / "tree" / "b", b"2")
    (tmp_path / f".big.{pid}.part").symlink_to(outside / "victim")
    with files.aside(tmp_path / "big") as file:
        file.write(b"3")
    assert contents(outside) == before
    assert [(tmp_path / n).read_bytes() for n in ("new", "step_1/a", "tree/b", "big")] == [
        b"x",
        b"1",
        b"2",
        b"3",
    ]


def test_removing_and_setting_aside_a_link_leaves_what_it_leads_to(
    tmp_path: Path, outside: Path
) -> None:
    before = contents(outside)
    for name, target in (("a", "."), ("b", "victim"), ("c", "nowhere")):
        (tmp_path / name).symlink_to(outside / target)
        files.remove_tree(tmp_path / name)
        assert not os.path.lexists(tmp_path / name)
    (tmp_path / "d").symlink_to(outside)
    files.set_aside(tmp_path / "d", "damaged")
    assert contents(outside) == before


def test_a_download_is_not_continued_through_a_link(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    part = files.Partial(tmp_path / "set.bin")
    part.path.symlink_to(outside / "victim")
    for act in (lambda: part.append(b"x"), lambda: part.size, part.publish):
        with pytest.raises(DiskError, match="this is a link"):
            act()
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["manifest.json", "a", "."])
def test_a_published_folder_with_a_link_in_it_does_not_verify(tmp_path: Path, name: str) -> None:
    files.publish_folder(tmp_path / "step_1", {"a": b"1"})
    moved = (tmp_path / "step_1" / name).rename(tmp_path / "moved") if name != "." else None
    if moved:
        (tmp_path / "step_1" / name).symlink_to(moved)
        with pytest.raises(ValueError, match=r"link|manifest"):
            files.verify_folder(tmp_path / "step_1")
    else:
        (tmp_path / "other").symlink_to(tmp_path / "step_1")
        with pytest.raises(ValueError, match="manifest"):
            files.verify_folder(tmp_path / "other")


@pytest.mark.parametrize("name", [".lock", "log.jsonl"])
def test_a_pipe_in_a_run_folder_ends_in_a_sentence_and_not_in_a_wait(
    tmp_path: Path, name: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.mkfifo(run / name)
    done = train(run)
    assert done.status == 74 and "not a regular file" in done.stderr


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_pipe_that_is_only_replaced_does_not_hang(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_json(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_text(tmp_path / name, 100)


def test_a_hard_link_to_the_log_is_given_up_and_its_other_name_keeps_its_lines(
    tmp_path: Path,
) -> None:
    """`cp -al run backup` shares the files: what goes on in the run must not go on in the
    backup.
    """
    (tmp_path / "log.jsonl").write_text("one\n")
    (tmp_path / "backup").hardlink_to(tmp_path / "log.jsonl")
    log = files.Appender(tmp_path / "log.jsonl")
    log.line("two")
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == "one\ntwo\n"
    assert (tmp_path / "backup").read_text() == "one\n"


def test_a_hard_link_under_the_name_of_the_lock_is_not_emptied(
    tmp_path: Path, outside: Path
) -> None:
    (tmp_path / ".lock").hardlink_to(outside / "victim")
    with pytest.raises(DiskError, match="not a lock of saccade"), files.locked(tmp_path):
        pass
    (outside / "number").write_text("12345")
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").hardlink_to(outside / "number")
    with files.locked(tmp_path):
        pass
    assert (outside / "number").read_text() == "12345" and (
        outside / "victim"
    ).read_text() == PRECIOUS


@pytest.mark.parametrize("name", ["index", "preflight", "verify", "datasets", "unreadable"])
def test_a_link_in_the_cache_folder_is_refused(
    tmp_path: Path, outside: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(outside)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "caches"))
    cache.folder().mkdir(parents=True)
    (cache.folder() / name).symlink_to(outside)
    with pytest.raises(SaccadeError, match="this is a link"):
        cache.within(name, "x.json")
    assert contents(outside) == before


def test_a_text_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert doors.read_bytes(path, 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        doors.read_bytes(path, 4)
