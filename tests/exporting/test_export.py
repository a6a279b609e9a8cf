"""A trained classifier leaves as files that other programs load, and that answer as it does."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from saccade import files
from saccade.errors import ExportError, SaccadeError, UsageError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.views import mean_logits
from saccade.exporting import formats
from saccade.exporting.graph import captured
from saccade.exporting.whole import Whole
from saccade.models import create_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIDE = 32
USUAL = (2, 2, 2, 2, 2)
CLASSES = ("ant", "bee", "cat", "dog")


def classifier(name: str = "resnet8", side: int = SIDE, **recipe: Any) -> Classifier:
    """Return a network whose every number is drawn, statistics of norms among them."""
    torch.manual_seed(3)
    strides = recipe.get("strides", ())
    network = create_model(name, num_classes=len(CLASSES), image_size=side, strides=strides)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.1 * torch.rand_like(tensor)
                tensor.add_(noise if key.endswith("running_var") else noise - 0.05)
    about = Recipe(
        model=name,
        classes=CLASSES,
        image_size=side,
        eval_crop=0.875,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        exif="apply",
    )
    network = network.to(memory_format=torch.channels_last).eval()
    return Classifier(network, replace(about, **recipe))


def images(count: int = 24, side: int = SIDE) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return images, uint8 (n, side, side, 3), and labels, int64 (n,)."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2), np.arange(count) % len(CLASSES)


def export(one: Classifier, out: Path, **more: Any) -> dict[str, Any]:
    x, y = images(side=one.recipe.eval_side)
    data = {"val": (x, [CLASSES[i] for i in y]), "train": (x, [CLASSES[i] for i in y])}
    return saccade.export(one, out=out, data=data, split="val", **more)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path, dict[str, Any]]:
    """A classifier of two views, and what was exported of it."""
    one, out = classifier(eval_views=2), tmp_path_factory.mktemp("export")
    return one, out, export(one, out, formats="onnx,pt2,pt,pickle")


def own_logits(one: Classifier, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits: Tensor = mean_logits(
            one.network, one.recipe.normalised(pixels), one.recipe.eval_views
        )
    return np.asarray(logits)


@pytest.mark.parametrize("count", [1, 3, 24])
def test_onnx_answers_pixels_in_batches_of_any_size_as_the_classifier_does(
    left: Any, count: int
) -> None:
    one, out, _ = left
    x = images()[0][:count]
    theirs = session(out / "model.onnx").run(None, {"images": x})[0]
    ours = own_logits(one, x)
    assert theirs.shape == (count, len(CLASSES))
    assert np.abs(theirs - ours).max() < 1e-4 * own_logits(one, images()[0]).std()


def test_the_file_says_its_classes_and_needs_standard_operators_alone(left: Any) -> None:
    import onnx

    _, out, receipt = left
    model = onnx.load(out / "model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    about = json.loads({p.key: p.value for p in model.metadata_props}["saccade"])
    assert about["classes"] == list(CLASSES) and about["views"] == 2
    assert receipt["files"]["onnx"]["opset"] == model.opset_import[0].version


def test_the_receipt_has_both_figures_and_vouches_for_the_bytes(left: Any) -> None:
    _, out, receipt = left
    assert json.loads((out / "export.json").read_text())["files"] == receipt["files"]
    for fact in receipt["files"].values():
        assert fact["classifier"]["correct"] == fact["exported"]["correct"]
        assert fact["images"] == fact["of_images"] == 24
        (digest,) = fact["sha256"].values()
        assert files.digest(out / fact["file"]) == digest


@pytest.mark.parametrize("given", ["uint8", "image", "float"])
def test_the_lines_that_come_with_it_name_what_saccade_names(given: str, tmp_path: Path) -> None:
    one = classifier("lenet5", eval_views=1)
    export(one, tmp_path, given=given)
    Image.fromarray(images()[0][5]).resize((75, 50)).save(tmp_path / "some.png")
    (ours,) = saccade.predict(one, tmp_path / "some.png")

    command = [sys.executable, "-I", "classify.py", "some.png"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    share, name = said.stdout.splitlines()[0].split()
    assert name == ours.label
    assert abs(float(share.strip("%")) / 100 - ours.top[0][1]) < 0.02


def test_these_lines_read_files_of_every_kind_as_saccade_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = classifier("lenet5")
    export(one, tmp_path)
    colours = Image.fromarray(images()[0][5]).resize((75, 50))
    see_through, turned = colours.convert("RGBA"), Image.Exif()
    see_through.putalpha(Image.linear_gradient("L").resize((75, 50)))
    turned[0x112] = 6
    levels = np.asarray(colours.convert("L")).astype(np.uint16) * 257
    colours.convert("L").save(tmp_path / "gray.png")
    colours.convert("CMYK").save(tmp_path / "print.jpg")
    colours.save(tmp_path / "turned.jpg", exif=turned)
    colours.convert("P").save(tmp_path / "palette.png")
    see_through.save(tmp_path / "see-through.png")
    Image.fromarray(levels).save(tmp_path / "16-bit.png")

    monkeypatch.chdir(tmp_path)
    for file in [*tmp_path.glob("*.png"), *tmp_path.glob("*.jpg")]:
        (ours,) = saccade.predict(one, file)
        monkeypatch.setattr(sys, "argv", ["classify.py", file.name])
        runpy.run_path("classify.py")
        share, name = capsys.readouterr().out.splitlines()[0].split()
        assert name == ours.label, file.name
        assert abs(float(share.strip("%")) / 100 - ours.top[0][1]) < 0.004, file.name


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize(("height", "width"), [(75, 40), (40, 75), (33, 32), (131, 257)])
def test_a_graph_that_resizes_itself_sees_the_same_pixels(
    fit: Any, height: int, width: int
) -> None:
    class Pixels(nn.Module):
        """Answers the pixels themselves."""

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    one = Classifier(Pixels(), replace(classifier("lenet5").recipe, fit=fit))
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (1, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    x = x.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    with torch.inference_mode():
        seen = Whole(one, "image")(torch.from_numpy(x)).view(3, SIDE, SIDE)
        wanted = one.recipe.normalised(one.recipe.framing.square(x[0], SIDE)[None])[0]
    level = 1 / 255 / torch.tensor(one.recipe.std).view(3, 1, 1)
    assert float(((seen - wanted).abs() / level).max()) < 1.001


def test_channels_are_in_the_order_of_the_network(tmp_path: Path) -> None:
    one = classifier("lenet5", channels="bgr")
    export(one, tmp_path)
    x = images()[0]
    theirs = session(tmp_path / "model.onnx").run(None, {"images": x})[0]
    np.testing.assert_allclose(theirs, own_logits(one, x), atol=1e-4)


def test_pt2_needs_torch_alone(left: Any) -> None:
    one, out, _ = left
    code = (
        "import sys, torch; sys.modules['saccade'] = None\n"
        "more = {'saccade.json': ''}\n"
        f"module = torch.export.load({str(out / 'model.pt2')!r}, extra_files=more).module()\n"
        "print(more['saccade.json'][:12], module(torch.zeros(5, 32, 32, 3).byte()).tolist()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"classes": ')
    theirs = json.loads(done.stdout[done.stdout.index("[", 13) :])
    np.testing.assert_allclose(theirs, own_logits(one, np.zeros((1, 32, 32, 3), np.uint8))[0], 1e-4)


def test_weights_alone_have_the_names_of_torchvision(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    one = classifier("resnet18", side=64, strides=USUAL)
    export(one, tmp_path, formats="pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    theirs = models.resnet18(num_classes=len(CLASSES)).eval()
    theirs.load_state_dict(state)
    x = one.recipe.normalised(torch.from_numpy(images(4, 64)[0]).permute(0, 3, 1, 2))
    with torch.inference_mode():
        apart = theirs(x) - one.network(x)
        assert float(apart.abs().max()) < 1e-4 * float(one.network(x).std())


def test_timm_loads_the_folder_and_knows_the_classes(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    one = classifier("resnet18", side=64, strides=USUAL)
    receipt = export(one, tmp_path, formats="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert receipt["files"]["timm"]["timm_name"] == "resnet18"
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    config = timm.data.resolve_data_config({}, model=theirs)
    assert tuple(config["mean"]) == one.recipe.mean and config["crop_pct"] == 0.875


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"eval_views": 2}, "mean of 2 views"),
        ({"channels": "bgr"}, "blue first"),
        ({"image_size": 32}, "no network that is resnet8"),
    ],
)
def test_what_timm_cannot_say_is_refused(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=word):
        export(classifier(**change), tmp_path, formats="timm")
    assert not (tmp_path / "timm").exists()


def test_a_file_with_one_weight_changed_is_refused_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    one = classifier("lenet5")
    export(one, tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    make = formats.FORMATS["onnx"].make

    def poisoned(material: Any) -> Any:
        contents, more = make(material)
        model = onnx.load_model_from_string(contents["model.onnx"])
        weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
        values = numpy_helper.to_array(weight).copy()
        values.flat[0] += 0.5
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        return {"model.onnx": model.SerializeToString()}, more

    poison = replace(formats.FORMATS["onnx"], make=poisoned)
    monkeypatch.setitem(formats.FORMATS, "onnx", poison)
    with pytest.raises(ExportError, match="another classifier"):
        export(one, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "README.md",
        "classify.py",
        "export.json",
        "model.onnx",
    ]


def test_a_file_that_no_program_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(formats.FORMATS["onnx"], make=lambda _: ({"model.onnx": b"no model"}, {}))
    monkeypatch.setitem(formats.FORMATS, "onnx", broken)
    with pytest.raises(ExportError, match="cannot be used"):
        export(classifier("lenet5"), tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_a_network_that_only_takes_one_batch_size_is_refused() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))[:, :1] * torch.ones(len(x), len(CLASSES))

    one = Classifier(Counts(), classifier("lenet5").recipe)
    with pytest.raises(ExportError, match="cannot be captured"):
        captured(Whole(one, "uint8"))


def test_without_images_nothing_is_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say which images"):
        saccade.export(classifier("lenet5"), out=tmp_path)


@pytest.mark.parametrize(("flag", "value"), [("formats", "onnx,tflite"), ("given", "jpeg")])
def test_words_that_are_not_known_are_refused(flag: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SaccadeError, match="there is no"):
        export(classifier("lenet5"), tmp_path, **{flag: value})


def test_killed_before_a_file_has_its_name_the_old_ones_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = classifier("lenet5")
    export(one, tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    changed = Classifier(
        classifier("lenet5", eval_views=2).network, replace(one.recipe, eval_views=2)
    )

    def killed(name: str) -> None:
        if name == "moved classify.py":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "stage", killed)
    with pytest.raises(KeyboardInterrupt):
        export(changed, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if ".part" in p.name], os.listdir(tmp_path)
