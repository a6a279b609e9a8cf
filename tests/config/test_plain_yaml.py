"""The one reader of YAML: what settings need is read as PyYAML reads it, everything else is
refused in a sentence.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from console import run_here
from saccade import recipes
from saccade.config import plain_yaml
from saccade.config.plain_yaml import BadYaml

REFUSED = {
    "!!int abc": "tags",
    "!!timestamp x": "tags",
    "!!python/object/apply:os.system [x]": "tags",
    "!mine {a: 1}": "tags",
    "{a: !!str 1}": "tags",
    "! x": "tags",
    "&a [*a]": "anchors",
    "{a: &x 1, b: *x}": "anchors",
    "*a": "anchors",
    "&a {b: *a}": "anchors",
    "0x_": "number",
    "0b_": "number",
    "9" * 5000: "number",
    "[" * 5000: "deeper than 32",
    "{a: " * 5000: "deeper than 32",
    "- " * 5000: "deeper than 32",
    "x: 1\nx: 2": "'x' is set twice",
    "{a: {b: 1, b: 2}}": "'b' is set twice",
    "[1": "expected",
    "a: b: c": "not allowed here",
    "\udce9": "not allowed",
    "\x00": "not allowed",
    "- a\n---\n- b": "another document",
    "{[1]: 2}": "unhashable",
    "x" * (plain_yaml.LIMIT_BYTES + 1): "longer than",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_what_is_not_plain_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadYaml, match=REFUSED[text].replace("(", r"\(")):
        plain_yaml.load(text)


def test_the_line_of_a_mistake_is_named() -> None:
    for text in ("a: 1\nb: 2\nc: !!int 3", "a: 1\nb: 2\nc: 0x_", "a: 1\nb: 2\nc: [1"):
        with pytest.raises(BadYaml) as caught:
            plain_yaml.load(text)
        assert caught.value.line == 3, text


@pytest.mark.parametrize("text", ["2024-13-45", "2024-01-01", "<<", "=", "12:30:45pm", ""])
def test_dates_and_merges_are_ordinary_words(text: str) -> None:
    assert plain_yaml.load(text) == (text or None)


@pytest.mark.parametrize("text", ["012", "-07", "1:30", "190:20:30", "1:30.5", "00"])
def test_numbers_are_not_counted_in_eights_or_sixties(text: str) -> None:
    assert plain_yaml.load(text) == text
    assert plain_yaml.load(f"[{text}, 0, 12, 0.5, 1_000, 0x1f]") == [text, 0, 12, 0.5, 1000, 31]


def test_a_merge_key_is_an_ordinary_name() -> None:
    assert plain_yaml.load("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_are_read_as_by_pyyaml(name: str) -> None:
    text = recipes.find(name).path.read_text(encoding="utf-8")
    assert plain_yaml.load(text) == yaml.safe_load(text)


TEXTS = st.text(max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10
)


@settings(max_examples=50)
@given(PLAIN)
def test_what_we_write_is_read_as_by_pyyaml(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert plain_yaml.load(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "assignment",
    [
        "data.train=2024-13-45",
        "seed=0x_",
        "seed=!!int abc",
        "data.mean=[.nan,.inf,1]",
        "model=&a {b: *a}",
        "seed=" + "[" * 5000,
        "." * 9000 + "=1",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_an_odd_value_on_the_command_line_ends_in_a_documented_status(assignment: str) -> None:
    done = run_here("train", "--dry-run", "--set", assignment)
    assert done.status in (65, 78)
    assert "do:" in done.stderr or "where:" in done.stderr
    assert len(done.stderr) < 2000, "a long value is not repeated"


def test_an_odd_file_of_settings_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text in (
        "seed: 1\nmodel: &a {name: *a}\n",
        "seed: 1\nepochs: !!timestamp 1\n",
        "seed: 1\nseed: 2\n",
    ):
        path.write_text(text)
        done = run_here("train", "--dry-run", str(path))
        assert done.status == 78
        assert f"{path}, line" in done.stderr, done.stderr
    path.write_bytes(b"seed: 1 # " + b"x" * plain_yaml.LIMIT_BYTES)
    done = run_here("train", "--dry-run", str(path))
    assert done.status == 78 and "larger than 262,144 bytes" in done.stderr
