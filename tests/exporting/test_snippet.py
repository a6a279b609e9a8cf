"""``classify.py`` and a graph that resizes itself see the pixels that the classifier sees."""

from __future__ import annotations

import io
import json
import re
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
from toy_classifiers import RECIPE, SIDE, classifier, export, images

import saccade
from saccade.data.images import decode
from saccade.errors import ExportError
from saccade.evaluation.classifier import Classifier
from saccade.exporting.parity import require_same_pixels
from saccade.exporting.snippet import snippet
from saccade.exporting.whole import Whole

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("given", ["uint8", "image", "float"])
def test_the_lines_that_come_with_it_name_what_saccade_names(given: str, tmp_path: Path) -> None:
    one = classifier("lenet5", eval_views=1)
    export(one, tmp_path, given=given)
    Image.fromarray(images()[5]).resize((75, 50)).save(tmp_path / "some.png")
    (ours,) = saccade.predict(one, tmp_path / "some.png")

    command = [sys.executable, "-I", "classify.py", "some.png"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    share, name = said.stdout.splitlines()[0].split()
    assert name == ours.label
    assert abs(float(share.strip("%")) / 100 - ours.top[0][1]) < 0.02


@pytest.mark.parametrize("given", ["uint8", "image", "float"])
@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_ten_lines_on_the_card_name_photographs_as_saccade_does(
    given: str,
    exif: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = classifier("lenet5", eval_views=1)
    one = Classifier(drawn.network, replace(drawn.recipe, exif=exif))
    export(one, tmp_path, given=given)
    _, lines, _ = re.split("```(?:python\n)?", (tmp_path / "README.md").read_text())
    assert len(
        [line for line in lines.splitlines() if line and "import " not in line]
    ) <= 10 + 2 * (given == "float")
    assert lines == json.loads((tmp_path / "export.json").read_text())["snippet"]

    turned = Image.Exif()
    turned[0x112] = 6
    monkeypatch.chdir(tmp_path)
    seen = set()
    for image in images()[:8]:
        Image.fromarray(image).resize((75, 50)).save("photo.jpg", exif=turned)
        exec(compile(lines, "README.md", "exec"), {})
        (ours,) = saccade.predict(one, "photo.jpg")
        assert capsys.readouterr().out.strip() == ours.label
        seen.add(ours.label)
    assert len(seen) > 1, "a network with one answer would prove nothing"


def test_these_lines_read_files_of_every_kind_as_saccade_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = classifier("lenet5")
    export(one, tmp_path)
    colours = Image.fromarray(images()[5]).resize((75, 50))
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
        runpy.run_path("classify.py", run_name="__main__")
        share, name = capsys.readouterr().out.splitlines()[0].split()
        assert name == ours.label, file.name
        assert abs(float(share.strip("%")) / 100 - ours.top[0][1]) < 0.004, file.name


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(75, 50), (41, 76), (33, 131)])
@pytest.mark.parametrize("given", ["uint8", "float", "image"])
@pytest.mark.parametrize("resized", ["bilinear", "bicubic"])
def test_the_pixels_of_the_program_are_ours_in_files_of_every_kind(
    fit: Any, size: tuple[int, int], given: Any, resized: Any, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, fit=fit, channels="bgr", interpolation=resized)
    program = tmp_path / "classify.py"
    program.write_text(snippet(recipe, given))
    photo = np.asarray(Image.fromarray(images()[5]).resize(size))
    kinds = require_same_pixels(program, recipe, photo, given)
    assert len(kinds) == 9
    for kind, apart in kinds.items():
        # the cubic filter overshoots at the hard edges of these images, and is cut off in between
        assert apart["most_levels"] < (1.01 if resized == "bilinear" else 8), (kind, apart)
        assert apart["mean_levels"] < 0.3, (kind, apart)


def odd_files() -> dict[str, Image.Image]:
    levels = np.asarray(Image.fromarray(images()[5]).convert("L").resize((75, 50)))
    deep = levels.astype(np.uint16) * 257
    return {
        "float.tif": Image.fromarray(levels.astype(np.float32)),
        "lab.tif": Image.fromarray(images()[5]).convert("LAB"),
        "32-bit.tif": Image.fromarray(levels.astype(np.int32) * 1000),
        "key.png": Image.fromarray(deep),
    }


@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_what_saccade_cannot_read_the_program_refuses_instead_of_answering(
    exif: Any, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, exif=exif)
    program = tmp_path / "classify.py"
    program.write_text(snippet(recipe, "uint8"))
    read = runpy.run_path(str(program))["pixels_of"]
    for name, image in odd_files().items():
        path = tmp_path / name
        more = {"transparency": int(np.asarray(image)[25, 40])} if name == "key.png" else {}
        image.save(path, **more)
        if name == "key.png":
            pixels = decode.decode(path.read_bytes(), exif=exif)
            wanted = recipe.framing.square(pixels, SIDE).permute(1, 2, 0).numpy()
            assert np.abs(read(io.BytesIO(path.read_bytes()))[0].astype(int) - wanted).max() <= 1
            continue
        with pytest.raises(decode.BadImage):
            decode.decode(path.read_bytes(), exif=exif)
        with pytest.raises(ValueError, match="not supported"):
            read(io.BytesIO(path.read_bytes()))


def test_a_program_that_shifts_images_by_a_pixel_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "classify.py"
    lines = snippet(RECIPE, "uint8")
    program.write_text(lines.replace("left, top = (round", "left, top = (1 + round"))
    assert program.read_text() != lines
    with pytest.raises(ExportError, match="sees other pixels"):
        require_same_pixels(program, RECIPE, images()[5], "uint8")


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


def test_weights_that_expect_bicubic_resizing_leave_without_it_inside(tmp_path: Path) -> None:
    drawn = classifier("lenet5", eval_views=1)
    one = Classifier(drawn.network, replace(drawn.recipe, interpolation="bicubic"))
    with pytest.raises(ExportError, match="cannot do it by bicubic"):
        export(one, tmp_path, given="image")
    receipt = export(one, tmp_path)
    assert receipt["preprocessing"]["interpolation"] == "bicubic"
    assert "by bicubic interpolation" in (tmp_path / "README.md").read_text()
    assert "Image.Resampling.BICUBIC" in receipt["snippet"]
