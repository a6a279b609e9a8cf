"""An export replaces what an export wrote, and nothing else; what is out of date is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_classifiers import classifier, export

from saccade.errors import UsageError
from saccade.evaluation.classifier import Classifier


@pytest.mark.parametrize("name", ["README.md", "model.pt", "export.json"])
def test_what_lies_in_the_folder_and_is_not_exported_is_never_replaced(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("{}" if name == "export.json" else "# mine")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match=f"{name} is in this folder already"):
        export(classifier("lenet5"), tmp_path, formats="pt")
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("below", ["", "export"])
def test_a_file_is_no_folder(below: str, tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    with pytest.raises(UsageError, match="this is a file"):
        export(classifier("lenet5"), tmp_path / "shop" / below, formats="pt")
    assert (tmp_path / "shop").read_text() == "mine"


def test_a_folder_of_your_own_called_timm_is_not_removed(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "code.py").write_text("mine")
    one = classifier("resnet18", 64, strides=(2,) * 5)
    with pytest.raises(UsageError, match="timm is in this folder already"):
        export(one, tmp_path, formats="timm")
    assert (tmp_path / "timm" / "code.py").read_text() == "mine"


def test_a_card_that_you_changed_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    one = classifier("lenet5")
    export(one, tmp_path, formats="pt")
    card = (tmp_path / "README.md").read_text()
    export(one, tmp_path, formats="pt")
    assert not list(tmp_path.glob("earlier*"))

    (tmp_path / "README.md").write_text(card.replace("license: unknown", "license: mit"))
    export(one, tmp_path, formats="pt")
    (kept,) = tmp_path.glob("earlier-README.md*")
    assert "license: mit" in kept.read_text()
    assert (tmp_path / "README.md").read_text() == card


def test_files_that_the_receipt_no_longer_covers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = classifier("lenet5")
    export(one, tmp_path, formats="pt,pt2")
    capsys.readouterr()
    export(Classifier(one.network, replace(one.recipe, eval_crop=1.0)), tmp_path, formats="pt")
    assert "not in export.json any more: model.pt2" in capsys.readouterr().err
    assert set(json.loads((tmp_path / "export.json").read_text())["files"]) == {"pt"}
    assert (tmp_path / "model.pt2").exists()
