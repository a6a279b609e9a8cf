"""Small networks, and their weights as other trainers save them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.models import Network
from saccade.models.parts.network import Level

State = dict[str, Tensor]


def state_of(model: nn.Module, offset: float = 0.5) -> State:
    """Return a state that no initialisation gives."""
    return {
        n: t.clone() + offset if t.is_floating_point() else t.clone() + 3
        for n, t in model.state_dict().items()
    }


def equal(model: nn.Module, state: State) -> bool:
    own = model.state_dict()
    return set(own) == set(state) and all(
        torch.equal(own[n], state[n].view_as(own[n])) for n in own
    )


class Small(Network):
    """A network whose names timm spells otherwise: two of them are swapped, and its head is a
    1x1 convolution.
    """

    levels = (Level(4, 1),)
    head_name = "top"
    aux_names = ("aux",)

    def __init__(self, classes: int = 5, colours: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(colours, 4, 3)
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.top, self.aux = nn.Conv2d(4, classes, 1), nn.Linear(4, classes)

    def foreign_names(self, dialect: str) -> dict[str, str]:
        pairs = {"stem": "entry.conv", "one": "two", "two": "one"} if dialect == "timm" else {}
        return {
            f"{ours}.{part}": f"{theirs}.{part}"
            for ours, theirs in pairs.items()
            for part in ("weight", "bias")
        }


class Attentive(nn.Module):
    """The tables of a ViT and a Swin, and the index buffers that code makes."""

    def __init__(self, side: int, tokens: int = 1, window: int = 7, heads: int = 2) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(1, tokens + side * side, 6))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.arange(window**4))
        self.norm = nn.BatchNorm1d(6)
