"""A table of runs has every cell filled, from the run folders alone, and links that lead
somewhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.console import run_here

import saccade
from saccade import files

HEAD = "run|status|model|data|epochs|params (M)|MACs (G)|top-1|top-5|time|links"


@dataclass(frozen=True)
class Runs:
    """A finished run, one of two classes, and one that was stopped before its first evaluation."""

    done: Path
    named: Path
    stopped: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    done, named, stopped = place / "done", place / "=named", place / "stopped"
    saccade.train(epochs="3step", out=done, quiet=True)
    for copy in (named, stopped):
        for name in ("run.json", "log.jsonl", "config.yaml"):
            files.write_bytes(copy / name, (done / name).read_bytes())
    files.write_bytes(done / "notebook.ipynb", b"{}")
    facts = files.read_json(named / "run.json")
    facts["dataset"]["classes"] = ["no", "yes"]
    facts["model"]["name"] = "custom:<b>|*Net*"
    files.write_json(named / "run.json", facts)
    text = (named / "config.yaml").read_text(encoding="utf-8")
    files.write_bytes(
        named / "config.yaml", text.replace("resnet8_x2", "custom:Net").encode("utf-8")
    )
    facts = files.read_json(stopped / "run.json")
    for name in ("result", "best", "seconds"):
        del facts[name]
    files.write_json(stopped / "run.json", facts | {"status": "running"})
    files.write_bytes(stopped / "log.jsonl", b"")
    return Runs(done, named, stopped)


def cells(line: str) -> list[str]:
    """Split a line of a Markdown table at the marks that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.spec(53)
def test_no_cell_is_blank_and_every_link_leads_to_a_file(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "runs.md"
    paths = [str(run) for run in (runs.done, runs.named, runs.stopped)]
    assert run_here("report", *paths, "--table", "md", "--out", str(out)).status == 0
    head, rule, *lines = out.read_text(encoding="utf-8").splitlines()
    assert cells(head) == HEAD.split("|") and set(rule) <= set("| -:") and len(lines) == 3
    for line in lines:
        assert len(cells(line)) == len(cells(head)) == len(cells(rule)) and all(cells(line))
    links = re.findall(r"\]\(<([^>]*)>\)", "".join(lines))
    assert len(links) == 4 + 1 + 1  # only what is there
    assert all((out.parent / link).is_file() for link in links)


@pytest.mark.spec(53)
def test_the_figures_are_those_of_the_run_and_of_the_model(runs: Runs) -> None:
    said = run_here("report", runs.done.name, "--table", "csv", cwd=runs.done.parent)
    (row,) = csv.DictReader(io.StringIO(said.stdout))
    facts = json.loads((runs.done / "run.json").read_text())
    assert row["model"] == "resnet8_x2" and row["data"] == "digits" and row["status"] == "done"
    assert float(row["top1"]) == facts["result"]["top1"]
    assert float(row["top5"]) == facts["result"]["top5"]
    assert float(row["epochs"]) == facts["result"]["epoch"]
    assert float(row["seconds"]) == facts["seconds"]
    counted = json.loads(
        run_here("models", "resnet8_x2", "--classes", "10", "--image-size", "16", "--json").stdout
    )[0]
    assert (int(row["params"]), int(row["macs"])) == (counted["params"], counted["macs"])
    assert row["weights"] == f"{runs.done.name}/model.safetensors"


def test_what_a_run_does_not_say_is_said_to_be_missing(runs: Runs) -> None:
    said = run_here("report", str(runs.stopped), str(runs.named), "--table", "csv")
    stopped, named = csv.DictReader(io.StringIO(said.stdout))
    missing = {name for name, value in stopped.items() if value == "n/a"}
    assert missing == {"epochs", "top1", "top5", "seconds", "report", "weights", "notebook"}
    assert stopped["status"] == "running or killed"
    # of two classes the true one is always among the first five; an own network is not counted
    assert named["top5"] == named["macs"] == "n/a" and named["top1"] != "n/a"


def test_names_cannot_break_the_table_nor_run_in_a_spreadsheet(runs: Runs) -> None:
    said = run_here("report", str(runs.done), str(runs.named), "--table", "md").stdout
    first, second = said.splitlines()[2:]
    assert cells(first)[2] == r"resnet8\_x2" and cells(second)[2] == r"custom:\<b\>\|\*Net\*"
    (row,) = csv.DictReader(
        io.StringIO(run_here("report", str(runs.named), "--table", "csv").stdout)
    )
    assert row["run"] == "'=named"


def test_a_checkpoint_has_no_row(runs: Runs, tmp_path: Path) -> None:
    said = run_here("report", str(runs.done), "--table", "md", "--best")
    assert said.status == 2 and "--best" in said.stderr
    said = run_here("report", str(tmp_path), "--table", "md")
    assert said.status == 2 and "this is not a run folder" in said.stderr
