"""What the tests of small networks share: another library's weights in ours, and the largest
difference.
"""

from __future__ import annotations

import torch
from torch import nn

from saccade.models import Network, create_model


def parity(name: str, theirs: nn.Module, dialect: str, *, training: bool) -> float:
    """Give our network the weights of theirs by name and return the largest difference of the
    logits.

    The difference is relative to the largest logit. Raises when a name, a shape or, after training,
    a buffer differs.
    """
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64) + nn.functional.interpolate(torch.randn(4, 3, 4, 4), size=64)
    _disturb(theirs, images)
    ours = create_model(name, num_classes=7, image_size=224, dropout=0.0, drop_path=0.0)
    assert isinstance(ours, Network)
    names = ours.foreign_names(dialect)
    state = theirs.state_dict()
    assert sorted(names.get(n, n) for n in ours.state_dict()) == sorted(state)
    ours.load_state_dict({n: state[names.get(n, n)] for n in ours.state_dict()})
    with torch.no_grad():
        expected = theirs.train(training)(images)
        got = ours.train(training)(images)
    for n, buffer in ours.named_buffers():
        torch.testing.assert_close(
            buffer, theirs.state_dict()[names.get(n, n)], rtol=1e-4, atol=1e-5
        )
    spread = float((expected - expected.mean(0)).abs().max() / expected.abs().max())
    assert spread > 0.01, (
        f"the images hardly matter to the logits ({spread:.1e}): equality would say nothing"
    )
    return float((got - expected).abs().max() / expected.abs().max())


def _disturb(model: nn.Module, images: torch.Tensor) -> None:
    """Give every parameter and buffer a value of its own that keeps the images (B, 3, H, W)
    visible in the logits.
    """
    for module in model.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.2, 0.2)
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = 1.0
    with torch.no_grad():
        # statistics of other images than those compared
        model.train()(images.flip(0, 1) * 1.1 + 0.1)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
