"""The demo page answers as the classifier does, on this machine alone, and refuses in words."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import console
import saccade
from saccade.demo import examples, heat_map, onnx_answerer, opening
from saccade.demo.answerer import Answerer
from saccade.demo.conversation import LARGEST_BYTES, Conversation
from saccade.demo.server import Server
from saccade.errors import CheckpointError, UsageError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.models import create_model
from saccade.runs.foreign import Expected

CLASSES = ("ant", "bee", "cat")
RECIPE = Recipe(
    model="lenet5",
    classes=CLASSES,
    image_size=32,
    eval_crop=0.875,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    exif="apply",
)


def classifier(**changed: Any) -> Classifier:
    torch.manual_seed(3)
    network = create_model("lenet5", num_classes=len(CLASSES), image_size=32)
    with torch.no_grad():
        # far from the middle, so that answers differ
        for parameter in network.parameters():
            parameter.mul_(3)
    return Classifier(network.eval(), replace(RECIPE, **changed))


def picture(width: int = 60, height: int = 45, kind: str = "PNG", **how: Any) -> bytes:
    coarse = np.random.default_rng(5).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height))
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def shown(split_size: int = 6) -> list[examples.Example]:
    pixels = np.random.default_rng(1).integers(0, 256, (split_size, 40, 50, 3), np.uint8)
    labels = [CLASSES[i % 3] for i in range(split_size)]
    source = saccade.open_source({"train": (pixels, labels), "val": (pixels, labels)})
    return examples.of(source.splits["val"], "apply")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(Conversation(Answerer.of(classifier(), "a run"), shown()), port=0)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)


def ask(
    server: Server, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """Return the status, and the answer: JSON as what it holds, all else as bytes."""
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    link.request(method, path, body, headers)
    response = link.getresponse()
    content = response.read()
    link.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content) if is_json else content


@pytest.mark.parametrize(
    "data",
    [picture(), picture(kind="JPEG", quality=90), picture(45, 60, kind="TIFF"), picture(8, 8)],
    ids=["png", "jpeg", "tiff", "tiny"],
)
@pytest.mark.spec(38)
def test_the_page_is_answered_as_predict_answers(server: Server, data: bytes) -> None:
    status, said = ask(server, "POST", "/answer", data)
    (expected,) = saccade.predict(classifier(), data)
    assert status == 200
    told = {one["class"]: one["probability"] for one in said["top"]}
    assert list(told) == [name for name, _ in expected.top]
    assert told == pytest.approx(dict(expected.top))


def test_what_is_shown_is_what_the_network_sees(server: Server) -> None:
    _, said = ask(server, "POST", "/answer", picture())
    seen = Image.open(io.BytesIO(base64.b64decode(said["seen"].partition(",")[2])))
    pixels = np.array(Image.open(io.BytesIO(picture())))
    square = RECIPE.framing.square(pixels, 32).permute(1, 2, 0)
    assert np.array_equal(np.asarray(seen), square.numpy())
    assert (said["width"], said["height"], said["side"]) == (60, 45, 32)


def test_a_picture_is_turned_as_the_run_turned_its_images() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = picture(60, 45, exif=exif.tobytes())
    sizes = []
    for way in ("apply", "ignore"):
        talk = Conversation(Answerer.of(classifier(exif=way), "a run"), [])
        sizes.append(talk.answer(data)["width"])
        talk.close()
    assert sizes == [45, 60]


def test_examples_show_themselves_and_are_answered(server: Server) -> None:
    _, about = ask(server, "GET", "/about")
    assert about["examples"] == ["ant", "ant", "bee", "bee", "cat", "cat"]
    status, small = ask(server, "GET", "/examples/3")
    assert status == 200 and Image.open(io.BytesIO(small)).size == (50, 40)
    _, said = ask(server, "POST", "/answer/examples/3")
    (expected,) = saccade.predict(classifier(), server.conversation.examples[3].data)
    assert said["top"][0]["class"] == expected.label
    assert ask(server, "GET", "/examples/6")[0] == 404


def bomb() -> bytes:
    """A PNG file of 400 million pixels, which is small."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"%PDF-1.7 a letter", "This file is not an image. Choose another picture."),
        (b"", "Not an image: the file is empty. Choose another picture."),
        (picture(kind="JPEG")[:-400], "Truncated JPEG"),
        (bomb(), "Too large: the header says 20000 x 20000, the limit is 178956970 pixels."),
    ],
    ids=["text", "empty", "cut", "huge"],
)
@pytest.mark.parametrize("path", ["/answer", "/heat"])
def test_a_wrong_file_is_refused_in_a_sentence(
    server: Server, path: str, data: bytes, sentence: str
) -> None:
    status, said = ask(server, "POST", path, data)
    assert status == 422 and said["error"].startswith(sentence) and said["error"].endswith(".")


