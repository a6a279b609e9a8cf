"""WebDataset shards and folders of tars: one set, whatever the tars are called and however they
are named.
"""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import Tree, jpeg_file, make_folder, make_tar, make_zip, rows, tar_bytes
from saccade.data.sources import hold_out, open_source, train_split, validation_split
from saccade.data.sources.shards import expand
from saccade.errors import DataError
from saccade.setup.compose import Request, compose
from saccade.setup.flags import flag_settings
from saccade.training import datasets


def sample(key: str, number: int, label: bytes, kind: str = "cls") -> Tree:
    return {f"{key}.{kind}": label, f"{key}.jpg": jpeg_file(number)}


def samples(split: str, first: int, number: int) -> Tree:
    tree: Tree = {}
    for i in range(first, first + number):
        tree |= sample(f"{split}{i:03d}", i, f"{(i * 7) % 12}\n".encode())
    return tree


SHARDS = {
    "train-000000.tar": samples("t", 0, 6),
    "train-000001.tar": samples("t", 6, 6),
    "validation-0.tar": samples("v", 20, 4),
}
ARRANGED: Tree = {
    f"{tar.partition('-')[0]}/{int(tree[name[:-3] + 'cls']):02d}/{name}": data
    for tar, tree in SHARDS.items()
    for name, data in tree.items()
    if name.endswith("jpg")
}


def make_shards(folder: Path, shards: dict[str, Tree] | None = None, **others: bytes) -> Path:
    for name, tree in (shards or SHARDS).items():
        make_tar(folder / name, tree)
    return make_folder(folder, {name.replace("_", "."): data for name, data in others.items()})


