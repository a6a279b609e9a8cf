"""Every family of networks leaves as ONNX and answers there as here, in batches of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.evaluation.classifier import Classifier, Recipe
from saccade.exporting.graph import captured
from saccade.exporting.onnx_file import onnx_bytes
from saccade.exporting.whole import Whole
from saccade.models import create_model, find, meta_model, names

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.models

SIDES = {"lenet": 32, "airbench": 64, "resnet-cifar": 16, "alexnet": 128, "inception": 128}
"""By family, in pixels; 64 for the others."""

OTHERS = {
    "resnet50_d": 64,
    "resnet18_blur": 64,
    "timm:mobilenetv4_conv_small": 64,
    "timm:vit_tiny_patch16_224": 224,
    "timm:tf_efficientnet_lite0": 64,
    "timm:efficientvit_b0": 64,
    "torchvision:densenet121": 64,
    "torchvision:mnasnet0_5": 64,
    "torchvision:maxvit_t": 224,
}
MOST_PARAMETERS = 60_000_000
"""Larger ones are built by the same code as smaller ones, but for VGG, and take gigabytes."""

LIMIT = 1e-3
"""Of the logits' standard deviation; 4e-6 is usual, 1.7e-4 the worst that was measured."""


@pytest.mark.parametrize("name", [*names(), *OTHERS])
def test_a_network_answers_as_onnx_in_any_batch(name: str) -> None:
    side = OTHERS.get(name) or SIDES.get(find(name).family, 64)
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    else:
        shape = meta_model(name, num_classes=7, image_size=side)
        size = sum(one.numel() for one in shape.parameters())
        if size > MOST_PARAMETERS and not name.startswith("vgg11"):
            pytest.skip(f"{size / 1e6:.0f} M parameters")

    torch.manual_seed(5)
    network = create_model(name, num_classes=7, image_size=side)
    with torch.no_grad():
        # norms that do nothing would fold into anything
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and ("running" in key or tensor.ndim == 1):
                tensor.add_(0.1 * torch.rand_like(tensor))
    colours = (0.5, 0.4, 0.3)
    about = Recipe(name, tuple("abcdefg"), side, 1.0, colours, colours, "ignore")
    whole = Whole(Classifier(network.eval(), about), "uint8")

    data = onnx_bytes(captured(whole), {})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (7, side, side, 3), np.uint8)
    with torch.inference_mode():
        ours = whole(torch.from_numpy(pixels)).numpy()
    for count in (1, 2, 7):
        theirs = session.run(None, {"images": pixels[:count]})[0]
        assert theirs.shape == (count, 7)
        assert np.abs(theirs - ours[:count]).max() < LIMIT * ours.std()