def test_a_file_of_gigabytes_is_refused_before_it_is_read(server: Server) -> None:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    link.putrequest("POST", "/answer")
    link.putheader("Content-Length", str(LARGEST_BYTES + 1))
    link.endheaders()
    response = link.getresponse()
    assert response.status == 413
    assert "the limit is 256 MB" in json.loads(response.read())["error"]
    link.close()


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "http://evil.example"}],
    ids=str,
)
def test_other_pages_of_the_browser_may_not_ask(server: Server, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/answer")):
        status, said = ask(server, method, path, picture(), **headers)
        assert status == 403 and said == {"error": "Only the page itself may send requests."}
    own = f"127.0.0.1:{server.server_port}"
    assert ask(server, "GET", "/about", Host=own, Origin=f"http://{own}")[0] == 200
    # as it looks through a tunnel
    assert ask(server, "GET", "/about", Host="localhost:9000")[0] == 200


def test_only_this_machine_can_open_it(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_the_page_asks_nobody_else() -> None:
    files = [f for f in resources.files("saccade.demo").iterdir() if f.name.startswith("page.")]
    assert len(files) == 3
    addresses = {a for f in files for a in re.findall(r"\w*://[^\s\"']*|url\(", f.read_text())}
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a kind of XML, never fetched"


def test_the_browser_is_told_to_ask_nobody_else(server: Server) -> None:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    link.request("GET", "/")
    policy = link.getresponse().headers["Content-Security-Policy"]
    link.close()
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert not re.search(r"https?:|\*|unsafe", policy)


# ------------------------------------------------------------------------- what decides


def corner(side: int = 32) -> Answerer:
    """A network that looks at the upper left quarter alone: the brighter, the surer it is a cat."""

    def ask(squares: Tensor) -> Tensor:
        light = squares[..., : side // 4, : side // 4].float().mean((1, 2, 3)) / 255
        return torch.stack([torch.zeros_like(light), torch.zeros_like(light), 4 * light], 1)

    return Answerer("a corner", replace(RECIPE, mean=(0.0, 0.0, 0.0)), ask)


def test_the_map_is_strong_where_the_network_looks_and_nowhere_else() -> None:
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    found = heat_map.heat_map(corner(), white, threading.Event())
    assert found.place == 2 and found.before > 0.9
    # only covers that touch the quarter change anything, and only cells below these are warm
    assert float(found.falls[:3, :3].min()) > 0
    assert float(found.falls[3:].abs().max()) == float(found.falls[:, 3:].abs().max()) == 0
    strength = found.strength(32)
    assert strength.shape == (32, 32) and float(strength[:6, :6].min()) > 0.3
    assert float(strength[18:].max()) == 0


def test_the_map_has_the_falls_that_covering_by_hand_gives() -> None:
    answerer = Answerer.of(classifier(), "a run")
    square = answerer.square(np.array(Image.open(io.BytesIO(picture()))))
    found = heat_map.heat_map(answerer, square, threading.Event())

    before = answerer.of_squares(square[None])[0]
    place = int(before.argmax())
    total, count, after = np.zeros((8, 8)), np.zeros((8, 8)), []
    for row in range(7):
        for column in range(7):
            covered = square.clone()
            block = covered[:, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            block[:] = torch.tensor([128, 102, 76], dtype=torch.uint8)[:, None, None]
            after.append(float(answerer.of_squares(covered[None])[0, place]))
            total[row : row + 2, column : column + 2] += float(before[place]) - after[-1]
            count[row : row + 2, column : column + 2] += 1
    assert np.allclose(found.falls.numpy(), total / count, atol=1e-6)
    assert found.after == pytest.approx(min(after)) and found.before == float(before[place])


@pytest.mark.parametrize("side", [4, 5, 15, 224])
def test_covers_hide_every_pixel_of_any_square(side: int) -> None:
    hidden = np.zeros((side, side), int)
    for rows, columns in heat_map.covers(side):
        hidden[rows, columns] += 1
    assert hidden.min() >= 1


def test_a_network_that_looks_at_no_place_has_no_map() -> None:
    constant = replace(RECIPE, classes=("only",))
    talk = Conversation(Answerer("one", constant, lambda s: torch.zeros(len(s), 1)), [])
    said = talk.heat(picture())
    talk.close()
    assert said == {"class": "only", "before": 1.0, "after": 1.0, "map": None}


def test_the_map_lies_over_what_is_seen(server: Server) -> None:
    _, said = ask(server, "POST", "/heat", picture())
    image = Image.open(io.BytesIO(base64.b64decode(said["map"].partition(",")[2])))
    assert image.mode == "RGBA" and image.size == (32, 32)
    opacity = np.asarray(image)[..., 3]
    assert opacity.max() > 100 > opacity.min()


# ------------------------------------------------------------------------- exported files


@pytest.mark.parametrize(
    "given",
    ["uint8", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("image", "float"))],
)
def test_an_exported_file_answers_and_has_the_map_of_its_network(
    given: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    one = classifier(eval_views=2)
    x = np.random.default_rng(2).integers(0, 256, (12, 32, 32, 3), np.uint8)
    images = (x, [CLASSES[i % 3] for i in range(12)])
    saccade.export(one, out=tmp_path, data={"train": images, "val": images}, given=given)

    told = []
    for answerer in (Answerer.of(one, "net"), onnx_answerer.open_file(tmp_path / "model.onnx")):
        assert answerer.recipe.classes == CLASSES and answerer.recipe.exif == "apply"
        talk = Conversation(answerer, [])
        told.append((talk.answer(picture()), talk.heat(picture())))
        talk.close()
    (own, own_heat), (theirs, their_heat) = told
    # a file that makes the square itself differs by a grey level here and there
    near = 0.02 if given == "image" else 1e-4
    for mine, yours in zip(own["top"], theirs["top"], strict=True):
        assert mine["class"] == yours["class"]
        assert mine["probability"] == pytest.approx(yours["probability"], abs=near)
    assert own["seen"] == theirs["seen"]
    assert own_heat["after"] == pytest.approx(their_heat["after"], abs=1e-4)


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "letter.onnx").write_bytes(b"a letter")
    with pytest.raises(CheckpointError, match="onnxruntime cannot read it"):
        onnx_answerer.open_file(tmp_path / "letter.onnx")
    with pytest.raises(CheckpointError, match="file does not exist"):
        onnx_answerer.open_file(tmp_path / "none.onnx")

    one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    two = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [one], [two])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match="its metadata has no 'saccade'"):
        onnx_answerer.open_file(tmp_path / "other.onnx")

    model.metadata_props.add(key="saccade", value='{"preprocessing": {"size": 9}}')
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(CheckpointError, match="its metadata has no 'short_side'"):
        onnx_answerer.open_file(tmp_path / "bad.onnx")


def test_one_set_of_weights_has_no_best_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one set of weights"):
        opening.opened(tmp_path / "model.onnx", True, None)


def test_an_encoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no head"):
        Answerer.of(classifier(objective="simclr"), "a run")


def test_an_answer_that_is_no_number_is_refused_in_a_sentence() -> None:
    talk = Conversation(Answerer("x", RECIPE, lambda s: torch.full((len(s), 3), np.nan)), [])
    with pytest.raises(CheckpointError, match="contains NaN"):
        talk.answer(picture())
    talk.close()


def test_a_port_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(classifier().to_bytes())
    done = console.run_here("demo", str(tmp_path), "--port", str(server.server_port))
    assert done.status == 2 and "is used by another program" in done.stderr
    assert "--port 0" in done.stderr
    done = console.run_here("demo", str(tmp_path), "--port", "70000")
    assert done.status == 2 and "port 70000 cannot be used" in done.stderr


def test_weights_of_another_program_are_answered_as_predict_answers(tmp_path: Path) -> None:
    state = create_model("resnet8", num_classes=3, seed=2).state_dict()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    pixels = {"mean": 0.3, "std": 0.7, "bgr": True, "image_size": 24}
    expected = Expected.of("resnet8", **pixels)
    answerer, images = opening.opened(tmp_path / "w.pth", False, None, expected)
    assert images is None
    talk = Conversation(answerer, [])
    told = {one["class"]: one["probability"] for one in talk.answer(picture())["top"]}
    talk.close()
    theirs = saccade.load(tmp_path / "w.pth", "resnet8", **pixels)
    (prediction,) = saccade.predict(theirs, picture())
    assert told == pytest.approx(dict(prediction.top))


def test_weights_of_another_program_need_their_network_and_nothing_else_takes_it(
    tmp_path: Path,
) -> None:
    torch.save(create_model("resnet8", num_classes=3).state_dict(), tmp_path / "w.pth")
    (tmp_path / "model.onnx").write_bytes(b"")
    for words, said in (
        (("w.pth",), "name the network: --model"),
        (("w.pth", "--model", "resnet8", "--best"), "have no best checkpoint"),
        (("model.onnx", "--model", "resnet8"), "an exported file already says its network"),
        (("model.onnx", "--bgr"), "where: --bgr"),
    ):
        done = console.run_here("demo", *words, "--port", "0", cwd=tmp_path)
        assert done.status in (2, 66) and said in done.stderr, done.stderr