def refused(spec: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(spec)
    return caught.value


def test_shards_are_the_arranged_folder(tmp_path: Path) -> None:
    arranged = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    renamed = {
        name.replace("train", "imagenet1k-train").replace("-0000", "_part"): SHARDS[name]
        for name in SHARDS
    }
    in_folders = {
        f"{name.partition('-')[0]}/{name.partition('-')[2]}": SHARDS[name] for name in SHARDS
    }
    as_json = {
        name: {
            key.replace(".cls", ".json"): json.dumps({"label": int(data), "w": 8}).encode()
            if key[-1] == "s"
            else data
            for key, data in tree.items()
        }
        for name, tree in SHARDS.items()
    }
    for number, shards in enumerate(
        (SHARDS, renamed, in_folders, as_json, dict(reversed(SHARDS.items())))
    ):
        source = open_source(make_shards(tmp_path / str(number), shards))
        assert rows(source) == rows(arranged) and list(source.splits) == ["train", "validation"]
        assert [s.fingerprint for s in source.splits.values()] == [
            s.fingerprint for s in arranged.splits.values()
        ]
    assert validation_split(source) is source.splits["validation"]


def test_a_pattern_names_shards_and_one_shard_is_a_set(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards")
    whole = rows(open_source(folder))
    train, val = ([row for row in whole if row[0] == name] for name in ("train", "validation"))
    assert rows(open_source(f"{folder}/train-{{000000..000001}}.tar")) == train
    assert rows(open_source(f"{folder}/{{train-00000{{0,1}},validation-0}}.tar")) == whole
    first, second = (
        open_source(folder / name) for name in ("train-000000.tar", "validation-0.tar")
    )
    assert [row[2:] for row in sorted(rows(first), key=lambda row: row[2])] == [
        row[2:] for row in sorted(train, key=lambda row: row[2])[:6]
    ]
    assert [row[2:] for row in rows(second)] == [row[2:] for row in val]
    error = refused(f"{folder}/train-{{000000..000004}}.tar")
    assert "3 missing shards of 5" in error.what and "train-000002.tar" in error.what
    for spec in ("{0..999999}.tar", "{5..2}.tar", "{x}.tar"):
        assert "pattern" in refused(f"{folder}/train-{spec}").what


def test_labels_are_integers_of_equal_width_or_text(tmp_path: Path) -> None:
    mixed = {
        "a.tar": sample("1", 1, b"9")
        | sample("2", 2, b'{"cls": 10, "more": [1]}', "json")
        | sample("3", 3, b" 007 ")
    }
    source = open_source(make_shards(tmp_path / "a", mixed))
    assert source.splits["all"].classes == ("07", "09", "10")
    text = {
        "a.tar": sample("1", 1, b"10")
        | sample("d/2", 2, "tre\u0301e/oak".encode())
        | sample("3", 3, b"cat")
    }
    split = open_source(make_shards(tmp_path / "b", text)).splits["all"]
    assert split.classes == ("10", "cat", "tr\u00e9e/oak") and split.names == (
        "1.jpg",
        "3.jpg",
        "d/2.jpg",
    )
    train, held = hold_out(train_split(source), 0.5, seed=0)
    assert len(train) + len(held) == 3


def test_class_files_give_titles_and_width(tmp_path: Path) -> None:
    titles = "\n".join(f"kind {i}" for i in range(101)).encode()
    source = open_source(make_shards(tmp_path / "a", classes_txt=titles))
    assert (
        source.splits["train"].classes[:2] == ("000", "001")
        and source.class_titles["011"] == "kind 11"
    )
    error = refused(make_shards(tmp_path / "b", classnames_txt=b"a\nb\n"))
    assert "the label 11 has no name" in error.what and "2 lines" in error.what


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    more = {
        "._t000.jpg": b"",
        "t000.txt": b"a caption",
        "t000.seg.png": b"x",
        "t000.json": b"{}",
        "t999.cls": b"3",
    }
    source = open_source(
        make_shards(tmp_path, SHARDS | {"train-000000.tar": SHARDS["train-000000.tar"] | more})
    )
    assert dict(source.ignored) == {
        "hidden or system file": 1,
        "other part of a sample": 2,
        "label without an image": 1,
    }


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"x7.jpg": b"x"}, ["the image 'x7.jpg' has no label"]),
        (sample("x7", 1, b""), ["the image 'x7.jpg' has no label"]),
        (sample("x7", 1, b"-1"), ["the image 'x7.jpg' has no label"]),
        (sample("x7", 1, b"{}", "json"), ["the image 'x7.jpg' has no label"]),
        (sample("x7", 1, b"[3]", "json"), ["the image 'x7.jpg' has no label"]),
        (
            sample("x7", 1, b'{"label": [1]}', "json"),
            ["label of 'x7'", "[1] is neither an integer nor text"],
        ),
        (sample("x7", 1, b'{"label": true}', "json"), ["label of 'x7'", "True is neither"]),
        (sample("x7", 1, b'{"label": 3', "json"), ["label of 'x7' cannot be used"]),
        (sample("x7", 1, b"[" * 100_000, "json"), ["label of 'x7' cannot be used", "nested"]),
        (sample("x7", 1, b"\xff"), ["label of 'x7' cannot be used"]),
        (sample("x7", 1, b"a\nb"), ["label of 'x7'", "not a valid class name"]),
        (sample("x7", 1, b"7" * (1 << 20) + b"7"), ["label of 'x7'", "1048577 bytes"]),
        (sample("x7", 1, b"3") | {"x7.png": b"x"}, ["the sample 'x7' has two images"]),
    ],
)
def test_a_bad_sample_is_refused_with_key_and_shard(
    tmp_path: Path, tree: Tree, words: list[str]
) -> None:
    shards = SHARDS | {"train-000001.tar": SHARDS["train-000001.tar"] | tree}
    said = str(refused(make_shards(tmp_path, shards)))
    assert all(word in said for word in [*words, "train-000001.tar"]), said


def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    tree = SHARDS["train-000000.tar"]
    for number, (shards, words) in enumerate(
        (
            (
                {"train-0.tar": tree, "train-1.tar": tree},
                ["'t000.jpg' is in 'train-0.tar' and in 'train-1.tar'"],
            ),
            (
                {"train-0.tar": tree, "other.tar": SHARDS["validation-0.tar"]},
                ["no name of a split", "other.tar"],
            ),
            ({"train-val.tar": tree}, ["contains 2 names of splits: train, val", "train-val.tar"]),
            (
                {"train-0.tar": tree, "val-0.tar": {"cat/1.jpg": b"x"}},
                ["val-0.tar", "no samples, but 'train-0.tar' does"],
            ),
        )
    ):
        said = str(refused(make_shards(tmp_path / str(number), shards)))
        assert all(word in said for word in words), said


def test_a_damaged_or_changed_shard_is_refused(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    source = open_source(folder)
    shard = folder / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:1024])
    with pytest.raises(DataError, match="the file ends before byte") as caught:
        [split.read(i) for split in source.splits.values() for i in range(len(split))]
    assert caught.value.where == str(shard)
    assert "this tar archive is damaged" in refused(folder).what
    shard.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        [split.read(i) for split in source.splits.values() for i in range(len(split))]


