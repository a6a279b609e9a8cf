"""Fine-tuning beside what people use instead, from the same weights, on the same machine and run.

    python bench/finetune.py --data cats-dogs.tar --init efficientnet_lite0.safetensors
        [--model tf_efficientnet_lite0] [--seeds 0 1 2] [--only saccade,keras]

Each sees as many training images as Saccade's recipe, at the same size:

- ``saccade``: one command without flags, and the frozen probe that it starts from,
- ``scratch``: ``saccade train`` without weights, as many images,
- ``fastai``: ``fine_tune``: one epoch of the head, then all layers, one cycle, 2e-3, then 1e-3
  to 1e-5, ``aug_transforms``; a linear head instead of fastai's own, which has two layers,
- ``keras``: the guide "Transfer learning & fine-tuning" in torch: BatchNorm rests, Adam
  1e-3 for the head in half of the steps, then 1e-5 for all,
- ``timm``: its transforms, optimiser and schedule in a loop as that of its ``train.py``, which is
  not in the package: AdamW 3e-4, layer decay 0.75, cosine, one epoch of warm-up, crops from 35 %
  with its colour jitter, ``--head-init-scale 0.001``, smoothing 0.1.

Saccade's recipe answers with the mean of an image and its mirror image; the others see one view, as
they do by themselves. fastai needs `pip install fastai`. All but Saccade get the images extracted,
which is not counted. Prints top-1 on the validation images, its spread, and processor seconds,
which other work on the machine disturbs less than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torchvision import transforms

BATCH = 32
MEAN = STD = (0.5, 0.5, 0.5)


def ours(given: argparse.Namespace, seed: int, scratch: Path, *, init: bool) -> str:
    """Run one command, print what frozen features were worth, and return its top-1 in percent."""
    words = [f"timm:{given.model}", "--init", str(given.init)] if init else []
    command = [sys.executable, "-m", "saccade", "train", *words, "--data", str(given.data)]
    out = scratch / f"{'init' if init else 'scratch'}-{seed}"
    command += ["--seed", str(seed), "--json", "--out", str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    if init:
        worth = json.loads((out / "run.json").read_text())["init"]["worth"]["frozen"]
        knn, probe = 100 * worth["knn"], 100 * worth["probe"]
        print(f"frozen     {max(knn, probe):8.2f} (neighbours {knn:.2f}, linear {probe:.2f})")
    return f"{100 * json.loads(done.stdout)['top1']:.2f}"


def folders(folder: Path, size: int) -> tuple[torchvision.datasets.ImageFolder, ...]:
    """Return training and validation images as most loops see them."""
    norm = transforms.Normalize(MEAN, STD)
    crop = [
        transforms.RandomResizedCrop(size, (0.35, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        norm,
    ]
    centre = [
        transforms.Resize(round(size / 0.875)),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        norm,
    ]
    train = torchvision.datasets.ImageFolder(str(folder / "train"), transforms.Compose(crop))
    return train, torchvision.datasets.ImageFolder(str(folder / "val"), transforms.Compose(centre))


def network(given: argparse.Namespace, num_classes: int) -> nn.Module:
    """Return timm's network with the weights and a fresh head."""
    from timm import create_model

    model = create_model(given.model, num_classes=num_classes)
    own = model.state_dict()
    fitting = {n: t for n, t in load_file(given.init).items() if own[n].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    return model


def judged(model: nn.Module, val: torchvision.datasets.ImageFolder) -> float:
    """Return the top-1 in percent."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in torch.utils.data.DataLoader(val, 100):
            right += int((model(images).argmax(1) == labels).sum())
    return 100 * right / len(val)


def keras(given: argparse.Namespace, folder: Path, seed: int) -> str:
    """Follow Keras' guide: the head alone, then everything at a very low rate."""
    torch.manual_seed(seed)
    train, val = folders(folder, given.size)
    model = network(given, len(train.classes))
    head = model.get_classifier()

    def forever() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=True)

    stream = forever()
    model.eval()  # as training=False of the guide: statistics and dropout rest in both parts
    for params, rate in ((head.parameters(), 1e-3), (model.parameters(), 1e-5)):
        for parameter in model.parameters():
            parameter.requires_grad_(rate < 1e-3)
        for parameter in head.parameters():
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(params, rate)
        for _ in range(given.images // BATCH // 2):
            images, labels = next(stream)
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return f"{judged(model, val):.2f}"


def fastai(given: argparse.Namespace, folder: Path, seed: int) -> str:
    """Call fastai's ``fine_tune`` for as many epochs as fit."""
    from fastai.vision import all as fast

    fast.set_seed(seed)
    count = len(folders(folder, given.size)[0])
    data = fast.ImageDataLoaders.from_folder(
        folder,
        valid="val",
        bs=BATCH,
        num_workers=0,
        item_tfms=fast.Resize(round(given.size / 0.875)),
        batch_tfms=[*fast.aug_transforms(size=given.size), fast.Normalize.from_stats(MEAN, STD)],
    )
    model = network(given, data.c)
    head = model.get_classifier()

    def parts(whole: nn.Module) -> list[list[nn.Parameter]]:
        body = [p for name, p in whole.named_parameters() if not name.startswith("classifier")]
        half = len(body) // 2
        return [body[:half], body[half:], list(head.parameters())]

    learner = fast.Learner(data, model, splitter=parts, metrics=fast.accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(given.images // count - 1, 1))
        return f"{100 * float(learner.validate()[1]):.2f}"


def timm(given: argparse.Namespace, folder: Path, seed: int) -> str:
    """Train as timm's ``train.py`` does, made of what its package has."""
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    torch.manual_seed(seed)
    pixels = {"input_size": given.size, "mean": MEAN, "std": STD}
    train, val = folders(folder, given.size)
    train.transform = create_transform(is_training=True, scale=(0.35, 1.0), **pixels)
    val.transform = create_transform(crop_pct=0.875, interpolation="bicubic", **pixels)

    model = network(given, len(train.classes))
    with torch.no_grad():
        for parameter in model.get_classifier().parameters():
            parameter.mul_(0.001)
    optimizer = create_optimizer_v2(model, "adamw", 3e-4, 0.05, layer_decay=0.75)
    batches = torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=True)
    epochs = given.images // (BATCH * len(batches))
    scheduler, _ = create_scheduler_v2(
        optimizer,
        num_epochs=epochs,
        warmup_epochs=1,
        warmup_lr=1e-6,
        step_on_epochs=False,
        updates_per_epoch=len(batches),
    )
    loss, done = LabelSmoothingCrossEntropy(0.1), 0

    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            loss(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            scheduler.step_update(done)
    return f"{judged(model, val):.2f}"


def cpu_seconds() -> float:
    """Return the processor seconds of this process and of those that it has started."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, who))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--images", type=int, default=6400, help="training images that peers see")
    parser.add_argument("--only", default="saccade,scratch,fastai,keras,timm")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        with tarfile.open(given.data) as archive:
            archive.extractall(scratch / "images", filter="data")
        folder = next(p.parent for p in (scratch / "images").rglob("train"))
        jobs: dict[str, Callable[[int], str]] = {
            "saccade": lambda seed: ours(given, seed, scratch, init=True),
            "scratch": lambda seed: ours(given, seed, scratch, init=False),
            "fastai": lambda seed: fastai(given, folder, seed),
            "keras": lambda seed: keras(given, folder, seed),
            "timm": lambda seed: timm(given, folder, seed),
        }

        print(f"{'':10} {'top-1':>8} {'smallest':>9} {'largest':>8} {'CPU s':>7}   n")
        for name in given.only.split(","):
            if name not in jobs:
                continue
            found, taken = [], []
            for seed in given.seeds:
                begun = cpu_seconds()
                found.append(float(jobs[name](seed)))
                taken.append(cpu_seconds() - begun)
            mean = statistics.mean(found)
            assert math.isfinite(mean)
            row = f"{mean:8.2f} {min(found):9.2f} {max(found):8.2f} {statistics.median(taken):7.0f}"
            print(f"{name:10} {row}   {len(found)}", flush=True)


if __name__ == "__main__":
    main()
