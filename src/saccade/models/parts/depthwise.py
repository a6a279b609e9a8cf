"""What MobileNets and EfficientNets share: stages of depthwise blocks.

A `Design` is a paper's table with its width applied, a `StagedNetwork` the network of it. The
inverted residual (Sandler et al. 2018, section 3.3) widens by a 1x1 convolution, looks around in
each channel alone, may weigh the channels (Hu et al. 2018), and narrows by a 1x1 convolution
without activation.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from saccade.models.parts.layers import (
    DropPath,
    SqueezeExcitation,
    conv_norm,
    drop_path_rates,
    strides_for,
    zero_start,
)
from saccade.models.parts.network import Level, Network
from saccade.models.parts.registry import Options

Activation = type[nn.Module]


@dataclass(frozen=True, slots=True)
class Block:
    """One block: side of the depthwise kernel, channels inside, channels out.

    ``squeezed`` 0 = no gate.
    """

    kernel: int
    expanded: int
    channels: int
    act: Activation
    squeezed: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width.

    ``place`` says which of the five strides (`strides_for`; the stem has number 0) the first block
    takes; 0 = it keeps the resolution.
    """

    place: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """A network: channels of the stem, stages, and the tail.

    ``last`` are the channels of the 1x1 convolution before the pooling, ``hidden`` those of a
    linear layer behind it; 0 = none. ``act`` is the activation of stem and tail, ``gate`` makes a
    block's squeeze and excitation.
    """

    stem: int
    stages: tuple[Stage, ...]
    act: Activation
    last: int = 0
    hidden: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    gate: Callable[[int, int], nn.Module] = SqueezeExcitation
    eps: float = 1e-5
    momentum: float = 0.1


class InvertedResidual(nn.Module):
    """Widen, look around in each channel, weigh the channels, narrow.

    The input is added where shapes agree.

    *Source:* Sandler et al. 2018, figure 4; with the gate, Howard et al. 2019, figure 4.
    """

    def __init__(
        self, c_in: int, block: Block, stride: int, drop_path: float, design: Design
    ) -> None:
        super().__init__()
        conv = partial(conv_norm, eps=design.eps, momentum=design.momentum)
        layers: list[nn.Module] = []
        # without widening there is nothing to do for the first 1x1 convolution
        if block.expanded != c_in:
            layers.append(conv(c_in, block.expanded, act=block.act))
        layers.append(
            conv(
                block.expanded,
                block.expanded,
                block.kernel,
                stride=stride,
                groups=block.expanded,
                act=block.act,
            )
        )
        if block.squeezed:
            layers.append(design.gate(block.expanded, block.squeezed))

        narrow = conv(block.expanded, block.channels, act=None)
        self.block = nn.Sequential(*layers, narrow)
        self.is_residual = stride == 1 and c_in == block.channels
        if self.is_residual:
            zero_start(narrow[1])
        self.drop_path = DropPath(drop_path) if drop_path and self.is_residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        out = self.block(x)
        return x + self.drop_path(out) if self.is_residual else out


class StagedNetwork(Network):
    """Stem, stages of blocks, a 1x1 convolution, global average, linear head.

    ``features`` returns the map in front of each of the last four strides and the one behind the
    last stage, whether or not small images leave a stride at 1.
    """

    head_name = "classifier"
    block_class: ClassVar[type[nn.Module]] = InvertedResidual

    def __init__(self, design: Design, options: Options) -> None:
        super().__init__()
        self.design = design
        strides = strides_for(options.image_size, options.strides)
        conv = partial(conv_norm, act=design.act, eps=design.eps, momentum=design.momentum)
        self.stem = conv(options.in_channels, design.stem, 3, strides[0])

        # None stands for what the paper says, 0 switches it off
        rate = design.drop_path if options.drop_path is None else options.drop_path
        rates = iter(drop_path_rates(rate, sum(len(stage.blocks) for stage in design.stages)))
        channels, span = design.stem, strides[0]
        levels, stages = [], []

        for stage in design.stages:
            stride = strides[stage.place] if stage.place else 1
            # in front of each stride lies the last map of its resolution
            if stage.place:
                levels.append(Level(channels, span))
            span *= stride
            blocks = []
            for block in stage.blocks:
                blocks.append(self.block_class(channels, block, stride, next(rates), design))
                channels, stride = block.channels, 1
            stages.append(nn.Sequential(*blocks))

        self.levels = (*levels, Level(channels, span))
        self.stages = nn.Sequential(*stages)
        self.last = conv(channels, design.last) if design.last else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        pooled = design.last or channels
        self.hidden: nn.Module = nn.Identity()
        if design.hidden:
            self.hidden = nn.Sequential(nn.Linear(pooled, design.hidden), design.act())

        self.dropout = nn.Dropout(design.dropout if options.dropout is None else options.dropout)
        self.classifier = nn.Linear(design.hidden or pooled, options.num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the map before each stride and the last one, finest first, for images (B, 3, H,
        W).
        """
        x = self.run(self.stem, x)
        maps = []
        for plan, stage in zip(self.design.stages, self.stages.children(), strict=True):
            if plan.place:
                maps.append(x)
            for block in stage.children():
                x = self.run(block, x)
        return [*maps, x]

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features (B, C) of images (B, 3, H, W)."""
        pooled = self.avgpool(self.last(self.features(x)[-1])).flatten(1)
        return self.hidden(pooled)

    def foreign_names(self, dialect: str) -> dict[str, str]:
        """Map our state names to those of ``torchvision`` or ``timm``.

        Empty where they do not have this network.
        """
        places = self.foreign_places(dialect)
        return {name: _renamed(name, places) for name in self.state_dict()} if places else {}

    def foreign_places(self, dialect: str) -> dict[str, str]:
        """Map the dotted names of our modules to theirs.

        A module inside one that is listed keeps the rest.
        """
        # timm's networks of these shapes have norms with the usual epsilon: with another they are
        # other functions.
        return _timm_places(self) if dialect == "timm" and self.design.eps == 1e-5 else {}

    def layers_of_blocks(self) -> list[tuple[str, nn.Sequential]]:
        """Return the dotted name of each block's layers, and the layers, in order."""
        return [
            (n, m)
            for n, m in self.named_modules()
            if n.endswith(".block") and isinstance(m, nn.Sequential)
        ]


def _renamed(name: str, places: dict[str, str]) -> str:
    place, _, rest = name.rpartition(".")
    while place not in places:
        place, _, last = place.rpartition(".")
        rest = f"{last}.{rest}"
    return f"{places[place]}.{rest}"


def _timm_places(network: StagedNetwork) -> dict[str, str]:
    places = {"stem.0": "conv_stem", "stem.1": "bn1", "last.0": "conv_head", "last.1": "bn2"}
    places["classifier"] = "classifier"
    for place, layers in network.layers_of_blocks():
        theirs = place.replace("stages", "blocks").removesuffix(".block")
        gates = [i for i, layer in enumerate(layers) if isinstance(layer, SqueezeExcitation)]
        convs = [i for i in range(len(layers)) if i not in gates]
        names = ["conv_pw", "conv_dw", "conv_pwl"] if len(convs) == 3 else ["conv_dw", "conv_pw"]
        for number, (i, name) in enumerate(zip(convs, names, strict=True), start=1):
            places |= {
                f"{place}.{i}.0": f"{theirs}.{name}",
                f"{place}.{i}.1": f"{theirs}.bn{number}",
            }
        for i in gates:
            places |= {
                f"{place}.{i}.fc1": f"{theirs}.se.conv_reduce",
                f"{place}.{i}.fc2": f"{theirs}.se.conv_expand",
            }
    return places
