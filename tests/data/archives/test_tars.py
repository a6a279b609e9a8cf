"""Tar and zip indexing: every member is found where it lies, and every damage is named."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saccade.data.archives.tars import BLOCK_BYTES, Members, clean_name, index_tar
from saccade.data.archives.zips import index_zip
from saccade.errors import DataError

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def make_tar(contents: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(
    name: bytes = b"train/a/1.jpg",
    kind: bytes = b"0",
    size: bytes = b"00000000000\0",
    **places: bytes,
) -> bytes:
    """Write a ustar header by hand, so that it can lie; the checksum is right."""
    block = bytearray(BLOCK_BYTES)
    block[: len(name)] = name
    block[124:136] = size
    block[156:157] = kind
    block[257:265] = places.get("magic", b"ustar\x0000")
    block[345 : 345 + len(places.get("prefix", b""))] = places.get("prefix", b"")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * BLOCK_BYTES)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK_BYTES)


def pax(**fields: str) -> bytes:
    records = b""
    for key, value in fields.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        records += str(length).encode() + body
    return header(b"PaxHeader", b"x", octal(len(records))) + padded(records)


def content(tar: bytes, members: Members) -> dict[str, bytes]:
    rows = zip(members.names, members.offsets.tolist(), members.sizes.tolist(), strict=True)
    return {name: tar[offset : offset + size] for name, offset, size in rows}


FILES = {f"train/class{i % 3}/picture{i:04d}.jpg": bytes([i]) * (300 + 700 * i) for i in range(12)}
TAR = make_tar(FILES)
MIDDLE = index_tar(TAR, "x.tar").offsets.tolist()[6] - BLOCK_BYTES
"""Offset of the header of the seventh file, whose data takes 4,500 bytes."""


@pytest.mark.parametrize("form", FORMATS)
def test_every_member_is_found_where_it_lies(form: int) -> None:
    tar = make_tar(FILES, form)
    assert content(tar, index_tar(tar, "x.tar")) == FILES


@pytest.mark.parametrize("form", FORMATS[1:])
def test_names_longer_than_a_header_are_read(form: int) -> None:
    files = {"/".join(["folder" * 15] * 4) + f"/{i}é.jpg": b"x" * i for i in range(3)}
    tar = make_tar(files, form)
    assert content(tar, index_tar(tar, "x.tar")) == files


def test_the_ustar_prefix_is_part_of_the_name() -> None:
    files = {"/".join(["folder"] * 20) + "/1.jpg": b"abc"}
    tar = make_tar(files, tarfile.USTAR_FORMAT)
    assert content(tar, index_tar(tar, "x.tar")) == files
    # GNU keeps a time there
    gnu = header(b"1.jpg", magic=b"ustar  \0", prefix=b"14000000000") + END
    assert index_tar(gnu, "x.tar").names == ["1.jpg"]


@given(
    st.dictionaries(
        st.lists(st.text("abäö漢 .-", min_size=1, max_size=30), min_size=1, max_size=6)
        .map("/".join)
        .filter(lambda name: clean_name(name) == name if ".." not in name.split("/") else False)
        .filter(bool),
        st.binary(max_size=1500),
        max_size=8,
    ),
    st.sampled_from(FORMATS[1:]),
)
def test_what_tarfile_writes_is_read_back(files: dict[str, bytes], form: int) -> None:
    tar = make_tar(files, form)
    assert content(tar, index_tar(tar, "x.tar")) == files


def flip(data: bytes, offset: int, bit: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def zeroed(data: bytes, offset: int, num_bytes: int) -> bytes:
    return data[:offset] + bytes(num_bytes) + data[offset + num_bytes :]


DAMAGES = {
    "cut at a header": (TAR[:MIDDLE], MIDDLE),
    "cut inside a header": (TAR[: MIDDLE + 100], MIDDLE),
    "cut inside data": (TAR[: MIDDLE + 512 + 1000], MIDDLE),
    "cut inside padding": (TAR[: MIDDLE + 512 + 4500 + 10], MIDDLE),
    "one bit of a header": (flip(TAR, MIDDLE + 3, 2), MIDDLE),
    "header zeroed": (zeroed(TAR, MIDDLE, 512), MIDDLE),
    "two blocks zeroed": (zeroed(TAR, MIDDLE, 1024), MIDDLE),
    "cut at the end mark": (TAR[: TAR.rindex(b"\x0b") // 512 * 512 + 512], None),
    "half an end mark": (TAR[: TAR.rindex(b"\x0b") // 512 * 512 + 1024], None),
    "garbage after the end": (TAR + b"garbage", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault("E1")
def test_damage_is_refused_with_the_file_and_the_offset(damage: str) -> None:
    tar, offset = DAMAGES[damage]
    with pytest.raises(DataError) as caught:
        index_tar(tar, "pets.tar")
    assert caught.value.where == "pets.tar" and caught.value.status == 65
    assert (f"at byte {offset} " if offset is not None else "at byte ") in str(caught.value)


def test_any_flipped_bit_of_a_header_is_refused() -> None:
    sound = index_tar(TAR, "x.tar")
    for bit in range(8 * BLOCK_BYTES):
        try:
            members = index_tar(flip(TAR, MIDDLE + bit // 8, bit % 8), "x.tar")
        except DataError:
            continue
        # 012345 and " 12345" are the same number: the only flips that change nothing, in the
        # checksum itself.
        assert 148 <= bit // 8 < 156
        assert content(TAR, members) == content(TAR, sound)


def test_the_folders_of_a_backup_hold_lists_of_names_that_are_no_files() -> None:
    # by tar -g
    backup = header(b"train/a/", b"D", octal(14)) + padded(b"Y1.jpg\0Y2.jpg\0") + header() + END
    members = index_tar(backup, "x.tar")
    assert (members.names, members.folders) == (["train/a/1.jpg"], ["train/a"])


@pytest.mark.fault("E1")
def test_a_flipped_bit_of_the_data_cannot_be_seen_in_a_tar() -> None:
    assert index_tar(flip(TAR, MIDDLE + 600, 0), "x.tar").names == list(FILES)


@pytest.mark.parametrize(
    ("tar", "reason"),
    [
        (header(size=octal(10**9)) + b"x" * 512 + END, "declares 1000000000 bytes"),
        (header(size=b"\x80" + (10**12).to_bytes(11, "big")) + END, "declares 1000000000000 bytes"),
        (header(size=b"\xff" * 12) + END, "negative"),
        (header(size=b"-0000000001\0") + END, "not an octal"),
        (header(size=b"0000_000001\0") + END, "not an octal"),
        (header(size=b"00000000009\0") + END, "not an octal"),
        (pax(size="99999999999") + header() + END, "declares 99999999999 bytes"),
        (pax(size="-1") + header() + END, "not a size"),
        (pax(size="9" * 5000) + header() + END, "not a size"),
        (header(kind=b"x", size=octal(10**8)) + bytes(10**6) + END, "extended header declares"),
        (
            header(kind=b"x", size=octal(11)) + padded(b"99 path=a\n\n") + header() + END,
            "invalid",
        ),
        (header(kind=b"S") + END, "tar archive is damaged or unsupported: a member of type 'S'"),
        (pax(GNU__sparse__major="1") + header() + END, "sparse"),
        (header(kind=b"M") + END, "type 'M'"),
        (header(b"../a.jpg") + END, "'../a.jpg'"),
        (header(b"a/../../a.jpg") + END, "'..'"),
        (header(b"/etc/a.jpg") + END, "absolute"),
        (header(b"a\\b.jpg") + END, "backslash"),
        (pax(path="a\0b.jpg") + header() + END, "zero byte"),
        (header(b"") + END, "empty"),
        (header(b".") + END, "not the name of a file"),
        (pax(path="a.jpg") + END, "between an extended header"),
        (b"<html>" * 200, "not a tar archive"),
        (b"", "not a tar archive"),
    ],
)
@pytest.mark.fault("E2")
def test_a_hostile_header_is_refused_before_anything_is_allocated(tar: bytes, reason: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=reason.replace("(", r"\(")):
        index_tar(tar, "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@pytest.mark.fault("E2")
def test_a_name_that_occurs_twice_is_refused() -> None:
    for names in (
        (b"a/1.jpg", b"a/1.jpg"),
        ("a/é.jpg".encode(), unicodedata.normalize("NFD", "./a/é.jpg").encode()),
    ):
        with pytest.raises(DataError, match="occurs 2 times"):
            index_tar(header(names[0]) + header(names[1]) + END, "x.tar")


@pytest.mark.fault("E2")
def test_links_and_devices_are_counted_and_folders_listed() -> None:
    kinds = (b"1", b"2", b"2", b"3", b"4", b"6", b"5")
    tar = (
        b"".join(header(b"./a/%d/" % i, kind) for i, kind in enumerate(kinds))
        + header(b"./", b"5")
        + header()
        + END
    )
    members = index_tar(tar, "x.tar")
    assert members.names == ["train/a/1.jpg"] and members.folders == ["a/6", ""]
    assert dict(members.skipped) == {"character device": 1, "block device": 1, "named pipe": 1}


def test_old_archives_and_base_256_sizes_are_read() -> None:
    old = header(b"a/1.jpg", b"\0", octal(3), magic=bytes(8)) + padded(b"abc")
    folder = header(b"a/", b"\0", magic=bytes(8))
    large = header(b"a/2.jpg", b"0", b"\x80" + (4).to_bytes(11, "big")) + padded(b"defg")
    extended = pax(path="a/ü.jpg", size="5") + header(b"short", b"0", octal(1)) + padded(b"hijkl")
    shared = header(b"g", b"g", octal(16)) + padded(b"16 comment=sixt\n")
    tar = old + folder + large + extended + shared + header(b"a/3.jpg") + END
    expected = {"a/1.jpg": b"abc", "a/2.jpg": b"defg", "a/ü.jpg": b"hijkl", "a/3.jpg": b""}
    assert content(tar, index_tar(tar, "x.tar")) == expected


@given(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_give_an_index_or_a_data_error(offset: int, junk: bytes) -> None:
    tar = TAR[:offset] + junk + TAR[offset + len(junk) :]
    # the checksum of a header is a sum of its bytes: others with the same sum are not noticed
    for start in range(0, len(TAR), 512):
        before, after = TAR[start : start + 512], tar[start : start + 512]
        assume(before == after or sum(before) != sum(after))
    try:
        members = index_tar(tar, "x.tar")
    except DataError:
        return
    assert members.names == list(FILES)


# zip


def make_zip(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def read_all(path: Path) -> dict[str, bytes]:
    index, view = index_zip(path), memoryview(path.read_bytes())
    return {
        name: bytes(index.read(view, i, str(path))) for i, name in enumerate(index.members.names)
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_are_read_in_place(tmp_path: Path, method: int) -> None:
    files = FILES | {"train/class0/ü.jpg": b"", "train/class0/2.jpg": bytes(range(256)) * 50}
    path = make_zip(tmp_path / "x.zip", files, method)
    assert read_all(path) == files
    stored = isinstance(index_zip(path).read(memoryview(path.read_bytes()), 3, "x"), memoryview)
    assert stored == (method == zipfile.ZIP_STORED)


def patched(tmp_path: Path, old: bytes, new: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    data = make_zip(tmp_path / "x.zip", {"a/picture.jpg": b"picture" * 300}, method).read_bytes()
    assert old in data
    path = tmp_path / "patched.zip"
    path.write_bytes(data.replace(old, new))
    return path


def test_encrypted_and_unknown_methods_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"abc"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        index_zip(path)
    with pytest.raises(DataError, match="method 12"):
        index_zip(make_zip(tmp_path / "y.zip", {"a/1.jpg": b"abc"}, zipfile.ZIP_BZIP2))


@pytest.mark.parametrize("declared", [2099, 2101, 200_000_000])
def test_a_false_size_in_a_zip_is_refused(tmp_path: Path, declared: int) -> None:
    path = patched(tmp_path, (2100).to_bytes(4, "little"), declared.to_bytes(4, "little"))
    with pytest.raises(DataError, match=r"picture\.jpg"):
        read_all(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_flipped_bit_of_zipped_data_is_refused(tmp_path: Path, method: int) -> None:
    path = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"picture" * 30}, method)
    data, index = path.read_bytes(), index_zip(path)
    start = data.index(b"a/1.jpg") + 7
    num_refused = 0
    for bit in range(8 * int(index.packed[0])):
        try:
            assert (
                index.read(memoryview(flip(data, start + bit // 8, bit % 8)), 0, "x.zip")
                == b"picture" * 30
            )
        except DataError:
            num_refused += 1
    # deflate ends in up to 7 bits that mean nothing
    assert num_refused >= 8 * int(index.packed[0]) - 7


@pytest.mark.full
def test_a_zip_with_more_than_65535_entries_is_read(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "x.zip", {f"a/{i}.jpg": b"" for i in range(65_600)}, zipfile.ZIP_STORED
    )
    assert len(index_zip(path).members.names) == 65_600
    data = path.read_bytes()
    place = data.index(b"PK\6\6") + 32
    path.write_bytes(data[:place] + (65_601).to_bytes(8, "little") + data[place + 8 :])
    with pytest.raises(DataError, match="has 65600 entries but declares 65601"):
        index_zip(path)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", FILES)
    data, index = path.read_bytes(), index_zip(path)
    for bad in (data[:0], data[: len(data) // 2], data[:-1], b"PK\3\4" + bytes(500)):
        (tmp_path / "bad.zip").write_bytes(bad)
        with pytest.raises(DataError, match="zip archive"):
            index_zip(tmp_path / "bad.zip")
    for view in (b"JUNK" + data[4:], data[:20], data[:50]):
        with pytest.raises(DataError, match=r"overwritten or|beyond the end"):
            index.read(memoryview(view), 0, "x.zip")


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "..\\b.jpg", "\\b.jpg"])
def test_escaping_names_in_a_zip_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="the name"):
        index_zip(make_zip(tmp_path / "x.zip", {name: b"abc"}))


def test_zip_folders_links_and_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/", b"")
        archive.writestr(link, b"../../secret")
        archive.writestr("a/1.jpg", b"abc")
    members = index_zip(path).members
    assert (members.names, members.folders) == (["a/1.jpg"], ["a"])
    assert members.lost == {"a/link.jpg": "symbolic link out of the archive"}
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/1.jpg", b"def")
    with pytest.raises(DataError, match="occurs 2 times"):
        index_zip(path)


def test_utf_8_names_without_the_flag_are_read_as_macos_means_them(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Café/ü.jpg")
    path = make_zip(tmp_path / "x.zip", {name: b"abc"})
    data = bytearray(path.read_bytes())
    for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + place + 1] &= 0xF7  # the flag 0x800
    path.write_bytes(data)
    assert read_all(path) == {"Café/ü.jpg": b"abc"}


def test_overwritten_bytes_in_a_zip_give_the_data_or_a_data_error(tmp_path: Path) -> None:
    files = {"a/1.jpg": b"picture" * 9, "b/2.jpg": b"xyz"}
    data = make_zip(tmp_path / "x.zip", files).read_bytes()
    path = tmp_path / "bad.zip"
    num_refused = 0
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0xA5]) + data[offset + 1 :])
        try:
            # One bit of the directory, which has no checksum, makes a file a link: left out, but
            # counted.
            assert read_all(path) == files or index_zip(path).members.lost, offset
        except DataError:
            num_refused += 1
    assert num_refused > len(data) // 3


def test_backslashes_of_windows_part_folders_in_a_zip(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "x.zip",
        {"train\\cat\\1.jpg": b"abc", "train\\cat\\": b"", "val/cat\\2.jpg": b"de"},
    )
    assert read_all(path) == {"train/cat/1.jpg": b"abc", "val/cat/2.jpg": b"de"}
    assert index_zip(path).members.folders == ["train/cat"]


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\0" * 600, b"x" * 40_000])
def test_bytes_behind_the_end_of_a_zip_do_not_change_the_count(tmp_path: Path, tail: bytes) -> None:
    files = {f"{i}.jpg": b"abc" for i in range(9)}
    path = make_zip(tmp_path / "x.zip", files)
    data = path.read_bytes()
    path.write_bytes(data + tail)
    assert read_all(path) == files
    end = data.rindex(b"PK\5\6")
    path.write_bytes(data[: end + 10] + b"\5\0" + data[end + 12 :] + tail)
    with pytest.raises(DataError, match="has 9 entries but declares 5"):
        index_zip(path)
