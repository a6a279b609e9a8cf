"""Odd command lines and files of settings by the hundred: no traceback, and no status that
docs/exit-codes.md lacks.
"""

from __future__ import annotations

import io
import random
import re
import string
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from console import run_here
from saccade.config import schema

VALUES = [
    "",
    "0",
    "-1",
    "1",
    "null",
    "true",
    "~",
    "[]",
    "{}",
    "[1,2,3]",
    ".nan",
    ".inf",
    "-.inf",
    "1e308",
    "-1e308",
    "1e-320",
    "9" * 30,
    "9" * 5000,
    "0x_",
    "0b_",
    "1:60",
    "1_000",
    "2024-13-45",
    "!!int x",
    "!!timestamp x",
    "!!binary x",
    "!!python/object/apply:os.system [x]",
    "!!set {a}",
    "&a [*a]",
    "&a {b: *a}",
    "{a: 1}",
    "'",
    '"',
    "%",
    "5%",
    "100%",
    "0ep",
    "1e3ep",
    "-1step",
    "1ep or",
    " or ",
    "٣ep",
    "²",
    "1/2",
    "0.5 per 0",
    "e",
    ".",
    "--",
    "\x1b[31m",
    "\u2028",
    "\udce9",
    "a" * 3000,
    "cpu:0",
    "cpu:99999999",
    "0,0",
    ",",
    "cuda",
    "mps",
    "timm:",
    "timm:x",
    "torchvision:",
    "custom:x",
    "resnet18_x1e9",
    "resnet18_x0",
    "vit_",
    "../../etc",
    "/etc/passwd",
    "~nouser",
    "[[1,2],[3]]",
    "[0,0]",
    "[-1,1]",
    "<<",
    "<<: 1",
    "- a",
    "? a",
    "|",
    "*a",
    "@x",
    "`x",
    "!x y",
    "0o9",
    "+1",
    "[" * 3000,
    "{a: " * 3000,
    "12345678901234567890",
    "digits",
    "nowhere.tar",
    "resnet8",
    "photos-small",
    "x.yaml",
    "1e400",
    "/dev/null",
    "*]",
    "[",
    "q" * 300 + ".tar",
    "{a,a}" * 300,
]
FLAGS = [
    "--data",
    "--val",
    "--labels",
    "--model",
    "--init",
    "--epochs",
    "--batch-size",
    "--lr",
    "--image-size",
    "--seed",
    "--devices",
    "--precision",
    "--max-time",
    "--holdout",
    "--minival",
]
FIELDS = [(name, default) for name, _, _, default in schema.fields()]
TABLE = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
DOCUMENTED = set(map(int, re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE))) - {1}
"""What a user may meet; 1 is a bug of ours."""


class Maker:
    """Makes command lines from a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.folder = folder

    def word(self) -> str:
        """A value that means something somewhere, or letters."""
        if self.draw.random() < 0.9:
            return self.draw.choice(VALUES)
        return "".join(self.draw.choices(string.printable, k=self.draw.randint(1, 12))).replace(
            "\0", ""
        )

    def setting(self) -> tuple[str, str]:
        name, default = self.draw.choice(FIELDS)
        number = self.draw.randint(-5, 10 ** self.draw.randint(1, 12))
        value = (
            self.word()
            if self.draw.random() < 0.75
            else str(self.draw.choice([default, number, number / 7]))
        )
        if self.draw.random() < 0.12:
            name = self.draw.choice(
                [f"{name}.x", name.upper(), "", ".", "a..b", name.split(".")[0], "__class__"]
            )
        return name, value

    def file(self) -> str:
        lines = []
        for _ in range(self.draw.randint(1, 4)):
            section, _, key = (found := self.setting())[0].rpartition(".")
            lines.append(
                f"{section}:\n  {key}: {found[1]}\n" if section else f"{key}: {found[1]}\n"
            )
        data = bytearray("".join(lines).encode("utf-8", "surrogateescape"))
        for _ in range(self.draw.choice([0, 0, 3])):
            data[self.draw.randrange(len(data))] = self.draw.randrange(256)
        path = self.folder / "odd.yaml"
        path.write_bytes(bytes(data))
        return str(path)

    def command(self, *, slow: bool) -> list[str]:
        verb = self.draw.choice(
            ["dry"] * 5 + ["file"] * 2 + ["models", "recipes"] + ["check", "check", "lr"] * slow
        )
        if verb == "file":
            return ["train", "--dry-run", self.file()]
        if verb == "models":
            more = self.draw.choice([[], ["--image-size", self.word()], ["--classes", self.word()]])
            return ["models", self.draw.choice(["resnet8", "[", "*]", "", self.word()]), *more]
        if verb == "recipes":
            return ["recipes", self.draw.choice([self.word(), "record", "digits"])]
        words = {
            "dry": ["train", "--dry-run"],
            "check": ["check"],
            "lr": ["lr", "digits", "--out", "x.png"],
        }[verb]
        if verb != "lr" and self.draw.random() < 0.3:
            words.append(
                self.draw.choice(["resnet8", "digits", "custom:x", "nope", "", self.word()])
            )
        for flag in (
            self.draw.sample(FLAGS, self.draw.choice([0, 0, 1, 2, 3])) if verb != "lr" else []
        ):
            words += [flag, self.word()] if (verb, flag) != ("check", "--max-time") else []
        for _ in range(self.draw.choice([1, 1, 2, 3])):
            words += ["--set", "=".join(self.setting())]
        return words


@pytest.mark.parametrize(
    ("count", "slow"), [(80, False), pytest.param(2000, True, marks=pytest.mark.full)]
)
def test_no_command_line_ends_in_a_traceback(count: int, slow: bool, tmp_path: Path) -> None:
    for number in range(24):
        place = tmp_path / "set" / ("train", "val")[number % 2] / "ab"[number // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, "PNG")
        (place / f"{number}.png").write_bytes(out.getvalue())
    maker = Maker(20261128, tmp_path)
    told, seen = [], set()
    for _ in range(count):
        words = [word.replace("\0", "") for word in maker.command(slow=slow)]
        if words[0] == "check" and "--data" not in words:
            words += ["--data", str(tmp_path / "set")]
        try:
            done = run_here(*words, cwd=tmp_path)
        except Exception as error:
            told.append(
                f"{[word[:60] for word in words]}: {type(error).__name__}: {str(error)[:200]}"
            )
            continue
        seen.add(done.status)
        if done.status not in DOCUMENTED or "Traceback" in done.stderr:
            told.append(f"{[word[:60] for word in words]}: status {done.status}")
    assert not told, "\n".join(told)
    assert {0, 2, 78} <= seen, "the maker makes nothing but one kind of mistake"
