"""Names of strangers on a terminal, a page and in a table: shown, never obeyed."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table

from console import run_here
from saccade import log, printable
from saccade.errors import DataError
from saccade.printable import cell, to_json
from saccade.report.html import element
from saccade.system import consoles

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mEVIL"
TURNED = "photo\u202egpj.exe"
WILD = [
    ESCAPES,
    TURNED,
    "\x9b31m",
    "a\rb",
    "a\x08b",
    "\u2066x\u2069",
    "\ufeffx",
    "a\u2028b",
    "\x7f",
    "\udce9",
    "\x00",
]
TAME = ["cat", "Hündin", "日本", "a b", "من‌کتاب", "👩‍👩‍👧", "e\u0301", "a\u00a0b", "a\\b"]


def acts(text: str, keep: str = "\n\t") -> bool:
    """An independent judge: Unicode's own categories of what is no visible character."""
    return any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in BIDI
        for c in text
        if c not in keep
    )


BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.text(st.characters()))
def test_nothing_that_acts_is_left_of_any_text(text: str) -> None:
    assert not acts(printable.printable(text))
    assert not acts(printable.printable(text, keep=""), keep="")
    assert not acts(to_json({text: [text]}), keep="")
    assert json.loads(to_json({text: [text]})) == {text: [text]}, "JSON means what it meant"


@pytest.mark.parametrize("text", TAME)
def test_what_people_write_is_left_alone(text: str) -> None:
    assert printable.printable(text) == cell(text) == json.loads(to_json(text)) == text
    assert text in to_json(text) or "\\" in text


def test_how_it_is_written_out() -> None:
    shown = [
        printable.printable(text)
        for text in ("\x1b[2J", "\u202e", "caf\udce9", "\U000e0001", "a\nb")
    ]
    assert shown == ["\\x1b[2J", "\\u202e", "caf\\xe9", "\\U000e0001", "a\nb"]
    assert printable.printable("a\nb", keep="") == "a\\x0ab"


