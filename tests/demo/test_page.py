"""The demo page in a real browser, and the program around it: what a person does and sees."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.demo import examples, opening
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model

pytestmark = pytest.mark.full
CLASSES = ("ant", "bee", "cat")
WAIT_MS = 60_000
WIDTHS = {"desktop": 1200, "phone": 390}


def photograph(seed: int = 1) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((160, 120)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, and validation images beside it."""
    place = tmp_path_factory.mktemp("demo")
    torch.manual_seed(3)
    network = create_model("resnet8", num_classes=len(CLASSES), image_size=64)
    means = (0.5, 0.5, 0.5)
    one = Classifier(network, Recipe("resnet8", CLASSES, 64, 0.875, means, means, "ignore"))
    (place / "model.safetensors").write_bytes(one.to_bytes())
    for split in ("train", "val"):
        for number, name in enumerate(CLASSES):
            (place / "photos" / split / name).mkdir(parents=True)
            (place / "photos" / split / name / "a.jpg").write_bytes(photograph(number))
    return place


def started(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start the demo as a user does; return its process and the address that it names."""
    command = [sys.executable, "-m", "saccade", "demo", "model.safetensors", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--json", *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)["address"]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; return the exit status and what was said."""
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)
    return process.returncode, complained


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    process, where = started(folder, "--data", "photos")
    yield where
    assert ended(process) == (0, "the page is closed\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium with a camera that is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=camera)
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page as it is opened; at the end nothing was asked of anybody else, and nothing broke."""
    opened = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 900})
    opened.set_default_timeout(WAIT_MS)
    asked: list[str] = []
    broken: list[str] = []
    opened.on("request", lambda one: asked.append(one.url))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("#examples img")
    yield opened
    assert asked and all(url.startswith((f"{address}/", "data:", "blob:")) for url in asked)
    # a width that needs scrolling sideways is too wide
    wide = opened.locator("html").evaluate("e => [e.scrollWidth, e.clientWidth]")
    opened.close()
    assert not broken and wide[0] <= wide[1]


def answered(page: Any) -> dict[str, float]:
    """Wait for the answer and for what decides; return the bars: class and percent."""
    page.wait_for_selector("#result:not(.waiting):visible")
    page.wait_for_selector("#reason:has-text('covered')")
    lines = [line.split("\n") for line in page.locator("#bars li").all_inner_texts()]
    return {name: float(share.removesuffix(" %")) for name, share in lines}


def test_a_picture_that_is_chosen_is_answered_with_bars_and_a_map(
    page: Any, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(photograph(9))
    page.set_input_files("#file", tmp_path / "a.jpg")
    told = answered(page)

    (expected,) = saccade.predict(folder / "model.safetensors", tmp_path / "a.jpg")
    assert told == pytest.approx({name: 100 * p for name, p in expected.top}, abs=0.051)
    assert page.inner_text("#said").startswith(expected.label)
    assert "64 x 64 pixels of 160 x 120" in page.inner_text("#size")
    if page.is_visible("#switch"):
        assert page.is_visible("#heat")
        page.uncheck("#shown")
        assert not page.is_visible("#heat")


def test_a_validation_image_is_answered_with_what_the_data_set_says(page: Any) -> None:
    page.click("#examples button >> nth=1")
    assert set(answered(page)) == set(CLASSES)
    assert page.inner_text("#truth") == "The data set says: bee"


def test_a_picture_of_the_camera_is_answered(page: Any) -> None:
    page.click("#camera")
    page.wait_for_selector("#live:visible")
    page.wait_for_selector("#video")
    page.locator("#video").evaluate("v => v.videoWidth || new Promise(r => v.onloadeddata = r)")
    page.click("#shoot")
    assert set(answered(page)) == set(CLASSES)
    page.click("#off")
    assert not page.is_visible("#live")


def test_a_picture_that_is_dropped_is_answered(page: Any) -> None:
    import base64

    drop = """(box, data) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const held = new DataTransfer();
        held.items.add(new File([bytes], "a.jpg"));
        for (const kind of ["dragover", "drop"]) {
            box.dispatchEvent(new DragEvent(kind, { dataTransfer: held, bubbles: true }));
        }
    }"""
    page.locator("#drop").evaluate(drop, base64.b64encode(photograph(4)).decode())
    assert set(answered(page)) == set(CLASSES)


def test_wrong_and_huge_files_get_a_sentence_and_the_next_one_an_answer(
    page: Any, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_bytes(b"%PDF-1.7 a letter")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name, sentence in (
        ("letter.jpg", "This file is not an image. Choose another picture."),
        ("huge.png", "Too large: the header says 20000 x 20000"),
    ):
        page.set_input_files("#file", tmp_path / name)
        page.wait_for_selector(f"#error:has-text('{sentence}')")
        assert not page.is_visible("#result")

    (tmp_path / "a.jpg").write_bytes(photograph(9))
    page.set_input_files("#file", tmp_path / "a.jpg")
    assert set(answered(page)) == set(CLASSES)
    assert not page.is_visible("#error")


def test_a_file_in_its_run_folder_has_the_examples_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    saccade.train("digits", model="lenet5", epochs="20step", out="run", quiet=True)
    saccade.export("run")
    shown = []
    for path in ("run", "run/export/model.onnx"):
        answerer, split = opening.opened(Path(path), False, None)
        assert answerer.name == path and split is not None
        shown.append([example.shows for example in examples.of(split, "ignore")])
    assert shown[0] == shown[1] == ["0", "0", *"123456789", "9"]

    # alone, it answers and has none
    (tmp_path / "model.onnx").write_bytes(Path("run/export/model.onnx").read_bytes())
    assert opening.opened(Path("model.onnx"), False, None)[1] is None


def test_ctrl_c_while_a_picture_is_computed_ends_it_without_a_traceback(folder: Path) -> None:
    import http.client
    from urllib.parse import urlsplit

    process, where = started(folder)
    link = http.client.HTTPConnection(str(urlsplit(where).hostname), urlsplit(where).port)
    link.request("POST", "/heat", photograph())  # and nobody waits for the answer
    status, complained = ended(process)
    link.close()
    assert status == 0 and complained.splitlines()[-1] == "the page is closed"
    assert "Traceback" not in complained
