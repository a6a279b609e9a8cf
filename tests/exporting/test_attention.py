from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("onnxscript")

import onnx
import onnxruntime

from saccade.exporting.onnx_file import onnx_bytes

MASK = torch.zeros(6, 6)
MASK[2:4, 1:5] = -3.0


class Attending(nn.Module):
    def __init__(self, **given: object) -> None:
        super().__init__()
        self.given = given

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = images.unbind(0)
        answer: Tensor = functional.scaled_dot_product_attention(query, key, value, **self.given)  # type: ignore[arg-type]
        return answer


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scale": 0.3},
        {"attn_mask": MASK},
        {"attn_mask": MASK == 0},
        {"is_causal": True},
    ],
    ids=["plain", "scaled", "added mask", "boolean mask", "causal"],
)
def test_attention_of_a_file_answers_as_torch(given: dict[str, object]) -> None:
    network = Attending(**given)
    images = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    axes = ({1: torch.export.Dim("batch", max=100)},)
    data = onnx_bytes(torch.export.export(network, (images,), dynamic_shapes=axes), {})

    several = torch.cat([images, images.flip(1), images], dim=1)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": several.numpy()})[0])
    torch.testing.assert_close(found, network(several), atol=1e-6, rtol=1e-5)


def test_keys_of_plain_attention_are_turned_around_once() -> None:
    images = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    axes = ({1: torch.export.Dim("batch", max=100)},)
    program = torch.export.export(Attending(), (images,), dynamic_shapes=axes)
    nodes = onnx.load_model_from_string(onnx_bytes(program, {})).graph.node
    assert Counter(one.op_type for one in nodes)["Transpose"] == 1
