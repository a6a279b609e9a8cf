"""Self-distillation: a student learns what its own slow average, the teacher, says of other views.

Caron et al. 2021, *Emerging Properties in Self-Supervised Vision Transformers* (DINO), arXiv
2104.14294, section 3.1 and algorithm 1; what the text leaves open is as in its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saccade.models.parts.duplicate import duplicate
from saccade.models.parts.layers import DropPath, starting
from saccade.models.parts.learner import Learner

STD = 0.02
CENTRE_MOMENTUM = 0.9
"""*Source:* Caron et al. 2021, section 5.3; main_dino.py, ``center_momentum``."""


class Seen(NamedTuple):
    """The input of a learner: normalised images (B, 3, S, S), and the small views of the same
    images (M, 3, s, s) or None. ``fixed`` freezes the prototypes.
    """

    large: Tensor
    small: Tensor | None
    fixed: bool

    def __len__(self) -> int:
        return len(self.large) + (0 if self.small is None else len(self.small))


class Said(NamedTuple):
    """The scores of student and teacher for each of K prototypes.

    ``student`` is (B + M, K), large views first; ``teacher`` (B, K), without a gradient; ``centre``
    (K,) is subtracted from the teacher's scores.
    """

    student: Tensor
    teacher: Tensor
    centre: Tensor


class PrototypeHead(nn.Module):
    """Linear layers with GELU to a narrow one, then cosines with K prototypes.

    ``widths`` are (hidden ..., bottleneck, K). With ``normed`` the prototypes have length one;
    without it each has a trained length. With ``batch_norm`` the hidden layers have BatchNorm, as
    with ``--use_bn_in_head`` of main_dino.py.
    """

    def __init__(
        self, width: int, widths: Sequence[int], *, normed: bool, batch_norm: bool = False
    ) -> None:
        super().__init__()
        *hidden, prototypes = widths
        layers: list[nn.Module] = []
        for c_in, c_out in zip((width, *hidden), hidden, strict=False):
            norm = [nn.BatchNorm1d(c_out)] if batch_norm else []
            linear = starting(nn.Linear(c_in, c_out), weight=(0, STD), bias=(0, 0))
            layers += [linear, *norm, nn.GELU()]
        # the bottleneck has neither
        self.mlp = nn.Sequential(*layers[: -2 if batch_norm else -1])

        self.prototypes = nn.Parameter(torch.empty(prototypes, hidden[-1]))
        # only their directions matter
        starting(self, prototypes=(0, hidden[-1] ** -0.5))
        self.lengths: nn.Parameter | None = None
        if not normed:
            self.lengths = nn.Parameter(torch.ones(prototypes, 1))
            starting(self, lengths=(1, 0))

    def forward(self, features: Tensor, fixed: bool = False) -> Tensor:
        """Return the scores (B, K) of features (B, d); ``fixed`` prototypes get no gradient."""
        rows = F.normalize(self.prototypes, dim=1)
        if self.lengths is not None:
            rows = rows * self.lengths
        return F.linear(F.normalize(self.mlp(features), dim=1), rows.detach() if fixed else rows)


class SelfDistillation(Learner):
    """A student (``encoder`` and ``head``), its teacher, and the centre (K,) of the teacher's
    scores.

    The teacher has no gradient and no stochastic depth. The head has BatchNorm if the encoder has:
    the features of different images in a convolutional network differ little compared with what
    they share, and without the norm the teacher soon gives the same scores for every image.

    ``running_centre`` has the name of a running statistic, so the step averages it over all cells
    and ranks, and checkpoints hold it.
    """

    running_centre: Tensor

    def __init__(
        self, encoder: nn.Module, width: int, widths: Sequence[int], *, normed: bool
    ) -> None:
        super().__init__(encoder)
        batch_norm = any(isinstance(module, _BatchNorm) for module in encoder.modules())
        self.head = PrototypeHead(width, widths, normed=normed, batch_norm=batch_norm)
        self.teacher = _without_chance(duplicate(encoder)).requires_grad_(False)
        self.teacher_head = duplicate(self.head).requires_grad_(False)
        self.register_buffer("running_centre", torch.zeros(widths[-1]))
        self._drop_paths = [m for m in encoder.modules() if isinstance(m, DropPath)]

    def start(self) -> None:
        """Make the teacher a copy of the student."""
        with torch.no_grad():
            for mine, theirs in self._pairs():
                mine.copy_(theirs)
            for slow, fast in zip(self.teacher.buffers(), self.encoder.buffers(), strict=True):
                slow.copy_(fast)

    def project(self, features: Tensor) -> Tensor:
        """Return the bottleneck (B, p) of the teacher's head for features (B, d)."""
        narrow: Tensor = self.teacher_head.mlp(features)
        return narrow

    def forward(self, seen: Seen) -> Said:
        """Return what student and teacher say of a cell; in training the centre moves on."""
        large, small, fixed = seen
        with torch.no_grad():
            teacher = self.teacher_head(_first(self.teacher(large)))
        scores = [self.head(self._student(large, 0), fixed)]
        if small is not None:
            scores.append(self.head(self._student(small, len(large)), fixed))

        # this cell is judged by the centre from before it
        centre = self.running_centre.clone()
        if self.training:
            with torch.no_grad():
                self.running_centre.lerp_(teacher.float().mean(0), 1 - CENTRE_MOMENTUM)
        return Said(torch.cat(scores), teacher, centre)

    def follow(self, momentum: float, good: Tensor) -> None:
        """Move the teacher's weights towards the student's, unless ``good``, a bool scalar, is
        False.

        Its buffers follow its own images. Nothing waits for ``good``.
        """
        with torch.no_grad():
            slow, fast = map(list, zip(*self._pairs(), strict=True))
            ways = torch._foreach_sub(fast, slow)
            torch._foreach_mul_(ways, good * (1 - momentum))
            torch._foreach_add_(slow, ways)

    def _student(self, images: Tensor, first: int) -> Tensor:
        """Return the student's features of images whose draws begin at row ``first``."""
        drawn = [layer.keep for layer in self._drop_paths]
        for layer, keep in zip(self._drop_paths, drawn, strict=True):
            layer.keep = None if keep is None else keep[first : first + len(images)]
        try:
            return self.features(images)
        finally:
            for layer, keep in zip(self._drop_paths, drawn, strict=True):
                layer.keep = keep

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter of the teacher with the student's."""
        pairs = zip(self.teacher.parameters(), self.encoder.parameters(), strict=True)
        heads = zip(self.teacher_head.parameters(), self.head.parameters(), strict=True)
        return [*pairs, *heads]


def _first(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the main head's answer of a network with auxiliary ones."""
    return answer[0] if isinstance(answer, tuple | list) else answer


def _without_chance(network: nn.Module) -> nn.Module:
    """Replace everything that drops at random, in place; parameters and names do not change."""
    for name, module in list(network.named_modules()):
        if isinstance(module, DropPath | nn.Dropout):
            network.set_submodule(name, nn.Identity())
    return network
