"""Forward and backward of our networks beside torchvision's or timm's same ones, in one process, in
turn.

    python bench/models.py                      every family, on this machine
    python bench/models.py resnet50 vit_s_16 --batch 64 --size 224 --device cuda

Each pair of runs gives a ratio, ours to theirs. The table shows the median of the ratios with its
95 % interval (order statistics: of 20 ratios the 6th and the 15th): below 1 ours is faster. `same`
runs both in float32 and the usual layout; `defaults` runs ours as `saccade train` would,
channels_last and bfloat16, beside theirs as their scripts would without options. Before any timing
the logits of both, with the same weights, are compared. A row ends with LOSES where an interval
lies above 1, or that of the defaults not below 1.

On a machine that others use, threads wait for each other and walls of time mean nothing: `--threads
1 --cpu-time`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import Tensor, nn

import saccade
from saccade.device import precision
from saccade.models import Options, find
from saccade.objectives.objective import heads

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
    "regnet_x_400mf_tv": "torchvision:regnet_x_400mf",
    "regnet_y_400mf": "torchvision:regnet_y_400mf",
    "vit_s_16": "timm:vit_small_patch16_224",
    "vit_b_16": "torchvision:vit_b_16",
    "swin_t": "torchvision:swin_t",
    "convnext_tiny": "torchvision:convnext_tiny",
}
TWO_HEADS = {"googlenet", "inception_v3"}
SIZES = {"inception_v3": 299, "vit_s_16": 224, "swin_t": 224}
SIZE, SMALLEST_BATCH, LARGEST_BATCH = 128, 8, 512
Runner = Callable[[], float]


def peer(name: str, size: int) -> nn.Module:
    """Build their network, dropout and drop path at 0: ours are compared without, too."""
    library, _, model = name.partition(":")
    if library == "timm":
        theirs: nn.Module = timm.create_model(
            model, **({"img_size": size} if model.startswith("vit") else {})
        )
    else:
        options: dict[str, object] = (
            {"aux_logits": True, "init_weights": False} if model in TWO_HEADS else {}
        )
        options |= {"image_size": size} if model.startswith("vit") else {}
        theirs = torchvision.models.get_model(model, weights=None, **options)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    last = list(theirs.parameters())[-2]
    if not last.any():  # a head of zeros, as torchvision's ViT has, would make all logits equal
        nn.init.normal_(last, std=0.01)
    return theirs


def same(name: str, theirs: nn.Module, size: int) -> nn.Module:
    """Build ours with their weights; it never gets weights of its own, which takes long for VGG."""
    ours = find(name).build(Options(1000, size, dropout=0.0, drop_path=0.0))
    report = saccade.load_weights(ours, theirs.state_dict())
    assert report.share == 1, f"{name}: {report}"
    return ours


def runner(
    model: nn.Module, batch: Tensor, labels: Tensor, how: str, clock: Callable[[], float]
) -> Runner:
    """Return a function that runs one training step without the optimiser and returns its
    seconds.
    """
    on_gpu = batch.device.type == "cuda"

    def run() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        begun = clock()
        with precision.autocast(how, batch.device):
            outputs = heads(model(batch))
        sum(nn.functional.cross_entropy(o.float(), labels) for o in outputs).backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = clock() - begun
        model.zero_grad()
        return seconds

    return run


def ratios(mine: Runner, other: Runner, pairs: int) -> list[float]:
    """Run both in turn, each first in half of the pairs, after two rounds to warm up."""
    for run in (mine, other, mine, other):
        run()
    found = []
    for turn in range(pairs):
        first, second = (mine, other) if turn % 2 else (other, mine)
        one, two = first(), second()
        found.append(one / two if turn % 2 else two / one)
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median with its 95 % interval; for 20 values these are the 6th and the 15th."""
    ranked, margin = sorted(values), int(0.98 * len(values) ** 0.5)
    middle = len(ranked) // 2
    return (
        statistics.median(ranked),
        ranked[max(middle - margin - 1, 0)],
        ranked[min(middle + margin, len(ranked) - 1)],
    )


def batch_for(
    model: nn.Module, size: int, seconds: float, device: torch.device, clock: Callable[[], float]
) -> int:
    """Return the batch with which one of their steps takes about so many seconds, a power of
    two.
    """
    count = SMALLEST_BATCH
    while count < LARGEST_BATCH:
        batch, labels = (
            torch.randn(count, 3, size, size, device=device),
            torch.arange(count, device=device),
        )
        run = runner(model.train(), batch, labels, how="fp32", clock=clock)
        run()
        if min(run(), run()) > 0.7 * seconds:  # the next would be further off
            break
        count *= 2
    return count


def compare(name: str, theirs_name: str, given: argparse.Namespace) -> str:
    """Measure one pair and return its row."""
    device, clock = (
        torch.device(given.device),
        time.process_time if given.cpu_time else time.perf_counter,
    )

    size = given.size or SIZES.get(name, SIZE)
    torch.manual_seed(0)
    theirs = peer(theirs_name, size)
    ours = same(name, theirs, size if find(name).family in ("vit", "swin") else 224).to(device)
    theirs = theirs.to(device)

    images = torch.randn(2, 3, size, size, device=device)
    with torch.no_grad():
        expected = theirs.eval()(images)
        off = float((ours.eval()(images) - expected).abs().max() / expected.abs().max())

    count = given.batch or batch_for(theirs, size, given.seconds, device=device, clock=clock)
    batch, labels = (
        torch.randn(count, 3, size, size, device=device),
        torch.arange(count, device=device) % 1000,
    )
    other, cells, verdict = runner(theirs.train(), batch, labels, how="fp32", clock=clock), [], ""

    low_precision, _ = precision.choose("auto", device)
    for layout, how in ((torch.contiguous_format, "fp32"), (torch.channels_last, low_precision)):
        mine = runner(
            ours.train().to(memory_format=layout),
            batch.contiguous(memory_format=layout),
            labels,
            how=how,
            clock=clock,
        )
        median, low, high = interval(ratios(mine, other, given.pairs))
        cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
        if low > 1 or (cells[1:] and high >= 1):
            verdict += f" LOSES ({'defaults' if cells[1:] else 'same'})"

    return (
        f"| {name} | {theirs_name} | {size} | {count} | {off:.0e} | {cells[0]} | {cells[1]} "
        f"|{verdict}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="our names; all pairs without one")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of runs")
    parser.add_argument(
        "--seconds", type=float, default=0.55, help="of one step of theirs; the batch follows"
    )
    parser.add_argument("--batch", type=int, default=0, help="the batch itself")
    parser.add_argument("--size", type=int, default=0, help="pixels")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the seconds of the processor"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    begun = time.perf_counter()
    low_precision, why = precision.choose("auto", torch.device(given.device))
    seconds = f"{'processor' if given.cpu_time else 'wall'} seconds"
    print(
        f"{given.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}; n = {given.pairs} pairs, "
        f"median (95 % interval) of {seconds}; defaults: channels_last, {low_precision} ({why})"
    )
    print(
        "| ours | theirs | px | batch | logits differ by | same: ours / theirs | defaults: "
        "ours / theirs |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)

    rows = []
    for name in given.names or PAIRS:
        rows.append(compare(name, PAIRS[name], given))
        print(rows[-1], flush=True)
    print(
        f"{sum('LOSES' in row for row in rows)} of {len(rows)} lose; "
        f"{time.perf_counter() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
