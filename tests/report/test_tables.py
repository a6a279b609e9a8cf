"""Tables of the terminal: a line for each row, as wide as the terminal, and no name cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from saccade import recipes
from saccade.cli.main import app
from saccade.recipes import receipts


def listed(*arguments: str, columns: int) -> str:
    answer = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, list(arguments))
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_recipes_are_listed_in_a_line_each_and_the_measured_first(columns: int) -> None:
    _, head, *lines = listed("recipes", columns=columns).splitlines()
    shown = [line.split()[0] for line in lines[: len(recipes.names())]]
    assert sorted(shown) == recipes.names()
    assert max(map(len, lines)) <= columns
    assert head.split()[:4] == ["recipe", "status", "top1", "time"]
    statuses = [receipts.status(recipes.find(name)) for name in shown]
    measured = statuses.count("measured")
    assert measured >= 5 and statuses[:measured] == ["measured"] * measured
    assert ("machine" in head) == (columns > 100)


def test_a_long_text_is_cut_where_all_can_see_it_and_is_whole_with_the_name() -> None:
    about = recipes.find("rsb-a2").about
    line = next(x for x in listed("recipes", columns=80).splitlines() if x.startswith("rsb-a2"))
    assert line.rstrip().endswith("…") and about not in line
    assert "(79.83 %)" in line, "in brackets: not ours"
    whole = yaml.safe_load(listed("recipes", "rsb-a2", columns=80))
    assert " ".join(whole["about"].split()) == about


def test_a_narrow_terminal_loses_no_name_and_no_figure() -> None:
    lines = listed("recipes", columns=30).splitlines()
    digits = next(line for line in lines if line.startswith("digits "))
    assert "measured" in digits and receipts.read("digits")[0].summary[:7] in digits


def test_a_recipe_comes_with_its_receipt_and_is_still_its_file() -> None:
    shown = listed("recipes", "digits", columns=80)
    (receipt,) = receipts.read("digits")
    assert f"# measured: {receipt.summary}" in shown
    assert yaml.safe_load(shown) == yaml.safe_load(recipes.find("digits").path.read_text())


def test_models_counted_once_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = json.loads(listed("models", "resnet8*", "--json", columns=80))
    (kept,) = (tmp_path / "saccade").glob("models-*.json")
    facts = json.loads(kept.read_text())
    facts["resnet8 1000 0"]["params"] = 17
    kept.write_text(json.dumps(facts))
    again = json.loads(listed("models", "resnet8*", "--json", columns=80))
    assert again[0]["params"] == 17 and again[1:] == first[1:]
    other = json.loads(listed("models", "resnet8*", "--json", "--classes", "7", columns=80))
    assert other[0]["params"] not in (17, first[0]["params"])
