"""A script with a loss, data, an augmentation and a callback of its own, killed and run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from saccade.files import read_json

SCRIPT = '''
import sys
import numpy as np
import torch
import torch.nn.functional as F
import saccade

pixels = np.random.default_rng(0).integers(0, 256, (400, 20, 20, 3), np.uint8)
labels = np.arange(400) % 4
pixels[np.arange(400), labels] = 255  # one bright row for each class


class Sign(torch.optim.Optimizer):
    """Written by hand, its state made in the first step."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for param in group["params"]:
                mean = self.state[param].setdefault("mean", torch.zeros_like(param))
                mean.lerp_(param.grad, 0.1)
                param -= group["lr"] * (1 + 1 / group["steps"]) * mean.sign()


def focal(logits, targets):
    loss = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


def speckle(image, generator):
    return (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def tell(event):
    if isinstance(event, saccade.StepDone):
        print(event.step, flush=True)


torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, 2),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(4),
    torch.nn.Flatten(),
    torch.nn.Linear(128, 4),
)
saccade.train(
    data=(pixels[:320], labels[:320]),
    val=(pixels[320:], labels[320:]),
    model=net,
    image_size=20,
    loss=focal,
    optimizer=lambda parameters: Sign(parameters, lr=1e-3),
    augment=speckle,
    callbacks=[tell],
    epochs=12,
    batch_size=32,
    precision="fp32",
    augment__mixup=0.4,
    checkpoint__every="7step",
    out=sys.argv[1],
    quiet=True,
)
'''


def start(script: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script), str(out)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.full
def test_a_killed_script_goes_on_bit_for_bit(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    whole = start(script, tmp_path / "whole")
    assert whole.communicate()[0].split() == [str(step) for step in range(1, 121)]

    for kill_at in (25, 58):  # in the middle of an epoch, between two checkpoints
        process = start(script, tmp_path / "cut")
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= kill_at:
                process.kill()
                break
        process.communicate()
        assert process.returncode == -9
    last = start(script, tmp_path / "cut")
    steps = last.communicate()[0].split()
    assert last.returncode == 0 and 50 < int(steps[0]) <= 60  # it did not begin anew

    facts = [read_json(tmp_path / name / "run.json") for name in ("whole", "cut")]
    assert facts[0]["digest"] == facts[1]["digest"] and facts[1]["attempts"] == 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
