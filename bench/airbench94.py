"""The published CIFAR-10 speed record with Muon, written down plainly: what our own recipe has to
be measured against.

    python bench/airbench94.py --data cifar10-jpeg.tar.xz [--runs 3] [--epochs 8] [--device cuda]

Network, start, optimiser, augmentation and test-time augmentation follow the public code of Jordan
2024 ("94% on CIFAR-10 in 3.29 seconds on a single GPU") in its version with Muon: batch 2000, 8
epochs, no compilation. Images are decoded once into memory before the clock starts, as there. It
prints one line a run: top-1 with and without six views, and the time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.images.fit import Fit
from saccade.data.loader import EvaluationView, batches
from saccade.data.readers import Readers
from saccade.data.sources import Split, open_source, train_split, validation_split

WIDTHS, BATCH, SMOOTHING = (64, 256, 256), 2000, 0.2
MUON_RATE, MUON_MOMENTUM, BIAS_RATE, HEAD_RATE, SGD_MOMENTUM = 0.24, 0.6, 0.053, 0.67, 0.85
WEIGHT_DECAY, WHITENING_EPOCHS, SHIFT = 2e-6 * BATCH, 3, 2
MEAN, STD = torch.tensor((0.4914, 0.4822, 0.4465)), torch.tensor((0.2470, 0.2435, 0.2616))


def decoded(split: Split) -> tuple[Tensor, Tensor]:
    """Return all images of a split, normalised float32 (N, 3, 32, 32), and their labels (N,)."""
    readers, count = Readers(2), len(split)
    parts = [
        b.images
        for b in batches(
            EvaluationView(split, 32, Fit(crop_fraction=1.0), "ignore"),
            readers,
            500,
            first_step=0,
            last_step=-(-count // 500),
        )
    ]
    readers.close()
    pixels = torch.cat(parts)[:count].float() / 255
    return (pixels - MEAN[:, None, None]) / STD[:, None, None], torch.from_numpy(split.labels)


class Group(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(c, c_out, 3, padding=1, bias=False) for c in (c_in, c_out)
        )
        self.norm1, self.norm2 = (nn.BatchNorm2d(c_out, eps=1e-12, momentum=0.4) for _ in range(2))
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Net(nn.Module):
    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.whiten.weight.data.copy_(whitening(images))
        nn.init.zeros_(self.whiten.bias)
        self.groups = nn.Sequential(
            *(Group(a, b) for a, b in zip((24, *WIDTHS), WIDTHS, strict=False))
        )
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)
        self.head.weight.data.div_(self.head.weight.data.std())

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.groups(F.gelu(self.whiten(x))), 3)
        return self.head(x.flatten(1)) / WIDTHS[-1]


def whitening(images: Tensor) -> Tensor:
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    rows = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat([rows, -rows]).float()


def orthogonal(gradient: Tensor) -> Tensor:
    x = gradient.bfloat16() / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    def __init__(self, filters: list[Tensor]) -> None:
        self.filters, self.velocities = filters, [torch.zeros_like(f) for f in filters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for weight, velocity in zip(self.filters, self.velocities, strict=True):
            velocity.mul_(MUON_MOMENTUM).add_(weight.grad)
            update = orthogonal((weight.grad + MUON_MOMENTUM * velocity).reshape(len(weight), -1))
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.add_(update.view_as(weight), alpha=-rate)


def epoch_batches(
    images: Tensor, labels: Tensor, epoch: int, flipped: Tensor, draws: torch.Generator
) -> Iterator:
    """Yield batches of images, shifted by up to two pixels and mirrored in every second epoch,
    in a new order.
    """
    mirrored = flipped if epoch % 2 == 0 else ~flipped
    padded = F.pad(images, (SHIFT,) * 4, "reflect")
    here, count = images.device, torch.arange(32, device=images.device)
    places = torch.randperm(len(images), generator=draws, device=here)
    for start in range(0, len(images) // BATCH * BATCH, BATCH):
        chosen = places[start : start + BATCH]
        down, across = (
            torch.randint(0, 2 * SHIFT + 1, (BATCH, 1, 1), generator=draws, device=here)
            for _ in range(2)
        )
        rows, columns = count.view(1, 32, 1) + down, count.view(1, 1, 32) + across
        columns = torch.where(mirrored[chosen].view(-1, 1, 1), columns.flip(2), columns)
        # channels_last in memory
        batch = padded[chosen.view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)
        yield batch, labels[chosen]


def train(images: Tensor, labels: Tensor, epochs: int, seed: int) -> Net:
    torch.manual_seed(seed)
    draws = torch.Generator(images.device).manual_seed(seed)
    net = Net(images[:5000].cpu()).to(images.device).to(memory_format=torch.channels_last)

    biases = [p for n, p in net.named_parameters() if "norm" in n and p.requires_grad]
    sgd = torch.optim.SGD(
        [
            {"params": [net.whiten.bias], "rate": BIAS_RATE},
            {"params": biases, "rate": BIAS_RATE},
            {"params": [net.head.weight], "rate": HEAD_RATE},
        ],
        lr=1.0,
        momentum=SGD_MOMENTUM,
        nesterov=True,
    )
    muon = Muon([p for p in net.parameters() if p.dim() == 4 and p.requires_grad])

    flipped = torch.rand(len(images), generator=draws, device=images.device) < 0.5
    per_epoch = len(images) // BATCH
    total, step = epochs * per_epoch, 0
    for epoch in range(epochs):
        for batch, answers in epoch_batches(images, labels, epoch, flipped=flipped, draws=draws):
            with torch.autocast(images.device.type, torch.bfloat16):
                logits = net(batch)
            F.cross_entropy(
                logits.float(), answers, label_smoothing=SMOOTHING, reduction="sum"
            ).backward()

            left = 1 - step / total
            whitening_left = max(0.0, 1 - step / (WHITENING_EPOCHS * per_epoch))
            for group, share in zip(sgd.param_groups, (whitening_left, left, left), strict=True):
                group["lr"] = group["rate"] * share
                group["weight_decay"] = WEIGHT_DECAY / group["rate"]

            sgd.step()
            muon.step(MUON_RATE * left)
            net.zero_grad()
            step += 1
    return net.eval()


@torch.inference_mode()
def judge(net: Net, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return top-1 of one view and of the mean of six, in percent."""
    right = torch.zeros(2, device=images.device)
    for part, answers in zip(images.split(500), labels.split(500), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16):
            views = [part]
            padded = F.pad(part, (1, 1, 1, 1), "reflect")
            views += [padded[:, :, :32, :32], padded[:, :, 2:, 2:]]
            pairs = [net(v).float() + net(v.flip(3)).float() for v in views]
            plain = net(part).float()
        both = 0.25 * pairs[0] + 0.125 * (pairs[1] + pairs[2])
        right += torch.stack([(x.argmax(1) == answers).sum() for x in (plain, both)])
    one, six = (100 * right / len(images)).tolist()
    return one, six


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    source = open_source(given.data)
    images, labels = decoded(train_split(source))
    val = validation_split(source, "", named=False)
    assert val is not None
    judged, answers = decoded(val)

    images, judged = (
        x.to(given.device, memory_format=torch.channels_last) for x in (images, judged)
    )
    labels, answers = labels.to(given.device), answers.to(given.device)

    scores = []
    for seed in range(given.runs):
        begun = time.perf_counter()
        net = train(images, labels, given.epochs, seed)
        if given.device == "cuda":
            torch.cuda.synchronize()
        trained_s = time.perf_counter() - begun
        one, six = judge(net, judged, answers)
        whole_s = time.perf_counter() - begun
        scores.append(six)
        print(
            f"seed {seed}: {six:.2f} % (six views), {one:.2f} % (one), {trained_s:.1f} s, "
            f"{whole_s:.1f} s with test"
        )

    spread = statistics.stdev(scores) if len(scores) > 1 else math.nan
    print(
        f"mean {statistics.mean(scores):.2f} %, standard deviation {spread:.2f}, n = "
        f"{len(scores)}, six views"
    )


if __name__ == "__main__":
    main()
