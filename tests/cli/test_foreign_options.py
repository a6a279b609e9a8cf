"""Options of other trainers get an answer, and what it says works when it is pasted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
import typer.main
from safetensors.torch import save_file

import console
from saccade.cli import foreign_options
from saccade.cli.foreign_options import OF_SAVED, Row, find, rows
from saccade.cli.main import app

VERBS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
TRAINING = [row for row in rows() if row.subject != OF_SAVED]
SAVED = [row for row in rows() if row.subject == OF_SAVED]


def spelled(verb: str) -> set[str]:
    return {option for parameter in VERBS[verb].params for option in parameter.opts}


def ids(row: Row) -> str:
    return row.theirs[0]


@pytest.mark.parametrize(
    ("typed", "pasted"),
    [
        ("train --num-tasks 8", "train --devices 8"),
        ("train --num-tasks=8 --batch 64", "train --devices 8 --batch-size 512"),
        ("check --job-id resnet", "check"),
        ("prepare A B --workers 4", "prepare A B"),
        ("train --job-id resnet", "train --out runs/resnet"),
        ("train --architecture SpatialNet:0", "train --model SpatialNet:0"),
        ("train --learning-rate 2e-1", "train --lr 2e-1"),
        ("train --model_name regnetx800mf_x1_bgr", "train --model regnetx800mf_x1_bgr"),
        ("train --data_path ./data --dataset_name x", "train --data ./data"),
        ("train --dataset_name image_folder --data_path ./data", "train --data ./data"),
        ("train --dataset-name cifar10_classification --data-path ./no", "train --data cifar10"),
        # the images as a word, and the script, as these are pasted
        ("train train.py /data/images --amp", "train --data /data/images --precision bf16"),
        # a batch of each process, whoever spells it
        (
            "train --nproc_per_node=8 --batch-size 128",
            "train --devices 8 --batch-size 1024",
        ),
        ("train -b 64 --grad-accum-steps 4 --num-tasks 2", "train --batch-size 512 --devices 2"),
        ("train -b 64 --effective-batch-size 1024", "train --batch-size 1024"),
        ("train -b 64 --devices 0,2", "train --batch-size 128 --devices 0,2"),
        (
            "train --devices 8 --batch-size 1024 --amp",
            "train --devices 8 --batch-size 1024 --precision bf16",
        ),
        # torchvision validates at its own size, and its strength counts to 30
        (
            "train --train-crop-size 176 --val-resize-size 232",
            "train --image-size 176 --set data.eval_size=224 --set data.eval_crop=0.9655",
        ),
        (
            "train --auto-augment ra",
            "train --set augment.policy=randaugment --set augment.rand_magnitude=3",
        ),
        ("train --ra-reps 3 --ra-sampler", "train --set augment.repeats=3"),
        # blue, green, red: the figures are turned round with the images
        (
            "train --input_channel_reverse True --image_mean 103.53 116.28 123.675",
            "train --set 'data.mean=[0.485,0.456,0.406]'",
        ),
        # what has no counterpart is not turned into another
        ("train --opt adabelief --sched tanh", "train"),
        ("train --aa augmix-m5-w4-d2", "train"),
        # flags take no word, guesses and beginnings keep their values, `--` keeps what follows
        ("train --model-ema digits", "train --set ema.half_life=1ep digits"),
        ("train --bacth-size 32 --amp", "train --batch-size 32 --precision bf16"),
        ("train --foo 3 --amp", "train --precision bf16"),
        (
            "train -ep 3 -lr 0.1 --lr-sched cosine",
            "train --epochs 3 --lr 0.1 --set schedule.name=cosine",
        ),
        ("train --jsd --amp", "train --precision bf16"),
        ("train --amp -- digits", "train --precision bf16 -- digits"),
        ("train --dataset_name cifar100_classification", "train --data cifar100"),
        (
            "train --img_resize 256 --img_crop 224",
            "train --set data.eval_crop=0.875 --image-size 224",
        ),
        ("train --img_resize 256", "train --set data.eval_crop=0.875"),
        ("train --rand_scale 0.5 1.0", "train --set 'augment.crop_area=[0.5,1.0]'"),
        ("train --rand_scale 0 resnet18", "train --set augment.crop=central resnet18"),
        ("train --rand_scale=0.5,1.0", "train --set 'augment.crop_area=[0.5,1.0]'"),
        ("train --lr-scheduler=cosineannealinglr", "train --set schedule.name=cosine"),
        ("train --amp resnet18", "train --precision bf16 resnet18"),
        ("train --enable_fp16 True resnet18", "train --precision bf16 resnet18"),
        ("train -b 256 -j 8", "train --batch-size 256 --set data.threads=8"),
        ("train -b256 -j8", "train --batch-size 256 --set data.threads=8"),
        ("train --batch_size 256 --image_size=64", "train --batch-size 256 --image-size 64"),
        ("train --gpus 0 1 2 3", "train --devices 0,1,2,3"),
        ("train --gpus 2 resnet18", "train --devices 2, resnet18"),
        (
            "train --image_mean 123.675 116.28 103.53 --image_scale 0.017125 0.017507 0.017429",
            "train --set 'data.mean=[0.485,0.456,0.406]' --set 'data.std=[0.229,0.224,0.225]'",
        ),
        ("train --input-size 3 224 224", "train --image-size 224"),
        (
            "train --aa rand-m7-mstd0.5-inc1",
            "train --set augment.policy=randaugment --set augment.rand_chance=0.5 "
            "--set augment.rand_magnitude=7 --set augment.rand_std=0.5",
        ),
        (
            "train --opt-betas 0.9 0.95",
            "train --set optimizer.momentum=0.9 --set optimizer.beta2=0.95",
        ),
        (
            "train --model-ema-decay 0.9999 --model-ema",
            "train --set ema.half_life=6931step",
        ),
        (
            "train --model-ema --model-ema-steps 32 --model-ema-decay 0.99998",
            "train --set ema.half_life=1ep",
        ),
        ("train --lr 0.5 --lr-min 0.001", "train --lr 0.5 --set schedule.end=0.002"),
        ("train --norm-weight-decay 0.0", "train"),
        ("train --model resnet34 --pretrained", "train --model resnet34 --init timm:resnet34"),
        ("train --pretrained best.pth", "train --init best.pth"),
        ("train resnet18 --dist-bn reduce --channels-last", "train resnet18"),
        (
            "eval RUN --model resnet50 -b 128 --crop-pct 0.9 --amp",
            "eval RUN --model resnet50 --precision bf16",
        ),
        ("predict RUN a.jpg --topk 3", "predict RUN a.jpg --top 3"),
        ("launch slurm --num-tasks 8", "train --devices 8"),
        ("verify-resume --num-tasks 8", "train --devices 8"),
    ],
)
@pytest.mark.spec(8)
def test_an_option_of_another_trainer_is_answered_with_ours(
    typed: str, pasted: str, tmp_path: Path
) -> None:
    done = console.run_here(*shlex.split(typed), cwd=tmp_path)
    assert done.status == 2 and "Traceback" not in done.stderr
    assert f"  do:    saccade {pasted}\n" in done.stderr
    assert "docs/coming-from.md" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("row", [row for row in TRAINING if row.ours], ids=ids)
@pytest.mark.spec(7)
def test_every_advice_passes_a_dry_run(row: Row, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    arguments = shlex.split(row.example)
    if "--init" in arguments:
        arguments = []  # weights that are not there: tests/setup has those that are
    done = console.run_here("train", "digits", *arguments, "--dry-run", cwd=tmp_path)
    assert done.status == 0, done.stderr


def test_every_advice_about_trained_models_is_understood() -> None:
    for row in SAVED:
        verbs = ("eval", "predict")
        assert not row.ours or any(
            {*re.findall(r"--[a-z-]+", row.ours)} <= spelled(verb) for verb in verbs
        ), row


def test_no_row_hides_an_option_of_ours_or_another_row() -> None:
    names = [name for row in TRAINING for name in row.theirs]
    assert len(names) == len(set(names))
    assert not set(names) & (spelled("train") | spelled("check"))
    assert not {n for row in SAVED for n in row.theirs} & (spelled("eval") | spelled("predict"))


def test_a_misspelt_option_of_ours_is_still_guessed(tmp_path: Path) -> None:
    alone = console.run_here("train", "--epohcs", "3", cwd=tmp_path)
    assert alone.status == 2 and "--epochs" in alone.stderr and "No such option" in alone.stderr
    beside = console.run_here("train", "--epohcs", "3", "--num-tasks", "2", cwd=tmp_path)
    assert beside.status == 2 and "did you mean --epochs?" in beside.stderr


def test_the_page_has_every_row_and_no_other() -> None:
    section = PAGE.partition("\n## Every option\n")[2]
    shown = [line for line in section.splitlines() if line.startswith("| `")]
    assert shown == [as_markdown(row) for row in rows()]


def as_markdown(row: Row) -> str:
    theirs = ", ".join(f"`{name}`" for name in row.theirs)
    return f"| {theirs} | {f'`{row.example}`' if row.ours else ''} | {row.why} |".replace("  ", " ")


def test_every_option_in_commands_of_other_trainers_on_the_page_is_known() -> None:
    """So that whoever types what their own README says is answered."""
    blocks = re.findall(r"```text\n(.*?)```", PAGE, flags=re.S)
    options = {o for b in blocks for o in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", b)}
    assert len(options) > 40
    others = {"-d", "-l", "-m"}  # of convert_val.py and of python itself
    unknown = {o for o in options - others if not find(o) and o.replace("_", "-") not in known()}
    assert not unknown


def known() -> set[str]:
    return spelled("train") | spelled("check")


def test_control_an_option_that_nobody_has_is_not_known() -> None:
    assert find("--no-such-option") is None and foreign_options.answer("train", ["-q"], {}) is None
