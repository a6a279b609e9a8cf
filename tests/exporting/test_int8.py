"""A file of 8 bits keeps the figures, says what it loses, and is refused where that is too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_classifiers import CLASSES, RECIPE, SIDE, Array, images

import saccade
from saccade.errors import ExportError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import calibration, int8_file
from saccade.exporting.drop import Drop, paired_interval
from saccade.exporting.proof import Proof
from saccade.models import create_model
from saccade.objectives.classification import Classification
from saccade.runs import scoring
from saccade.runs.subject import Subject
from saccade.training import datasets

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def classifier(name: str, *, has_dead_channels: bool = False) -> Classifier:
    """Return a network whose norms know what passes through them.

    With dead channels those ahead of depthwise layers are 1,000 times smaller than others, as
    training leaves some: folded with the norm behind, their weights are the largest by far.
    """
    torch.manual_seed(3)
    network = create_model(name, num_classes=len(CLASSES), image_size=SIDE)
    norm: nn.BatchNorm2d | None = None
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum, norm = None, part
        elif isinstance(part, nn.Conv2d) and part.groups > 1 and has_dead_channels:
            assert norm is not None
            with torch.no_grad():
                norm.weight[0] = 1e-3
    recipe = replace(RECIPE, model=name, eval_crop=1.0)
    seen = recipe.normalised(torch.from_numpy(images(64, seed=9)).permute(0, 3, 1, 2))
    with torch.no_grad():
        network.train()(seen)
        # every class is the best one of some images
        last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
        last.bias -= network.eval()(seen).mean(0)
    return Classifier(network, recipe)


def named(one: Classifier, x: Array) -> list[str]:
    """Return what the classifier says: on these labels it is always right."""
    with torch.inference_mode():
        seen = one.recipe.normalised(torch.from_numpy(x).permute(0, 3, 1, 2))
        return [CLASSES[i] for i in one.network(seen).argmax(1).tolist()]


def export(one: Classifier, out: Path, **more: Any) -> dict[str, Any]:
    train, val = images(48, seed=1), images(200, seed=2)
    data = {"train": (train, named(one, train)), "val": (val, named(one, val))}
    return saccade.export(one, out=out, data=data, split="val", int8=True, **more)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("int8")
    return out, export(classifier("resnet8_x2"), out, max_drop=10.0)


def test_what_stands_before_a_relu_is_not_rounded_by_itself(left: Any) -> None:
    model = onnx.load(left[0] / "model-int8.onnx")
    takers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node.op_type)
    assert "Relu" not in {node.op_type for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert layers and all(takers[node.output[0]] == ["QuantizeLinear"] for node in layers)


@pytest.mark.spec(41, "A16")
def test_a_file_of_8_bits_is_a_quarter_as_large_and_says_what_it_loses(left: Any) -> None:
    out, receipt = left
    fact = receipt["files"]["int8"]
    assert (out / fact["file"]).stat().st_size == fact["bytes"]
    assert 3 * fact["bytes"] < (out / "model.onnx").stat().st_size
    assert fact["classifier"]["top1"] == 1.0
    lost = 100 * (1.0 - fact["exported"]["top1"])
    assert fact["drop_points"] == pytest.approx(lost, abs=1e-3) and lost <= 10
    low, high = fact["drop_interval_95"]
    assert low < lost < high


def test_all_weights_are_int8_and_activations_uint8(left: Any) -> None:
    model = onnx.load(left[0] / "model-int8.onnx")
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    made_by = {out: node for node in model.graph.node for out in node.output}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) > 5
    for node in weighted:
        weights, seen = made_by[node.input[1]], made_by[node.input[0]]
        assert kinds[weights.input[0]] == onnx.TensorProto.INT8
        assert seen.op_type == "DequantizeLinear"
        assert kinds[seen.input[2]] == onnx.TensorProto.UINT8


def test_pairs_of_products_fit_into_16_bits_for_cpus_without_vnni(left: Any) -> None:
    model = onnx.load(left[0] / "model-int8.onnx")
    weights = [
        onnx.numpy_helper.to_array(one).astype(int)
        for one in model.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1
    ]
    assert len(weights) > 5
    assert max(255 * 2 * abs(one).max() for one in weights) < 2**15


def test_a_file_names_no_folder_of_the_machine_that_wrote_it(left: Any) -> None:
    for name in ("model.onnx", "model-int8.onnx"):
        data = (left[0] / name).read_bytes()
        assert str(Path(saccade.__file__).parent).encode() not in data
        assert b"stack_trace" not in data


def test_a_run_is_calibrated_on_the_images_that_it_learned_from(tmp_path: Path) -> None:
    run = saccade.train(data="digits", model="lenet5", epochs="2step", out=tmp_path / "run")
    train = scoring.training_split(run.folder)
    config = Subject.of(Path(run.folder)).config
    data = datasets.open_data(config, datasets.open_training(config))
    assert train.fingerprint == data.train.fingerprint
    chosen = calibration.drawn(train, data.val, 100)
    assert 90 <= len(chosen) <= 110
    assert set(np.bincount(chosen.labels).tolist()) <= {9, 10, 11}
    again = calibration.drawn(train, data.val, 100)
    assert chosen.fingerprint == again.fingerprint


@pytest.mark.spec(41)
def test_ranges_are_those_of_the_training_images_and_of_no_other(left: Any) -> None:
    """The first range is the input's of the first convolution: it can be computed by hand."""
    one = classifier("resnet8_x2")
    seen = one.recipe.normalised(torch.from_numpy(images(48, seed=1)).permute(0, 3, 1, 2))
    model = onnx.load(left[0] / "model-int8.onnx")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    # of one image in a hundred, the ends may lie outside
    ends = (np.quantile(seen.flatten(1).amin(1), 0.01), np.quantile(seen.flatten(1).amax(1), 0.99))
    spread = float(ends[1] - ends[0])
    assert float(held[first.input[1]]) == pytest.approx(spread / 255, rel=1e-5)
    assert left[1]["files"]["int8"]["calibration"]["images"] == 48


