"""Forward and backward of our networks beside torchvision's or timm's same ones, in one process, in turn.

    python bench/models.py                      every family, on this machine
    python bench/models.py resnet50 vit_s_16 --batch 64 --size 224 --device cuda

Each pair of runs gives a ratio, ours to theirs. The table shows the median of the ratios with its 95 % interval (order
statistics: of 20 ratios the 6th and the 15th): below 1 ours is faster. `same` runs both in float32 and the usual
layout; `defaults` runs ours as `saccade train` would, channels_last and bfloat16, beside theirs as their scripts would
without options. Before any timing the logits of both, with the same weights, are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import nn

import saccade
from saccade.models import find
from saccade.training.losses import heads

PAIRS = {
    "alexnet": "torchvision:alexnet",
    "vgg11_bn": "torchvision:vgg11_bn",
    "googlenet": "torchvision:googlenet",
    "inception_v3": "torchvision:inception_v3",
    "darknet53": "timm:darknet53",
    "resnet18": "torchvision:resnet18",
    "resnet50": "torchvision:resnet50",
    "mobilenet_v1": "timm:mobilenetv1_100",
    "mobilenet_v2": "torchvision:mobilenet_v2",
    "mobilenet_v3_large": "torchvision:mobilenet_v3_large",
    "shufflenet_v2_x1_0": "torchvision:shufflenet_v2_x1_0",
    "efficientnet_b0": "torchvision:efficientnet_b0",
    "regnet_x_400mf": "torchvision:regnet_x_400mf",
    "regnet_y_400mf": "torchvision:regnet_y_400mf",
    "vit_s_16": "timm:vit_small_patch16_224",
    "vit_b_16": "torchvision:vit_b_16",
    "swin_t": "torchvision:swin_t",
    "convnext_tiny": "torchvision:convnext_tiny",
}
TWO_HEADS = {"googlenet", "inception_v3"}


def peer(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    if library == "timm":
        return timm.create_model(model)
    options = {"aux_logits": True, "init_weights": False} if model in TWO_HEADS else {}
    return torchvision.models.get_model(model, weights=None, **options)


def runner(model: nn.Module, batch: torch.Tensor, labels: torch.Tensor, low: bool) -> Callable[[], float]:
    """Return a function that runs one training step without the optimiser and returns its seconds."""
    on_gpu = batch.device.type == "cuda"

    def run() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=low):
            outputs = heads(model(batch))
        sum(nn.functional.cross_entropy(o.float(), labels) for o in outputs).backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        model.zero_grad()
        return seconds

    return run


def interval(ratios: list[float]) -> str:
    """Return the median with its 95 % interval; for 20 ratios these are the 6th and the 15th."""
    ranked, margin = sorted(ratios), int(0.98 * len(ratios) ** 0.5)
    middle = len(ranked) // 2
    low, high = ranked[max(middle - margin - 1, 0)], ranked[min(middle + margin, len(ranked) - 1)]
    return f"{statistics.median(ranked):.2f} ({low:.2f} to {high:.2f})"


def compare(name: str, theirs_name: str, given: argparse.Namespace) -> str:
    size = given.size or (160 if name == "inception_v3" else 224 if find(name).family in ("vit", "swin") else 128)
    labels = torch.arange(given.batch, device=given.device) % 1000
    torch.manual_seed(0)
    batch = torch.randn(given.batch, 3, size, size, device=given.device)
    built_for = 0 if find(name).family in ("vit", "swin") else 224
    ours = saccade.create_model(name, num_classes=1000, image_size=built_for, dropout=0.0, drop_path=0.0)
    theirs = peer(theirs_name)
    saccade.load_weights(ours, theirs.state_dict())
    ours, theirs = ours.to(given.device), theirs.to(given.device)
    with torch.no_grad():
        expected = theirs.eval()(batch[:2])
        off = float((ours.eval()(batch[:2]) - expected).abs().max() / expected.abs().max())
    cells = []
    for layout, low in ((torch.contiguous_format, False), (torch.channels_last, True)):
        mine = runner(ours.train().to(memory_format=layout), batch.contiguous(memory_format=layout), labels, low)
        other = runner(theirs.train(), batch, labels, False)
        for run in (mine, other, mine, other):
            run()
        ratios = []
        for turn in range(given.pairs):
            first, second = (mine, other) if turn % 2 else (other, mine)
            one, two = first(), second()
            ratios.append(one / two if turn % 2 else two / one)
        cells.append(interval(ratios))
    return f"| {name} | {theirs_name} | {size} | {off:.0e} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="our names; all pairs without one")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of runs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=0, help="pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    print(f"{given.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, torchvision "
          f"{torchvision.__version__}, timm {timm.__version__}, batch {given.batch}, {given.pairs} pairs")  # fmt: skip
    print("| ours | theirs | px | logits differ by | same: ours / theirs | defaults: ours / theirs |")
    print("|---|---|---|---|---|---|")
    for name in given.names or PAIRS:
        print(compare(name, PAIRS[name], given), flush=True)


if __name__ == "__main__":
    main()
