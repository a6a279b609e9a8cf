"""The model card says what somebody needs who has nothing but the folder, in a form hubs read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from toy_classifiers import classifier, export

from saccade.evaluation.classifier import Classifier
from saccade.exporting.card import card
from saccade.exporting.facts import facts

NAMES = ("n01440764", "new\nline", "a|b `tick` *star*", "<script>")


def receipt_of(one: Classifier, **more: Any) -> dict[str, Any]:
    figures = {"top1": 0.5, "top5": 1.0, "n": 24, "correct": 12, "correct5": 24}
    fact = {
        "exported": figures,
        "classifier": figures,
        "images": 24,
        "of_images": 24,
        "split": "val",
        "names": "its own",
    }
    return {
        "files": {"pt": fact},
        "run_result": None,
        "from": {"weights": "runs/one/model.safetensors"},
        **facts(one.recipe, "uint8"),
        **more,
    }


def test_the_card_says_what_happens_to_an_image(tmp_path: Path) -> None:
    one = classifier("lenet5", channels="bgr")
    export(one, tmp_path, formats="pt")
    text = (tmp_path / "README.md").read_text()
    assert "The EXIF orientation of a file is applied." in text
    assert "short side is resized to 37 px, and the central 32 x 32 px are kept" in text
    assert "mean [0.5, 0.4, 0.3] and standard deviation [0.2, 0.25, 0.3]" in text
    assert "The network sees blue, green, red." in text
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "unknown" and head["library_name"] == "pytorch"
    (result,) = head["model-index"][0]["results"]
    assert 0 <= result["metrics"][0]["value"] <= 1


def test_names_of_classes_are_text_on_one_line() -> None:
    one = classifier("lenet5")
    one = Classifier(one.network, replace(one.recipe, classes=NAMES))
    text = card(one.recipe, receipt_of(one), {})
    (line,) = [line for line in text.splitlines() if line.startswith("tench")]
    assert line == r"tench, new\\x0aline, a\|b \`tick\` \*star\*, \<script\>."


def test_the_card_names_no_folder_of_this_machine_and_what_the_run_counted() -> None:
    one = classifier("lenet5", precision="bf16")
    run = {
        "dataset": {"name": "photos", "train": 48, "val": 24},
        "model": {"params": 5},
        "steps": 2,
        "command": "train lenet5 --data /pictures/photos --out /somewhere/one",
    }
    result = {"split": "val", "n": 24, "top1": 0.25, "top5": 1.0}
    text = card(one.recipe, receipt_of(one, run_result=result), run)
    assert "``saccade train lenet5 --data photos``" in text and "/pictures" not in text
    assert "The run itself, in bf16, counted top-1 25.00%" in text
    for other in ({**result, "n": 23}, {**result, "top1": 0.5}):
        assert "itself" not in card(one.recipe, receipt_of(one, run_result=other), run)