def test_many_shards_are_not_kept_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder = make_shards(tmp_path, {f"train-{i:03d}.tar": samples("t", i, 1) for i in range(120)})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 60, limits[1]))
    try:
        assert len(rows(open_source(folder))) == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_tars_of_class_folders_are_splits_told_by_their_names(tmp_path: Path) -> None:
    trees: dict[str, Tree] = {"my-train.tar": {}, "my-val.tar": {}}
    for name, data in ARRANGED.items():
        split, _, inner = name.partition("/")
        trees[f"my-{split[:5].replace('valid', 'val')}.tar"][inner] = data
    source = open_source(make_shards(tmp_path / "a", trees))
    arranged = open_source(make_folder(tmp_path / "arranged", ARRANGED))
    assert [row[1:] for row in rows(source)] == [row[1:] for row in rows(arranged)]
    assert list(source.splits) == ["train", "val"]
    twice = {"train-a.tar": trees["my-train.tar"], "train-b.tar": trees["my-val.tar"]}
    assert (
        "two sets of images for the split 'train'"
        in refused(make_shards(tmp_path / "b", twice)).what
    )


def test_a_note_beside_an_image_makes_no_shard_of_a_class_folder(tmp_path: Path) -> None:
    tree = {
        f"{name}/{i}.{end}": b"{}"
        for name in ("cat", "dog")
        for i in range(2)
        for end in ("jpg", "json")
    }
    for path in (
        make_tar(tmp_path / "x.tar", tree | {"docs/thesis.cls": b""}),
        make_zip(tmp_path / "x.zip", tree),
    ):
        assert open_source(path).splits["all"].classes == ("cat", "dog")


@given(st.integers(0, 200), st.integers(0, 30), st.integers(1, 6))
def test_a_range_counts_with_leading_zeros(first: int, more: int, width: int) -> None:
    found = list(expand(f"a{{{first:0{width}}..{first + more}}}b"))
    assert found == [
        f"a{i:0{max(width, len(str(first)))}}b" for i in range(first, first + more + 1)
    ]
    assert next(islice(expand("{0..9}{a,b}{x,}"), 4, None)) == "1ax"


def test_a_tar_that_holds_no_set_is_not_taken_for_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "code.tar", "w"):
        pass
    assert "contain no images" in refused(tmp_path).what


def test_keys_may_hold_dots_and_endings_be_of_any_case(tmp_path: Path) -> None:
    plain = rows(open_source(make_shards(tmp_path / "plain")))
    for number, (old, new) in enumerate((("t0", "img_22.05_"), (".cls", ".CLS"), (".jpg", ".JPG"))):
        tree = {
            tar: {name.replace(old, new): data for name, data in files.items()}
            for tar, files in SHARDS.items()
        }
        source = open_source(make_shards(tmp_path / str(number), tree))
        assert rows(source) == [(a, b, name.replace(old, new), data) for a, b, name, data in plain]
        assert not source.ignored


def test_other_images_of_a_sample_are_parts_of_it(tmp_path: Path) -> None:
    more = {"t000.seg.png": b"x", "t000.crop.1.jpg": b"x"}
    source = open_source(
        make_shards(
            tmp_path / "a", SHARDS | {"train-000000.tar": SHARDS["train-000000.tar"] | more}
        )
    )
    assert rows(source) == rows(open_source(make_shards(tmp_path / "b")))
    assert source.ignored == {"other part of a sample": 2}
    alone = {"train-0.tar": sample("a", 1, b"1") | {"b.input.jpg": jpeg_file(2), "b.cls": b"0"}}
    assert open_source(make_shards(tmp_path / "c", alone)).splits["train"].names == (
        "b.input.jpg",
        "a.jpg",
    )
    for extra in ({"b.1.jpg": b"x", "b.2.jpg": b"x", "b.cls": b"0"}, {"b.1.jpg": b"x"}):
        assert (
            "'b"
            in refused(
                make_shards(
                    tmp_path / str(len(extra)), {"train-0.tar": sample("a", 1, b"1") | extra}
                )
            ).what
        )