@pytest.mark.parametrize("text", WILD, ids=ascii)
def test_a_log_a_table_and_a_page_show_it(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    voice = log.Log()
    voice.say(text)
    voice.fact("data", text)
    voice.warn(text)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    consoles.console(file=sys.stderr, width=200).print(table, markup=False)
    said = capfd.readouterr().err
    assert said and not acts(said)
    assert not acts(element("p", text, title=text))


@pytest.mark.parametrize("text", WILD, ids=ascii)
def test_the_event_stream_shows_it_and_means_it(text: str, tmp_path: Path) -> None:
    voice = log.Log(quiet=True)
    voice.open(tmp_path / "log.jsonl")
    voice.warn(text)
    voice.close()
    written = (tmp_path / "log.jsonl").read_text()
    assert not acts(written)
    assert log.read_events(tmp_path / "log.jsonl")[-1]["text"] == text


def test_an_error_cannot_pretend_to_have_another_line() -> None:
    error = DataError("'a\n  do:    rm -rf ~' is damaged", where="x\n  do: y", fix="z\nw")
    assert [line[:6] for line in str(error).splitlines()] == ["'a", "      ", "  wher", "  do: "]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(1)", "\tx", "\rx", "＝1", "=cmd|' /C calc'!A0"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    assert cell(text)[0] == "'" and cell(text, path=True)[:2] == "./"
    for shown in (cell(text), cell(text, path=True)):
        assert not acts(shown, keep="")


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 80, (32, 32, 3)) + 150 * np.eye(3)[seed % 2]
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on classes whose names are formulas and commands."""
    root = tmp_path_factory.mktemp("evil")
    names = ["=1+1", f"dog{ESCAPES}"]
    tree = {
        f"{s}/{c}/{i}{TURNED}.jpg": jpeg(2 * i + k + 100 * (s == "val"))
        for s in ("train", "val")
        for k, c in enumerate(names)
        for i in range(8)
    }
    with tarfile.open(root / "set.tar", "w") as archive:
        for name, data in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    done = run_here(
        "train",
        "resnet8",
        "--data",
        str(root / "set.tar"),
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--out",
        str(root / "run"),
    )
    assert done.status == 0 and not acts(done.stdout + done.stderr)
    return root / "run"


def test_every_verb_shows_names_and_obeys_none(run: Path, tmp_path: Path) -> None:
    image = tmp_path / f"=x{ESCAPES}\n{TURNED}.jpg"
    image.write_bytes(jpeg(0))
    data = str(run.parent / "set.tar")
    for words in (
        ("check", "resnet8", "--data", data, "--image-size", "32"),
        ("verify", data),
        ("eval", str(run)),
        ("report", str(run)),
        ("predict", str(run), str(image)),
        ("predict", str(run), str(image), "--json"),
        ("verify", data, "--json"),
        ("predict", str(run), f"{image}.gone"),
        ("verify", f"{image}.gone"),
        ("train", "--data", f"{image}.gone", "--set", f"{ESCAPES}=1"),
        ("train", f"x{ESCAPES}"),
    ):
        done = run_here(*words)
        assert done.status in (0, 2, 65, 66, 78), (words, done)
        assert not acts(done.stdout + done.stderr), words
        assert "Traceback" not in done.stderr
    page = (run / "report.html").read_text()
    assert not acts(page)


def test_a_spreadsheet_opens_the_answers_as_text(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("=1+1.jpg").write_bytes(jpeg(0))
    assert run_here("predict", str(run), "=1+1.jpg", "--csv", "p.csv").status == 0
    rows = list(csv.reader(Path("p.csv").read_text().splitlines()))
    assert len(rows) == 3
    for row in rows[1:]:
        assert Path(row[0]) == Path("=1+1.jpg") and row[0].startswith("./")
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row)
    assert {row[2] for row in rows[1:]} == {"'=1+1", f"dog{printable.printable(ESCAPES)}"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such names")
def test_a_name_that_is_no_utf8_is_answered_shown_and_written(run: Path, tmp_path: Path) -> None:
    image = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(image, "wb") as file:
        file.write(jpeg(0))
    name = os.fsdecode(image)
    done = run_here("predict", str(run), name, "--csv", str(tmp_path / "p.csv"))
    assert done.status == 0 and "caf\\xe9.jpg: " in done.stdout
    assert "caf\\xe9.jpg" in (tmp_path / "p.csv").read_text("utf-8")
    done = run_here("predict", str(run), name, "--json")
    assert done.status == 0 and os.fsencode(json.loads(done.stdout)[0]["path"]) == image


@pytest.mark.full
@pytest.mark.parametrize(
    "surroundings",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_a_terminal_without_the_letters_gets_them_written_out(
    run: Path, tmp_path: Path, surroundings: dict[str, str]
) -> None:
    image = tmp_path / "Hündin.jpg"
    image.write_bytes(jpeg(0))
    for more in ((), ("--json",)):
        words = [sys.executable, "-m", "saccade", "predict", str(run), str(image), *more]
        done = subprocess.run(words, env=os.environ | surroundings, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (
            b"H\\xfcndin" in done.stdout
            or b"H\xc3\xbcndin" in done.stdout
            or b"H\\u00fcndin" in done.stdout
        )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such names")
def test_a_run_and_its_images_may_lie_under_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xe9")))
    for number, name in enumerate(
        f"{s}/{c}/{i}.jpg" for s in ("train", "val") for c in "ab" for i in range(4)
    ):
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(jpeg(number))
    words = (
        "train",
        "lenet",
        "--data",
        str(root / "set"),
        "--image-size",
        "32",
        "--epochs",
        "1step",
    )
    done = run_here(*words, "--out", str(root / "run"))
    assert done.status == 0, done.stderr
    assert "this run is finished" in run_here(*words, "--out", str(root / "run")).stderr
    for verb in ("eval", "report"):
        assert run_here(verb, str(root / "run")).status == 0
