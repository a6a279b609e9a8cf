"""The verb `models`: a table of costs, a figure of one network's stages, both as JSON too."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import saccade
from saccade.cli.main import app
from saccade.models import names


def models(*arguments: str, columns: int = 140, status: int = 0) -> tuple[str, str]:
    answer = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["models", *arguments])
    assert answer.exit_code == status, answer.output
    return answer.stdout, answer.stderr


@pytest.mark.spec(21)
def test_the_table_has_costs_sources_and_what_they_mean() -> None:
    out, _ = models("resnet1?")
    line = next(line for line in out.splitlines() if line.startswith("resnet18"))
    assert (
        line.split()[:6] == ["resnet18", "resnet", "224", "11.69", "M", "1.81"]
        and "arXiv 1512.03385" in line
    )
    assert "MB/image" in out and "backward pass" in " ".join(out.split())
    narrow, _ = models("resnet1?", columns=80)
    assert (
        "MB/image" in narrow and "arXiv" not in narrow and max(map(len, narrow.splitlines())) <= 80
    )


@pytest.mark.parametrize("columns", [80, 140])
def test_one_network_is_drawn_stage_by_stage(columns: int) -> None:
    out, _ = models("ResNet-50", "--image-size", "64", columns=columns)
    lines = out.splitlines()
    assert lines[0].startswith("resnet50") and "64 x 64 px" in " ".join(lines[:3])
    stage = next(line for line in lines if line.startswith("layer3"))
    assert (
        stage.split()[:4] == ["layer3", "1024x8x8", "6", "7,098,368"]
        and "█" in stage
        and stage.endswith("%")
    )
    assert max(map(len, lines)) <= columns


def test_json_has_the_stages_of_one_and_the_costs_of_many() -> None:
    (row,) = json.loads(models("resnet18", "--json")[0])
    assert (
        row["params"] == 11_689_512 == sum(s["params"] for s in row["stages"])
        and row["kept_bytes"] > 0
    )
    rows = json.loads(models("resnet8*", "--json")[0])
    assert [r["model"] for r in rows] == [
        "resnet8",
        "resnet8_x2",
        "resnet8_x4",
    ] and "stages" not in rows[0]


def test_networks_that_cannot_take_a_size_are_left_out_and_named() -> None:
    out, err = models("torchvision:squeezenet*", "--image-size", "20")
    assert "skipped: torchvision:squeezenet1_0" in err and "squeezenet1_1" in out
    _, err = models("torchvision:inception_v3", "--image-size", "32", status=78)
    assert "fails on 32 x 32 pixels" in err
    _, err = models("resent50", status=78)
    assert "did you mean resnet50" in err


def test_every_network_is_in_the_list() -> None:
    assert saccade.list_models() == names() and saccade.list_models("resnet8*") == names("resnet8*")


@pytest.mark.models
@pytest.mark.spec(21)
def test_the_whole_table_is_counted() -> None:
    assert len(json.loads(models("*", "--json")[0])) == len(names())