def test_a_label_that_another_file_contradicts_is_refused(tmp_path: Path) -> None:
    for number, (cls, label) in enumerate(((b"1", 2), (b"cat", "dog"))):
        tree = (
            sample("a", 1, cls)
            | sample("b", 2, cls)
            | {"b.json": json.dumps({"label": label}).encode()}
        )
        error = refused(make_shards(tmp_path / str(number), {"train-0.tar": tree}))
        assert f"'b' is '{cls.decode()}' in its .cls but '{label}' in its .json" in error.what
    for number, (cls, note) in enumerate(
        ((b"01", {"label": 1}), (b"1", {"label": "cat"}), (b"1", {"width": 8}))
    ):
        tree = sample("a", 1, cls) | {"a.json": json.dumps(note).encode()}
        assert open_source(make_shards(tmp_path / f"x{number}", {"train-0.tar": tree})).splits[
            "train"
        ].classes == ("1",)


def test_integers_of_several_sources_are_compared_as_numbers(tmp_path: Path) -> None:
    train = {
        "train-0.tar": {
            k: v for i in range(12) for k, v in sample(f"t{i:02d}", i, b"%d" % i).items()
        }
    }
    few = {
        "val-0.tar": {
            k: v for i in (9, 3, 7) for k, v in sample(f"v{i}", 20 + i, b"%d" % i).items()
        }
    }
    val = open_source(make_shards(tmp_path / "val", few)).splits["val"]
    classes = open_source(make_shards(tmp_path / "train", train)).splits["train"].classes
    assert (classes[3], val.classes) == ("03", ("3", "7", "9"))
    named = val.called_as(classes)
    assert named.classes == ("03", "07", "09") and val.with_classes(classes).labels.tolist() == [
        3,
        7,
        9,
    ]
    arranged = make_folder(
        tmp_path / "x", {f"val/{i:02d}/v{i}.jpg": jpeg_file(20 + i) for i in (3, 7, 9)}
    )
    assert named.fingerprint == open_source(arranged).splits["val"].fingerprint
    wide = open_source(
        make_folder(tmp_path / "y", {f"{i}/a.jpg": jpeg_file(i) for i in (1, 2, 10)})
    ).splits["all"]
    padded = wide.called_as(classes)  # 1, 10, 2 are sorted anew
    assert padded.classes == ("01", "02", "10") and [bytes(padded.read(i)) for i in range(3)] == [
        jpeg_file(i) for i in (1, 2, 10)
    ]
    with pytest.raises(DataError, match="15"):
        open_source(make_folder(tmp_path / "z", {"15/a.jpg": b"x"})).splits["all"].with_classes(
            classes
        )
    assert val.called_as(("cat", "3")) is val


def test_validation_shards_with_fewer_digits_validate(tmp_path: Path) -> None:
    def shards(split: str, kinds: range, first: int) -> dict[str, Tree]:
        images = [(f"{split}{i}", first + i, b"%d" % i) for i in kinds]
        return {
            f"{split}-0.tar": {
                k: v for key, size, label in images for k, v in sample(key, size, label).items()
            }
        }

    one, two = make_shards(tmp_path / "one", shards("a", range(12), 0)), tmp_path / "two"
    make_folder(two, {f"{i:03d}/x.jpg": jpeg_file(20 + i) for i in range(12)})
    composed = compose(Request(["digits"], flag_settings(data=one, val=two)))
    data = datasets.open_data(composed.config, composed.source)
    assert data.val.classes == data.train.classes == tuple(f"{i:02d}" for i in range(12))


@pytest.mark.parametrize(
    ("ending", "pack"), [(".tar.gz", gzip.compress), (".tar.xz", lzma.compress)]
)
def test_compressed_shards_are_read_by_folder_and_by_pattern(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    wanted = rows(open_source(make_shards(tmp_path / "plain")))
    folder = make_folder(
        tmp_path / "packed",
        {name.replace(".tar", ending): pack(tar_bytes(tree)) for name, tree in SHARDS.items()},
    )
    assert rows(open_source(folder)) == wanted
    assert rows(open_source(f"{folder}/{{train-00000{{0..1}},validation-0}}{ending}")) == wanted


def test_text_labels_that_would_be_classes_by_mistake_are_asked_about(tmp_path: Path) -> None:
    for number, label in enumerate((b"Cat", b"cat|dog", b"nan")):
        tree = sample("a", 1, b"cat") | sample("b", 2, b"dog") | sample("c", 3, label)
        error = refused(make_shards(tmp_path / str(number), {"train-0.tar": tree}))
        assert error.finding == "labels-unclear" and f"'{label.decode()}'" in error.what
