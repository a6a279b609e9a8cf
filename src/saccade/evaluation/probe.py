"""Linear probe: a logistic regression on frozen features; its penalty is chosen on held-out
training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade import rng
from saccade.evaluation.features import Features
from saccade.rng import Purpose

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
"""Penalties to try, from strong to weak."""

LEAST_DEVIATION = 0.1
"""Deviations below this share of their root mean square count as so much."""

FOLDS = 5
MOST_FOLDED = 2000
"""With more images only one fold is held out; with fewer, each fold once."""

PATIENCE = 2
"""So many strengths in a row that are worse than the best one end the search."""

STEPS = 300
COARSE, FINE = 1e-4, 1e-7
"""L-BFGS ends when no entry of the gradient is larger, or after so many steps: coarsely while
strengths are compared, finely for the answer.
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier of raw features: logits = vectors @ weight.T + bias.

    ``weight`` is float32 (C, d), ``bias`` float32 (C,): they can be copied into a linear head.
    ``strength`` is the chosen penalty, ``held_out_top1`` its accuracy, 0..1, on the held-out
    training images.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    held_out_top1: float

    def logits(self, vectors: Tensor) -> Tensor:
        """Return logits, float32 (n, C), of vectors, float32 (n, d)."""
        return F.linear(vectors, self.weight, self.bias)

    def top1(self, judged: Features) -> float:
        """Return its accuracy, 0..1, on the evaluated images."""
        return float((self.logits(judged.vectors).argmax(1) == judged.labels).double().mean())


# whoever asks for features may have gradients switched off
@torch.inference_mode(False)
def fit(features: Features, num_classes: int, seed: int = 0) -> Probe:
    """Fit a linear probe to the features of training images; deterministic, in float64.

    It minimises the mean cross entropy + strength / 2 * the squared weights, of features that are
    centred and divided by their standard deviation (`LEAST_DEVIATION`). The strength is the one
    with the lowest loss on held-out images, which the seed draws from each class in proportion.
    """
    folds = _folds(features.labels, num_classes, seed)
    held = range(FOLDS) if len(features) <= MOST_FOLDED else range(1)
    sides = [(features.at(folds != fold), features.at(folds == fold)) for fold in held]
    # a fold may be empty where there are fewer images than folds
    tried = [_Regression(a, num_classes) for a, b in sides if len(a) and len(b)]
    judged = [b for a, b in sides if len(a) and len(b)]

    labels = torch.cat([b.labels for b in judged]) if judged else features.labels

    best, chosen, right, behind = float("inf"), STRENGTHS[0], 0.0, 0
    for strength in STRENGTHS if tried else ():
        logits = torch.cat(
            [
                F.linear(b.vectors, *one.solved(strength, COARSE).raw())
                for one, b in zip(tried, judged, strict=True)
            ]
        )
        loss = float(F.cross_entropy(logits, labels))
        if loss < best:
            best, chosen, behind = loss, strength, 0
            right = float((logits.argmax(1) == labels).double().mean())
        elif (behind := behind + 1) == PATIENCE:
            break

    whole = _Regression(features, num_classes)
    return Probe(*whole.solved(chosen, FINE).raw(), strength=chosen, held_out_top1=right)


def _folds(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """Return the fold of each image, int64 (n,), balanced over the classes."""
    keys = torch.from_numpy(rng.uniform(rng.key(seed, Purpose.FOLD, range(len(labels))), 1)[:, 0])
    folds = torch.empty_like(labels)
    dealt = 0
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        # goes on where the last class ended: folds are equally large with few images a class, too
        folds[members[keys[members].argsort()]] = (torch.arange(len(members)) + dealt) % FOLDS
        dealt += len(members)
    return folds


class _Regression:
    """A logistic regression that starts at its last solution."""

    def __init__(self, features: Features, num_classes: int) -> None:
        raw = features.vectors.double()
        self.centre, deviation = raw.mean(0), raw.std(0, unbiased=False)
        # else a number that hardly ever changes would get a huge weight
        least = LEAST_DEVIATION * deviation.square().mean().sqrt()
        self.scale = deviation.clamp(min=float(least) or 1.0)
        self.inputs, self.labels = (raw - self.centre) / self.scale, features.labels.clone()

        # the solution is a sum of the images: with few of them it has as many coordinates, exactly
        self.basis: Tensor | None = None
        if raw.shape[0] < raw.shape[1]:
            self.basis, coordinates = torch.linalg.qr(self.inputs.T)
            self.inputs = coordinates.T.contiguous()
        self.weight = raw.new_zeros(num_classes, self.inputs.shape[1], requires_grad=True)
        self.bias = raw.new_zeros(num_classes, requires_grad=True)

    def solved(self, strength: float, gradient: float) -> _Regression:
        """Find the solution with this penalty, up to the tolerance of the gradient."""
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=STEPS,
            max_eval=2 * STEPS,
            tolerance_grad=gradient,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = F.linear(self.inputs, self.weight, self.bias)
            value = F.cross_entropy(logits, self.labels)
            value = value + strength / 2 * self.weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        return self

    def raw(self) -> tuple[Tensor, Tensor]:
        """Return weights, float32 (C, d), and biases, float32 (C,), for raw features."""
        weight = self.weight.detach()
        if self.basis is not None:
            weight = weight @ self.basis.T
        weight = weight / self.scale
        return weight.float(), (self.bias.detach() - weight @ self.centre).float()
