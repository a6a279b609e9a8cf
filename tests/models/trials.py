"""Trials that several families take: a peer's weights put into ours by name, a first loss, a few
steps of training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from saccade.models import Network, create_model, meta_model
from saccade.objectives.objective import heads

INDEX = "relative_position_index"  # a buffer that torchvision's Swin stores


def randomised(model: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value of its own that matters, and switch drop path
    off.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draws = torch.randn(parameter.shape, generator=generator)
            scale = (
                1.5 / math.sqrt(parameter[0].numel())
                if parameter.dim() > 1 and len(parameter) > 1
                else 0.3
            )
            parameter.copy_(
                draws * scale + (parameter.dim() == 1 and not name.endswith("bias")) * 0.7
            )
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.7, 1.3, generator=generator)
    for module in model.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    return model


def transplanted(name: str, theirs: nn.Module, dialect: str, **options: object) -> Network:
    """Build our model and give it their weights; every tensor of theirs must find its place."""
    head = list(theirs.state_dict().values())[-1]
    ours = create_model(name, num_classes=len(head), drop_path=0.0, **options)  # type: ignore[arg-type]
    assert isinstance(ours, Network)
    foreign, left = ours.foreign_names(dialect), dict(theirs.state_dict())
    state = {n: left.pop(foreign.get(n, n)).reshape(t.shape) for n, t in ours.state_dict().items()}
    assert all(n.endswith(INDEX) for n in left), sorted(left)
    ours.load_state_dict(state)
    return ours


def gap(ours: nn.Module, theirs: nn.Module, images: Tensor) -> float:
    """Return the largest difference of the logits, in training and in evaluation, over the
    largest logit.
    """
    found = 0.0
    for training in (True, False):
        with torch.no_grad():
            got, expected = ours.train(training)(images), theirs.train(training)(images)
        assert got.shape == expected.shape and expected.std() > 0.05
        found = max(found, float((got - expected).abs().max() / expected.abs().max()))
    return found


def first_loss(name: str, classes: int, size: int) -> float:
    """Return the loss of a fresh model on noise over that of guessing, ln(classes)."""
    model = create_model(name, num_classes=classes, image_size=size, seed=1)
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy(
        model(torch.randn(16, 3, size, size)), torch.arange(16) % classes
    )
    return float(loss.detach()) / math.log(classes)


def loss_after(model: nn.Module, size: int, steps: int, lr: float, bfloat16: bool = False) -> float:
    """Train on noise over one of two pictures, the classes, with AdamW.

    Every gradient must be finite.
    """
    torch.manual_seed(0)
    labels = torch.arange(8) % 2
    images = torch.randn(8, 3, size, size) + torch.randn(2, 3, size, size)[labels]
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def steps_to_leave_chance(model: nn.Module, side: int, lr: float, limit: int = 60) -> int | None:
    """Learn eight pictures of noise by heart, two classes, with SGD and momentum, dropout and
    auxiliary heads at work.

    Return the step after which the mean loss of five steps is below half of ln 2, or None.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, side, side), torch.arange(8) % 2
    optimizer = torch.optim.SGD(model.train().parameters(), lr, momentum=0.9)
    losses: list[float] = []
    for step in range(limit):
        logits, *others = heads(model(images))
        loss = nn.functional.cross_entropy(logits, labels)
        weight = getattr(model, "aux_weight", 0.0)
        total = loss + weight * sum(nn.functional.cross_entropy(other, labels) for other in others)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses = [*losses[-4:], float(loss.detach())]
        if len(losses) == 5 and sum(losses) / 5 < math.log(2) / 2:
            return step
    return None


def as_torch_starts_it(model: nn.Module) -> nn.Module:
    """Start all layers as torch does by default: the control of `steps_to_leave_chance`."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def runs_at_half_size(name: str, *sides: int) -> bool:
    """Tell whether networks built for each image size train on it and, as growing images ask, on
    half of it.
    """
    for side in sides:
        model = meta_model(name, num_classes=3, image_size=side).train()
        for seen in (side, side // 2):
            outputs = heads(model(torch.empty(2, 3, seen, seen, device="meta")))
            if any(output.shape != (2, 3) for output in outputs):
                return False
    return True
