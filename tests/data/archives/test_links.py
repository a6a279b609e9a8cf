"""Links in archives: other names for members, and what leads nowhere is named."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from containers import jpeg_file, make_folder, tar_bytes
from saccade.data.archives.links import Link, follow
from saccade.data.archives.tars import index_tar
from saccade.data.audit import verify
from saccade.data.sources import Source, open_source
from saccade.log import Log

TREE = {
    f"{split}/{kind}/{i}.jpg": jpeg_file(i + 9 * (split == "val"))
    for split in ("train", "val")
    for kind in ("cat", "dog")
    for i in range(2)
}
HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE


def linked(
    path: Path, tree: dict[str, bytes], *links: tuple[str, str, bytes], first: bool = False
) -> Path:
    """Write a tar of files and of links, (name, target, kind), before or behind them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        members = [tarfile.TarInfo(name) for name in tree]
        for member in members:
            member.size = len(tree[member.name])
        others = []
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            others.append(info)
        for member in [*others, *members] if first else [*members, *others]:
            archive.addfile(member, io.BytesIO(tree.get(member.name, b"")))
    path.write_bytes(out.getvalue())
    return path


def prints(source: Source) -> dict[str, str]:
    """Return the fingerprint of each split."""
    return {name: split.fingerprint for name, split in source.splits.items()}


def without(*names: str) -> dict[str, bytes]:
    """Return the tree without some files."""
    return {name: data for name, data in TREE.items() if name not in names}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("train/cat/1.jpg", [("train/cat/1.jpg", "store/a.jpg", HARD)]),
        ("train/cat/1.jpg", [("train/cat/1.jpg", "./store/a.jpg", HARD)]),
        ("train/cat/1.jpg", [("train/cat/1.jpg", "../../store/a.jpg", SYMBOLIC)]),
        (
            "train/cat/1.jpg",
            [("train/cat/1.jpg", "b.jpg", SYMBOLIC), ("train/cat/b.jpg", "store/a.jpg", HARD)],
        ),
    ],
)
def test_a_link_to_a_member_is_that_image(
    tmp_path: Path, name: str, links: list[tuple[str, str, bytes]], first: bool
) -> None:
    tree = without(name) | {"store/a.jpg": TREE[name]}
    extra = {link: TREE[name] for link, _, _ in links} | {"store/a.jpg": TREE[name]}
    folder = open_source(make_folder(tmp_path / "x", TREE | extra))
    source = open_source(linked(tmp_path / "x.tar", tree, *links, first=first))
    assert prints(source) == prints(folder) and source.ignored == folder.ignored
    split = source.splits["train"]
    assert bytes(split.read(list(split.names).index("1.jpg"))) == TREE[name]


