"""A file that is not the classifier, or cannot be made, is refused; what was there stays."""

from __future__ import annotations

import builtins
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_classifiers import CLASSES, RECIPE, classifier, export, with_one_weight_changed

import saccade
from saccade import files
from saccade.errors import ExportError, SaccadeError, UsageError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import formats, onnx_file
from saccade.exporting.graph import captured
from saccade.exporting.whole import Whole

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def with_classes_in_another_order(kind: str, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return the same files that name another order of the classes."""
    if kind == "timm":
        config = json.loads(contents["config.json"])
        config["label_names"].reverse()
        config["pretrained_cfg"]["label_names"].reverse()
        return contents | {"config.json": json.dumps(config).encode()}
    assert kind == "onnx"
    import onnx

    model = onnx.load_model_from_string(contents["model.onnx"])
    about = json.loads(model.metadata_props[-1].value)
    about["classes"].reverse()
    model.metadata_props[-1].value = json.dumps(about)
    return {"model.onnx": model.SerializeToString()}


@pytest.mark.parametrize("kind", ["onnx", "timm"])
def test_a_file_that_names_the_classes_in_another_order_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    usual = formats.FORMATS[kind]

    def swapped(material: Any) -> Any:
        contents, more = usual.make(material)
        return with_classes_in_another_order(kind, contents), more

    monkeypatch.setitem(formats.FORMATS, kind, replace(usual, make=swapped))
    with pytest.raises(ExportError, match="describes another classifier"):
        export(classifier("resnet18", 64, strides=(2,) * 5), tmp_path, formats=kind)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_file_that_changes_on_the_disk_after_it_was_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = formats.FORMATS["pt"]

    def spoilt(material: Any, path: Path, threads: int) -> Any:
        with path.open("ab") as file:
            file.write(b"\0")
        return usual.asked(material, path, threads)

    monkeypatch.setitem(formats.FORMATS, "pt", replace(usual, asked=spoilt))
    with pytest.raises(ExportError, match=r"model\.pt changed after it was written"):
        export(classifier("lenet5"), tmp_path, formats="pt")
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.spec(33)
def test_a_file_with_one_weight_changed_is_refused_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = classifier("lenet5")
    export(one, tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    make = formats.FORMATS["onnx"].make

    def poisoned(material: Any) -> Any:
        contents, more = make(material)
        return {"model.onnx": with_one_weight_changed(contents["model.onnx"])}, more

    poison = replace(formats.FORMATS["onnx"], make=poisoned)
    monkeypatch.setitem(formats.FORMATS, "onnx", poison)
    with pytest.raises(ExportError, match="differs from the classifier"):
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
    with pytest.raises(ExportError, match="cannot be opened"):
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
    with pytest.raises(SaccadeError, match=f"(there is no|unknown).*{value[-5:]}"):
        export(classifier("lenet5"), tmp_path, **{flag: value})


@pytest.mark.fault("A3")
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


@pytest.mark.parametrize("formats_named", ["pt", "timm"])
def test_weights_of_which_one_is_changed_are_refused(
    formats_named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if formats_named == "timm":
        pytest.importorskip("timm")
    kind = formats.FORMATS[formats_named]

    def poisoned(material: Any) -> Any:
        with torch.no_grad():
            weight = next(p for p in material.whole.network.parameters() if p.ndim == 4)
            weight.view(-1)[0] += 0.5
        return kind.make(material)

    monkeypatch.setitem(formats.FORMATS, formats_named, replace(kind, make=poisoned))
    with pytest.raises(ExportError, match="differs from the classifier"):
        export(classifier("resnet18", 64, strides=(2,) * 5), tmp_path, formats=formats_named)
    assert not list(tmp_path.glob("[!.]*"))


def test_weights_that_are_no_numbers_are_refused_by_their_name(tmp_path: Path) -> None:
    one = classifier("lenet5")
    with torch.no_grad():
        next(one.network.parameters())[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"weights are broken: \S+ holds NaN"):
        export(one, tmp_path)
    assert not tmp_path.joinpath("model.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=package) as refused:
        export(classifier("lenet5"), tmp_path)
    assert refused.value.fix.startswith("pip install onnx onnxruntime")


def test_an_onnxscript_that_mixes_up_norms_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file.metadata, "version", lambda _name: "0.5.6")
    with pytest.raises(UsageError, match=r"onnxscript 0\.5\.6 is too old"):
        export(classifier("lenet5"), tmp_path)


@pytest.mark.spec("A15")
def test_a_network_that_pickle_cannot_name_is_refused(tmp_path: Path) -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) @ torch.ones(3, len(CLASSES))

    one = Classifier(Local(), replace(RECIPE, model="custom:Local"))
    with pytest.raises(ExportError, match="cannot be pickled"):
        export(one, tmp_path, formats="pickle")


def test_a_file_that_answers_the_same_to_everything_is_compared_all_the_same(
    tmp_path: Path,
) -> None:
    one = classifier("lenet5")
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.zero_()
    assert export(one, tmp_path)["files"]["onnx"]["largest_difference_of_std"] == 0
