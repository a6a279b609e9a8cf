"""Prediction in Python: every form of an image gives the same answer, and a bad one costs no
other.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import saccade
from saccade.data.images.fit import Fit
from saccade.data.readers import Readers
from saccade.errors import CheckpointError, DataError, UsageError
from saccade.evaluation import evaluator
from saccade.evaluation.classifier import Classifier, Recipe

RNG = np.random.default_rng(2)
PIXELS = RNG.integers(0, 256, (40, 40, 4), np.uint8)
PIXELS[:20] = (200, 30, 60, 90)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 40, 4))
    recipe = Recipe(
        "custom:Linear", tuple("abcd"), 40, 1.0, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "ignore"
    )
    return Classifier(network, recipe)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


GRAY = PIXELS[..., 0]
FORMS: dict[str, tuple[Image.Image, Any]] = {
    "RGB": (Image.fromarray(PIXELS[..., :3].copy()), PIXELS[..., :3]),
    "alpha": (Image.fromarray(PIXELS), PIXELS),
    "gray": (Image.fromarray(GRAY.copy()), GRAY),
    "gray of one plane": (Image.fromarray(GRAY.copy()), GRAY[..., None]),
    "16-bit gray": (
        Image.fromarray(GRAY.astype(np.uint16) * 256 + 200),
        GRAY.astype(np.uint16) * 256 + 200,
    ),
    "16-bit RGB": (
        Image.fromarray(PIXELS[..., :3].copy()),
        PIXELS[..., :3].astype(np.uint16) * 256 + 200,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_its_bytes_an_image_and_an_array_give_one_answer(
    form: str, classifier: Classifier, tmp_path: Path
) -> None:
    image, values = FORMS[form]
    file = tmp_path / "a.png"
    file.write_bytes(png(image))
    (wanted,) = saccade.predict(classifier, file)
    assert wanted.path == str(file) and len(wanted.top) == 4 and wanted.label == wanted.top[0][0]
    opened = Image.open(file)  # not decoded yet
    for given in (
        str(file),
        file.read_bytes(),
        memoryview(file.read_bytes()),
        image,
        opened,
        values,
    ):
        (seen,) = saccade.predict(classifier, given)
        assert seen.top == wanted.top and seen.error == ""


def test_several_at_once_are_answered_in_order_and_lazily(classifier: Classifier) -> None:
    stack = RNG.integers(0, 256, (70, 40, 40, 3), np.uint8)
    together = list(saccade.predict(classifier, stack))
    assert [seen.path for seen in together] == [f"image {i}" for i in range(70)]
    alone = [next(saccade.predict(classifier, pixels)).top for pixels in stack[:3]]
    for one, seen in zip(alone, together, strict=False):
        assert dict(one) == pytest.approx(dict(seen.top), rel=1e-5)
    taken: list[int] = []

    def endless() -> Any:
        for i in range(10**9):
            taken.append(i)
            yield stack[i % 70]

    assert next(saccade.predict(classifier, endless())).top == together[0].top and len(taken) < 100


BAD: list[tuple[Any, str]] = [
    (png(FORMS["RGB"][0])[:200], "truncated PNG"),
    (b"", "the file is empty"),
    (PIXELS.astype(np.float32), "an array of float32 with shape (40, 40, 4)"),
    (PIXELS[..., :2], "shape (40, 40, 2)"),
    (PIXELS[:0], "shape (0, 40, 4)"),
    (PIXELS.astype(np.int64), "an array of int64"),
    (Image.fromarray(GRAY.astype(np.float32)), "pixels of mode F"),
    (7, "type int is not an image"),
    (Path("missing.jpg"), "this file does not exist"),
    (Image.open(io.BytesIO(png(FORMS["RGB"][0])[:200])), "truncated"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_image_costs_no_other_answer(bad: Any, reason: str, classifier: Classifier) -> None:
    good = FORMS["RGB"][0]
    first, middle, last = saccade.predict(classifier, [good, bad, good])
    assert first.top == last.top and len(first.top) == 4
    assert middle.top == () and reason in middle.error
    with pytest.raises(DataError) as caught:
        _ = middle.label
    assert caught.value.where == middle.path
    answers = saccade.predict(classifier, [good, bad, good], strict=True)
    assert next(answers).top == first.top
    with pytest.raises(DataError) as caught:
        next(answers)
    assert reason in caught.value.what


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
def test_a_model_sees_images_as_it_was_trained_to_see_them(
    how: Any, classifier: Classifier, tmp_path: Path
) -> None:
    fitted = Classifier(classifier.network, replace(classifier.recipe, fit=how))
    for split in ("train", "val"):
        for name in "abcd":
            (tmp_path / split / name).mkdir(parents=True)
            wide = RNG.integers(0, 256, (30, 150, 3), np.uint8)
            Image.fromarray(wide).save(tmp_path / split / name / "0.png")
    readers = Readers(2)
    val = saccade.open_source(str(tmp_path)).splits["val"]
    judged = evaluator.evaluate(fitted, val, readers, "fp32", torch.device("cpu")).logits.softmax(1)
    readers.close()
    files = [tmp_path / "val" / name / "0.png" for name in "abcd"]
    for row, seen in zip(judged.tolist(), saccade.predict(fitted, files), strict=True):
        assert dict(seen.top) == pytest.approx(dict(zip("abcd", row, strict=True)), abs=1e-5)
    pixels = torch.stack(
        [fitted.recipe.framing.square(np.array(Image.open(file)), 40) for file in files]
    )
    wanted = classifier.network(((pixels / 255 - 0.5) / 0.2).contiguous()).softmax(1)
    assert torch.allclose(judged, wanted, atol=1e-4)


def test_models_from_before_there_was_a_choice_see_the_central_square() -> None:
    old = Recipe("custom:N", ("a", "b"), 40, 0.875, (0.5, 0.25, 0.0), (0.2, 0.2, 0.2), "ignore")
    stored = {key: value for key, value in asdict(old).items() if key != "fit"}
    assert Recipe.parse(json.dumps(stored), "") == old and old.framing == Fit(
        "crop", 0.875, (128, 64, 0)
    )
    assert Recipe.parse(json.dumps(stored | {"fit": "pad"}), "").framing.how == "pad"
    with pytest.raises(ValueError, match=r"^fit"):
        Recipe.parse(json.dumps(stored | {"fit": "stretch"}), "")


def test_no_image_at_all_is_an_error(classifier: Classifier, tmp_path: Path) -> None:
    for nothing in ([], tmp_path):
        with pytest.raises(DataError, match="no images were given"):
            list(saccade.predict(classifier, nothing))


def test_orientation_is_applied_to_images_of_pillow_as_to_files(classifier: Classifier) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    FORMS["RGB"][0].save(buffer, "PNG", exif=exif)
    applied = Classifier(classifier.network, replace(classifier.recipe, exif="apply"))
    (file,) = saccade.predict(applied, buffer.getvalue())
    (image,) = saccade.predict(applied, Image.open(io.BytesIO(buffer.getvalue())))
    (ignored,) = saccade.predict(classifier, buffer.getvalue())
    assert file.top == image.top != ignored.top


@pytest.mark.parametrize("top", [0, -1, "5", None, 1.5])
def test_a_number_of_classes_that_means_nothing_is_refused(
    top: Any, classifier: Classifier
) -> None:
    with pytest.raises(UsageError, match="is not possible"):
        list(saccade.predict(classifier, PIXELS, top=top))


@pytest.mark.parametrize("given", [None, 3, io.BytesIO(b"a\nb\n"), torch.zeros(3, 4, 4)])
def test_what_is_no_image_is_refused_as_one_in_words(given: Any, classifier: Classifier) -> None:
    (seen,) = saccade.predict(classifier, given)
    assert f"type {type(given).__name__} is not an image" in seen.error


def test_an_answer_that_is_no_number_is_an_error_and_no_probability() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 40, 4))
    network[1].weight.data.fill_(3e38)
    recipe = Recipe(
        "custom:Linear", tuple("abcd"), 40, 1.0, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "ignore"
    )
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        list(saccade.predict(Classifier(network, recipe), PIXELS))
    with pytest.raises(ValueError, match="std"):
        Recipe.parse(json.dumps(asdict(replace(recipe, std=(1e-300, 0.2, 0.2)))), "")
