"""Configuration: merging, one clear line for every mistake, fingerprint and difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saccade.config import schema as configuration
from saccade.config.cells import divisors
from saccade.config.layers import Layers
from saccade.config.schema import Config
from saccade.errors import ConfigError


def resolved(*assignments: str) -> Config:
    layers = Layers()
    for assignment in assignments:
        layers.set(assignment)
    return layers.resolve()


def test_numbers_without_a_unit_are_epochs_or_seconds() -> None:
    layers = Layers()
    for assignment in (
        "epochs=2",
        "ema.half_life=0.5",
        "schedule.warmup=5",
        "schedule.every=30",
        "schedule.milestones=[1, 2.5, 3ep]",
        "schedule.decay=1",
        "checkpoint.every=2",
        "max_time=90",
        "ranks.start_limit=30",
        "ranks.step_limit=1.5",
        "data.holdout=10%",
        "data.minival=0.02",
    ):
        layers.set(assignment)
    config = layers.resolve()
    assert (config.epochs, config.ema.half_life, config.checkpoint.every) == ("2ep", "0.5ep", "2ep")
    schedule = config.schedule
    assert (schedule.warmup, schedule.every, schedule.decay) == ("5ep", "30ep", "1ep")
    assert schedule.milestones == ("1ep", "2.5ep", "3ep")
    assert (config.max_time, config.ranks.start_limit, config.ranks.step_limit) == (
        "90s",
        "30s",
        "1.5s",
    )
    assert (config.data.holdout, config.data.minival) == (0.1, 0.02)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("batch.globl=3", ["batch.globl", "did you mean 'batch.global'"]),
        ("learning_rate=3", ["unknown setting 'learning_rate'"]),
        ("batch.global=0", ["batch.global", "greater than or equal to 1", "got 0"]),
        ("data.image_size=5000", ["data.image_size", "less than or equal to 4096", "pixels"]),
        ("optimizer.lr=fast", ["optimizer.lr", "'fast' is not a learning rate"]),
        ("epochs=50%", ["epochs", "fraction of itself"]),
        ("augment.crop_area=[0.9,0.1]", ["augment.crop_area", "in order"]),
        ("checkpoint.every=often", ["checkpoint.every", "'often' is not a time"]),
        ("schedule={name: step, every: 0ep}", ["schedule.every", "above zero"]),
        (
            "schedule={name: multistep, milestones: [soon]}",
            ["schedule.milestones", "'soon' is not a duration"],
        ),
        ("data.std=[0.2, 0, 0.2]", ["data.std", "above zero"]),
        ("data.mean=[.nan, 0, 0]", ["data.mean", "finite"]),
        ("optimizer.clip=.inf", ["optimizer.clip", "finite"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "not a learning rate"]),
        ("epochs=-2", ["epochs", "'-2' is not a duration"]),
        ("max_time=-2", ["max_time", "'-2' is not a time"]),
        ("seed=-1", ["seed", "greater than or equal to 0"]),
    ],
)
def test_a_mistake_is_named_with_its_field_and_what_is_allowed(
    assignment: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(assignment)
    text = str(caught.value)
    assert caught.value.status == 78
    for word in [*words, "--set"]:
        assert word in text, text


def test_a_schedule_says_what_it_still_needs() -> None:
    with pytest.raises(
        ConfigError, match=r"schedule.milestones: multistep needs them; write \[30ep"
    ):
        resolved("schedule.name=multistep")


def test_a_cell_that_does_not_divide_the_batch_names_the_divisors() -> None:
    with pytest.raises(ConfigError, match="1, 2, 4, 8, 16, 32, 64"):
        resolved("batch.global=64", "batch.cell=48")


@pytest.mark.spec(46)
def test_later_layers_win_and_files_merge_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\nbatch: {global: 32}\n")
    (tmp_path / "b.yaml").write_text("batch: {global: 64, cell: 16}\n")
    layers = Layers()
    layers.add_file(tmp_path / "a.yaml")
    layers.add_file(tmp_path / "b.yaml")
    layers.set("batch.cell=32")
    config = layers.resolve()
    assert (config.seed, config.batch.global_, config.cell) == (1, 64, 32)


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\nbatch: {global: 32\nmodel: x\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml, line \d"):
        Layers().add_file(path)
    path.write_text("seed: 1\nbatch: {globel: 32}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        Layers().add_file(path)


def test_the_dump_of_a_config_makes_the_same_config(tmp_path: Path) -> None:
    config = resolved(
        "seed=7", "batch.global=96", "augment.sizes=[0.5,1.0]", "optimizer.lr='0.2 per 256'"
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.dump() | {"resolved": {"device": "cpu"}}))
    layers = Layers()
    layers.add_file(path)
    again = layers.resolve()
    assert again.dump() == config.dump() | {"recipe": again.recipe}


def test_the_fingerprint_ignores_only_where_and_how_it_runs() -> None:
    base = configuration.fingerprint(Config())
    changed: dict[str, Any] = {
        "device": "cpu",
        "data.threads": 3,
        "checkpoint.keep": 9,
        "log.every": 5,
    }
    for name, value in changed.items():
        assert configuration.fingerprint(resolved(f"{name}={value}")) == base
    for name, value in {"seed": 1, "data.exif": "apply", "batch.cell": 1, "epochs": "1ep"}.items():
        assert configuration.fingerprint(resolved(f"{name}={value}")) != base


def test_a_crop_under_its_former_name_is_the_same_crop() -> None:
    assert resolved("augment.crop=resized") == Config()
    older = Config().dump()
    older["augment"]["crop"] = "resized"
    assert configuration.diff(older, Config().dump()) == []


def test_every_field_has_a_kind_and_a_description() -> None:
    for name, kind, description, _ in configuration.fields():
        assert kind in ("results", "data", "run"), name
        assert len(description) > 5, name


def test_every_field_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for name, kind, description, _ in configuration.fields():
        assert f"| `{name}` | {kind} | {description} |" in page, (
            f"docs/configuration.md lacks {name}"
        )


@given(st.integers(1, 20_000))
def test_divisors_divide_and_none_is_missing(number: int) -> None:
    found = divisors(number)
    assert found == sorted(set(found)) and found[0] == 1 and found[-1] == number
    assert all(number % d == 0 for d in found)
    assert sum(number % d == 0 for d in range(1, int(number**0.5) + 1)) == sum(
        d <= number**0.5 for d in found
    )


@pytest.mark.parametrize("length", ["0ep", "0step", "0.0ep", "0sample"])
def test_a_run_of_no_length_is_refused(length: str) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        resolved(f"epochs={length}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0.75", "0.75"), ("75%", "0.75"), (".5", "0.5"), ("0", "none"), ("layer3", "layer3")],
)
def test_a_frozen_part_is_a_word_a_module_or_a_fraction(written: str, meant: str) -> None:
    assert resolved(f"finetune.freeze={written}").finetune.freeze == meant


@pytest.mark.parametrize(
    ("assignment", "words"),
    [("finetune.freeze=1.5", "not a fraction"), ("finetune.unfreeze=3ep", "nothing is frozen")],
)
def test_a_frozen_part_that_cannot_be_is_refused(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(assignment)


def test_a_backbone_does_not_rest_while_it_is_pretrained() -> None:
    with pytest.raises(ConfigError, match="pretraining trains the backbone"):
        resolved("pretrain.method=simclr", "finetune.freeze=backbone")


def test_settings_of_fine_tuning_that_are_off_leave_earlier_runs_where_they_are() -> None:
    older = Config().dump()
    del older["finetune"]
    assert configuration.diff(older, Config().dump()) == []
    for name, _, _, default in configuration.fields():
        if name.startswith("finetune."):
            assert configuration.LATER[name] == default