def test_one_image_in_hundreds_does_not_widen_a_range() -> None:
    from onnx import TensorProto, helper

    shape = ["batch", 2, 3, 3]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Neg", ["images"], ["made"])], "g", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    seen = np.random.default_rng(4).uniform(-1, 1, (400, 2, 3, 3)).astype(np.float32)
    seen[7, 1, 2, 2] = 50.0

    low, high = calibration.ranges(model, ["made"], np.split(seen, [150, 300]))["made"]
    assert -1 < low < -0.98 and 0.98 < high < 1
    seen[9] = np.inf
    with pytest.raises(ExportError, match="NaN or infinite"):
        calibration.ranges(model, ["made"], [seen])


@pytest.mark.parametrize(
    ("per_tensor", "advice"),
    [(False, "saccade quantize RUN;"), (True, "saccade quantize RUN --scheme power-of-two")],
)
def test_what_loses_too_much_is_told_to_be_trained_in_8_bits(
    per_tensor: bool, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="loses") as refused:
        export(classifier("resnet8_x2"), tmp_path / "out", per_tensor=per_tensor, max_drop=-100.0)
    assert advice in refused.value.fix


@pytest.mark.full
def test_one_scale_for_a_mobilenet_is_refused_and_one_for_each_channel_is_not(
    tmp_path: Path,
) -> None:
    one = classifier("mobilenet_v2", has_dead_channels=True)
    with pytest.raises(ExportError, match=r"loses .*points") as refused:
        export(one, tmp_path / "one", per_tensor=True, max_drop=50.0)
    assert "--per-tensor" in refused.value.fix
    assert not list((tmp_path / "one").glob("model*"))
    export(one, tmp_path / "many", max_drop=50.0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"formats": "pt2"}, "only with ONNX"),
        ({"given": "image"}, "not include resizing"),
        ({"calibration": 4}, "too few"),
    ],
)
def test_what_has_no_form_in_8_bits_is_refused(more: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        export(classifier("lenet5"), tmp_path, **more)


def test_validation_images_are_not_calibrated_on(tmp_path: Path) -> None:
    one, x = classifier("lenet5"), images(20, seed=1)
    same = {"train": (x, named(one, x)), "val": (x, named(one, x))}
    with pytest.raises(UsageError, match="also the evaluation images"):
        saccade.export(one, out=tmp_path, data=same, split="val", int8=True)
    with pytest.raises(UsageError, match="training images of the network"):
        saccade.export(one, out=tmp_path, data={"val": same["val"]}, split="val", int8=True)


def test_a_file_whose_weights_are_floats_still_is_a_fault(left: Any) -> None:
    data = (left[0] / "model-int8.onnx").read_bytes()
    with pytest.raises(ExportError, match="still floats"):
        int8_file.read_back(data, float_bytes=2 * len(data) - int8_file.NODES_BYTES)


def test_a_number_that_is_not_finite_stops_the_calibration() -> None:
    node = onnx.helper.make_node("Log", ["images"], ["logits"])
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2])
        for name in ("images", "logits")
    ]
    graph = onnx.helper.make_graph([node], "log", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    with pytest.raises(ExportError, match="NaN or infinite"):
        calibration.ranges(model, ["logits"], [np.array([[0.0, 1.0]], np.float32)])


def test_the_interval_of_the_drop_holds_19_times_of_20() -> None:
    draw, n = np.random.default_rng(0), 300
    for lost, won in [(0.03, 0.01), (0.1, 0.1), (0.01, 0.0)]:
        counts = draw.multinomial(n, [lost, won, 1 - lost - won], 3000)
        hits = 0
        for a, b, _ in counts:
            low, high = paired_interval(int(a), int(b), n)
            hits += low <= lost - won <= high
        assert 0.94 < hits / 3000 <= 1.0


def test_classes_that_lose_more_than_ten_points_are_named() -> None:
    labels = torch.arange(60) % 3
    right = torch.nn.functional.one_hot(labels, 3).float()
    worse = right.clone()
    # five of the second class, and one of the third: that alone is chance
    places = [*torch.nonzero(labels == 1)[:5, 0].tolist(), 2]
    worse[places] = worse[places].roll(1, 1)
    objective = Classification(("ant", "bee", "cat"))
    own, exported = (objective.judge(one, labels) for one in (right, worse))
    proof = Proof(own, exported, 1.0, changed=6, split="val", images=60, of=60)
    drop = Drop.of(proof, objective)
    assert drop.classes == (("bee", 20, 15, 20),)
    assert drop.points == pytest.approx(10.0)


def test_views_are_in_the_file_of_8_bits(tmp_path: Path) -> None:
    one = classifier("lenet5")
    two = Classifier(one.network, replace(one.recipe, eval_views=2))
    receipt = export(two, tmp_path, max_drop=10.0)
    assert receipt["files"]["int8"]["drop_points"] <= 10
