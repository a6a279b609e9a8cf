"""Saccade beside the loop that most people write, on the same archive, machine and run.

    python bench/imagenette.py --data imagenette224.tar [--epochs 5] [--seeds 1] [--timm
    path/to/timm/train.py]

(a) ``saccade train imagenette-5ep --model resnet18``, (b) torchvision's ImageFolder and DataLoader
with a plain SGD loop: ResNet-18, batch 64, Nesterov 0.05, cosine, label smoothing 0.1, bf16,
channels_last, two worker processes, (c) timm's ``train.py`` with the same settings, when its path
is given (timm's package does not contain it). (b) and (c) cannot read the archive: it is extracted
to a temporary folder for them, which is not counted. Prints one table: top-1 and wall-clock
seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision import transforms

SIZE = 128


def ours(data: Path, epochs: int, seed: int, scratch: Path) -> float:
    """Run the recipe of five epochs with ResNet-18, for so many epochs, and return its top-1."""
    command = [
        sys.executable,
        "-m",
        "saccade",
        "train",
        "imagenette-5ep",
        "--data",
        str(data),
        "--model",
        "resnet18",
    ]
    command += ["--image-size", str(SIZE), "--epochs", str(epochs), "--seed", str(seed)]
    command += ["--json", "--out", str(scratch / f"s{seed}")]
    return float(
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["top1"]
    )


def plain(folder: Path, epochs: int, seed: int) -> float:
    """Train with the usual parts and return the top-1 on the validation folder."""
    torch.manual_seed(seed)
    norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crop = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        norm,
    ]
    centre = [transforms.Resize(146), transforms.CenterCrop(SIZE), transforms.ToTensor(), norm]

    train = torchvision.datasets.ImageFolder(str(folder / "train"), transforms.Compose(crop))
    val = torchvision.datasets.ImageFolder(str(folder / "val"), transforms.Compose(centre))
    loader = torch.utils.data.DataLoader(
        train, 64, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    judge = torch.utils.data.DataLoader(val, 100, num_workers=2, persistent_workers=True)

    model = torchvision.models.resnet18(num_classes=len(train.classes)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-5, nesterov=True)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, steps, pct_start=1 / epochs, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    accuracy = 0.0
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images.to(memory_format=torch.channels_last))
            loss_of(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

        model.eval()
        correct = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for images, labels in judge:
                correct += int(
                    (model(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum()
                )
        accuracy = correct / len(val)
    return accuracy


def timm(script: Path, folder: Path, epochs: int, seed: int, scratch: Path) -> float:
    """Run timm's own script and return the best top-1 it reports."""
    flags = (
        f"--data-dir {folder} --model resnet18 --num-classes 10 --img-size {SIZE} "
        f"--batch-size 64 --epochs {epochs} "
        "--opt sgd --lr 0.05 --sched cosine --warmup-epochs 1 --smoothing 0.1 --amp "
        "--amp-dtype bfloat16 "
        f"--channels-last --workers 2 --device cpu --cooldown-epochs 0 --seed {seed} "
        f"--output {scratch / 'timm'}"
    )
    done = subprocess.run(
        [sys.executable, str(script), *flags.split()], check=True, capture_output=True, text=True
    )
    found = re.findall(r"Best metric: ([0-9.]+)", done.stdout + done.stderr)
    return float(found[-1]) / 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--timm", type=Path)
    given = parser.parse_args()

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        with tarfile.open(given.data) as archive:
            archive.extractall(scratch / "images", filter="data")
        folder = next(p.parent for p in (scratch / "images").rglob("train"))

        rows: dict[str, list[tuple[float, float]]] = {}
        for seed in range(given.seeds):
            jobs = {
                "saccade train": lambda s=seed: ours(given.data, given.epochs, s, scratch),
                "torchvision + DataLoader + SGD": lambda s=seed: plain(folder, given.epochs, s),
            }
            if given.timm:
                jobs["timm train.py"] = lambda s=seed: timm(
                    given.timm, folder, given.epochs, seed=s, scratch=scratch
                )
            for name, job in jobs.items():
                begun = time.perf_counter()
                top1 = job()
                rows.setdefault(name, []).append((top1, time.perf_counter() - begun))

    print(f"{'':34} {'top-1':>8} {'spread':>7} {'seconds':>8}   n")
    for name, results in rows.items():
        accuracies, times = zip(*results, strict=True)
        best = f"{statistics.mean(accuracies):8.2%} {max(accuracies) - min(accuracies):7.2%}"
        print(f"{name:34} {best} {statistics.median(times):8.0f}   {len(results)}")


if __name__ == "__main__":
    main()
