"""Time of a training step at equal settings: Saccade, timm's script, and a loop of torchvision's
parts.

    python bench/epoch.py --data imagenette224.tar [--rounds 3] [--per-class 320] [--timm
    train.py] [--peers PYTHON]

ResNet-18 at 128 px, batch 64, SGD, random crops and flips, one epoch over the first images of each
class, everything that belongs to a step included: reading, decoding, forward, backward, update.
timm and torchvision run once as their defaults are (float32, the usual layout) and once with their
best flags (bf16, channels_last, two workers); ours runs with its defaults, which are the same
arithmetic, and in float32. The commands run in turn, ``--rounds`` times. What is shown is
milliseconds a step as each tool itself counts them, the first steps included; starting and testing
are not. timm's script is not in its package: `--timm` is its path, `--peers` an interpreter that
has timm.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from torchvision import transforms

SIZE, BATCH, WORKERS = 128, 64, 2


def ours(folder: Path, scratch: Path, *flags: str) -> float:
    """Run ``saccade train`` for an epoch and return its milliseconds a step."""
    out = scratch / "ours"
    shutil.rmtree(out, ignore_errors=True)
    equal = (
        "optimizer.name=sgd",
        "optimizer.lr=0.05",
        "augment.sizes=[1.0]",
        "augment.crop_area=[0.08,1.0]",
        "augment.alternate_flip=false",
    )

    # What differs from the others would change the work of a step.
    words = f"train imagenette-5ep --model resnet18 --image-size {SIZE} --epochs 1ep"
    command = [sys.executable, "-m", "saccade", *words.split(), "--batch-size", str(BATCH), *flags]
    command += ["--data", str(folder), "--out", str(out)]
    command += [word for setting in equal for word in ("--set", setting)]
    subprocess.run(command, check=True, capture_output=True)
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return 1000 * float(run["time"]["train_s"]) / steps(folder)


def steps(folder: Path) -> int:
    """Return the whole batches of an epoch."""
    return sum(1 for _ in (folder / "train").rglob("*.*")) // BATCH


def timm(folder: Path, scratch: Path, script: Path, python: str, *flags: str) -> float:
    """Run timm's script for an epoch and return the mean time of its batches, reading included,
    in milliseconds.
    """
    command = (
        f"{script} --data-dir {folder} --model resnet18 --num-classes 10 --img-size {SIZE} "
        f"--batch-size {BATCH}"
    )
    command += (
        " --epochs 1 --opt sgd --lr 0.05 --warmup-epochs 0 --device cpu --output "
        f"{scratch / 'timm'}"
    )
    command += " --log-interval 10"
    done = subprocess.run(
        [python, *command.split(), *flags], check=True, capture_output=True, text=True
    )
    told = re.findall(
        r"Train: .*Time: *[0-9.]+s, *[0-9.]+/s *\( *([0-9.]+)s", done.stdout + done.stderr
    )
    return 1000 * float(told[-1])


def parts(folder: Path, best: bool) -> float:
    """Train an epoch with torchvision's ImageFolder, transforms and model, and return
    milliseconds a step.
    """
    norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crop = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        norm,
    ]

    images = torchvision.datasets.ImageFolder(str(folder / "train"), transforms.Compose(crop))
    loader = torch.utils.data.DataLoader(
        images, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True
    )

    model = torchvision.models.resnet18(num_classes=10)
    layout = torch.channels_last if best else torch.contiguous_format
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, nesterov=True, weight_decay=5e-5)

    begun, count = time.perf_counter(), 0
    for batch, labels in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=best):
            logits = model(batch.to(memory_format=layout))
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        count += 1
    return 1000 * (time.perf_counter() - begun) / count


def unpack(archive: Path, scratch: Path, per_class: int) -> Path:
    """Extract the archive and leave so many training images in each class, and 20 for the test."""
    with tarfile.open(archive) as tar:
        tar.extractall(scratch / "images", filter="data")
    folder = next(p.parent for p in (scratch / "images").rglob("train"))
    for split, count in (("train", per_class), ("val", 20)):
        for names in (folder / split).iterdir():
            for surplus in sorted(names.iterdir())[count:]:
                surplus.unlink()
    return folder


def main() -> None:
    if sys.argv[1:2] == ["--parts"]:  # in a process of its own
        print(parts(Path(sys.argv[2]), sys.argv[3] == "best"))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=320)
    parser.add_argument("--timm", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    given = parser.parse_args()
    best = ("--amp", "--amp-dtype", "bfloat16", "--channels-last", "--workers", str(WORKERS))
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = unpack(given.data, scratch, given.per_class)

        def loop(kind: str) -> float:
            command = [sys.executable, __file__, "--parts", str(folder), kind]
            return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        jobs = {
            "saccade": lambda: ours(folder, scratch),
            "saccade, fp32": lambda: ours(folder, scratch, "--precision", "fp32"),
            "torchvision's parts, defaults": lambda: loop("default"),
            "torchvision's parts, best flags": lambda: loop("best"),
        }
        if given.timm:
            jobs |= {
                "timm, defaults": lambda: timm(folder, scratch, given.timm, given.peers),
                "timm, best flags": lambda: timm(folder, scratch, given.timm, given.peers, *best),
            }
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(given.rounds):
            for name, job in jobs.items():
                found[name].append(job())
    own = statistics.median(found["saccade"])
    print(f"{'':34} {'ms a step':>10} {'spread':>13} {'x ours':>7}   n")
    for name, times in found.items():
        middle = statistics.median(times)
        print(
            f"{name:34} {middle:10.0f} {min(times):6.0f}-{max(times):<6.0f} "
            f"{middle / own:7.2f}   {len(times)}"
        )


if __name__ == "__main__":
    main()