def test_tar_itself_writes_hard_links_and_none_is_lost(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", TREE)
    os.link(folder / "train/cat/0.jpg", folder / "train/dog/same.jpg")
    (folder / "train/dog/soft.jpg").symlink_to("../cat/1.jpg")
    (folder / "val/cow").symlink_to("cat")
    long = "long " * 30
    os.link(folder / "train/cat/0.jpg", folder / f"train/dog/{long}.jpg")
    (folder / f"train/dog/{long}2.jpg").symlink_to(f"{long}.jpg")
    for number, form in enumerate(("gnu", "posix")):
        path = tmp_path / f"{number}.tar"
        command = [
            "tar",
            f"--format={form}",
            "-cf",
            str(path),
            "-C",
            str(tmp_path),
            "x",
            "x/train/cat",
        ]
        # the last folder twice: links to themselves
        assert subprocess.run(command, check=False).returncode == 0
        source = open_source(path)
        assert prints(source) == prints(open_source(folder))
        assert source.splits["val"].classes == ("cat", "cow", "dog") and not source.ignored


def test_links_in_a_zip_are_followed_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, target in (
            ("train/dog/same.jpg", "../cat/0.jpg"),
            ("train/dog/away.jpg", "/etc/passwd"),
        ):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
        for name, data in TREE.items():
            archive.writestr(name, data)
    folder = make_folder(tmp_path / "x", TREE | {"train/dog/same.jpg": TREE["train/cat/0.jpg"]})
    for _ in range(2):  # the second time from the index that is kept
        source = open_source(tmp_path / "x.zip")
        assert prints(source) == prints(open_source(folder))
        assert source.ignored == {"symbolic link out of the archive": 1}
        split = source.splits["train"]
        assert bytes(split.read(list(split.names).index("same.jpg"))) == TREE["train/cat/0.jpg"]


LOST = [
    (("train/dog/x.jpg", "../../../away/x.jpg", SYMBOLIC), "symbolic link out of the archive"),
    (("train/dog/x.jpg", "/away/x.jpg", SYMBOLIC), "symbolic link out of the archive"),
    (("train/dog/x.jpg", "store/missing.jpg", HARD), "hard link to a missing file"),
    (("train/dog/x.jpg", "x.jpg", SYMBOLIC), "symbolic link in a circle"),
    (("train/all", "..", SYMBOLIC), "symbolic link out of the archive"),
    (("train/dog/all", "..", SYMBOLIC), "symbolic link to a folder with links to folders"),
]


@pytest.mark.parametrize(("link", "reason"), LOST)
def test_a_link_that_cannot_be_followed_is_named(
    tmp_path: Path, link: tuple[str, str, bytes], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = {f"train/dog/{i}.txt": b"" for i in range(30)}
    source = open_source(linked(tmp_path / "x.tar", notes | TREE, link))
    assert (
        source.ignored[reason] == 1 and source.ignored_names[0] == link[0] and source.lacks_images
    )
    verdict = verify.verify(source, Log(quiet=True))
    (entry,) = [entry for entry in verdict.entries if entry.kind == "ignored-files"]
    assert entry.severity == "warning" and reason in entry.text and link[0] in entry.images
    verify.show(verdict)
    assert "no problems found" not in capsys.readouterr().out


def test_a_class_folder_of_links_that_lead_nowhere_is_an_error(tmp_path: Path) -> None:
    source = open_source(
        linked(
            tmp_path / "x.tar",
            TREE,
            ("train/cow/1.jpg", "/away/1.jpg", SYMBOLIC),
            ("train/emu", "/away/emu", SYMBOLIC),
        )
    )
    assert source.splits["train"].left_out == ("cow", "emu") and not source.splits["val"].left_out
    verdict = verify.verify(source, Log(quiet=True))
    assert verdict.failed and verdict.entries[0].kind == "class-left-out"


def test_links_cannot_make_a_small_archive_large() -> None:
    inner = tar_bytes({f"{i}.jpg": b"x" for i in range(50)})
    links = [Link(f"train/{i}.tar", "cat.tar", symbolic=False) for i in range(9)]
    followed, lost = follow(links, {})
    assert not followed and len(lost) == 9
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("cat.tar")
        info.size = len(inner)
        archive.addfile(info, io.BytesIO(inner))
        for link in links:
            info = tarfile.TarInfo(link.name)
            info.type, info.linkname = HARD, link.target
            archive.addfile(info)
    members = index_tar(out.getvalue(), "x.tar")
    assert len(members.names) == 50 and len(members.lost) == 9
    files = {f"a/{i}.jpg": i for i in range(100)}
    followed, lost = follow([Link(f"b{i}", "a", symbolic=True) for i in range(1000)], files)
    assert len(followed) == 1000 and len(lost) == 990
    chain = [Link(f"{i}.jpg", f"{i + 1}.jpg", symbolic=True) for i in range(100)]
    followed, lost = follow(chain, {"100.jpg": 0})
    assert len(followed) == 41 and set(lost.values()) == {"symbolic link in a circle"}
