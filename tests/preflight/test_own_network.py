"""Networks of the user's own: each works, or is refused in a sentence before the first step."""

from __future__ import annotations

import json
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from saccade.device import determinism
from saccade.errors import ConfigError, PreemptedError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    draws = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 4)):
        for name, base in (("dark", 40), ("light", 200)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(base - 40, base + 40, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Net(nn.Module):
    """A small network with BatchNorm; ``seed`` None leaves its start to chance."""

    def __init__(self, width: int = 4, seed: int | None = 0) -> None:
        super().__init__()
        if seed is not None:
            torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width, 2)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.out(self.features(x))


def train(images: Path, net: nn.Module, **settings: Any) -> saccade.Outcome:
    given = {
        "epochs": "4step",
        "image_size": 8,
        "batch_size": 32,
        "precision": "fp32",
        "devices": "cpu",
    } | settings
    return saccade.train(model=net, data=images, quiet=True, **given)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def digest(folder: Path) -> str:
    return str(facts(folder)["digest"])


def test_a_sweep_trains_each_network_and_the_same_one_only_once(images: Path) -> None:
    outcomes = [train(images, Net(width)) for width in (2, 4)]
    assert all(one.fresh for one in outcomes) and len({one.folder for one in outcomes}) == 2
    frozen = Net(4)
    frozen.conv.requires_grad_(False)
    assert train(images, frozen).fresh
    again = Net(4)
    assert not train(images, again).fresh
    saved = saccade.load(outcomes[1].folder, module=Net(4)).network
    assert equal(weights(again), weights(saved)) and not equal(weights(again), weights(Net(4)))
    assert not again.training, "a run that is found gives its weights, too"


def test_a_folder_never_answers_for_another_network(images: Path) -> None:
    assert train(images, Net(), out="run").fresh
    for other, said in ((Net(seed=1), "other starting values"), (Net(width=2), "other parameters")):
        before = weights(other)
        with pytest.raises(ConfigError, match=said) as caught:
            train(images, other, out="run")
        assert caught.value.finding == "run-changed" and "resume='never'" in caught.value.fix
        assert equal(before, weights(other))


def test_the_network_is_changed_only_when_the_run_is_done(
    images: Path, stop_after: Callable[[int], None]
) -> None:
    net = Net()
    before = weights(net)
    stop_after(1)
    with pytest.raises(PreemptedError):
        train(images, net, ema__half_life="2step")
    assert equal(before, weights(net)) and net.training
    done = train(images, net, ema__half_life="2step")
    assert done.fresh and facts(done.folder)["attempts"] == 2, (
        "an interrupted cell of a notebook goes on"
    )
    saved = saccade.load(done.folder, module=Net()).network
    assert equal(weights(net), weights(saved)) and not equal(before, weights(net))
    assert train(images, net, ema__half_life="2step").folder != done.folder, (
        "trained weights are another start"
    )


def test_an_unfinished_run_goes_on_with_its_own_start_only(
    images: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(1)
    with pytest.raises(PreemptedError):
        train(images, Net(seed=None), out="run")
    with pytest.raises(ConfigError, match="other starting values") as caught:
        train(images, Net(seed=None), out="run")
    assert "torch.manual_seed" in caught.value.fix and "resume=CHECKPOINT" in caught.value.fix
    named = Path("run/checkpoints/step_00000001")
    assert train(images, Net(seed=None), out="run", resume=named).fresh, "the advice works"


class Tied(Net):
    """Two layers with one weight.

    A convolution's would be copied for its layout when it is saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(super().features(x)).relu())


def test_tied_weights_are_trained_saved_averaged_and_resumed_to_the_last_bit(
    images: Path, stop_after: Callable[[int], None]
) -> None:
    settings = {"ema__half_life": "2step", "batch__cell": 16, "checkpoint__every": "1step"}
    whole = train(images, Tied(), out="whole", **settings)
    stop_after(1)
    with pytest.raises(PreemptedError):
        train(images, Tied(), out="broken", **settings)
    net = Tied()
    train(images, net, out="broken", **settings)
    assert digest(whole.folder) == digest(Path("broken"))
    assert net.two.weight is net.one.weight
    read = saccade.load("broken", module=Tied()).network
    assert read.two.weight is read.one.weight and equal(weights(read), weights(net))


class Stores(Net):
    """Keeps its features, as many people do to look at them."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.features(x)
        self.deep = {"all": [self.kept]}
        return self.out(self.kept)


def old_weight_norm() -> nn.Module:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net.out)
    return net


def called_before() -> nn.Module:
    net = Stores()
    net(torch.zeros(2, 3, 8, 8))
    return net


class AnswersAList(Net):
    """In training only."""

    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return [out, out] if self.training else out


@pytest.mark.parametrize("make", [Stores, called_before, old_weight_norm, AnswersAList])
def test_what_others_stumble_over_works(make: Callable[[], nn.Module], images: Path) -> None:
    net = make()
    done = train(images, net, ema__half_life="2step")
    assert equal(weights(net), weights(saccade.load(done.folder, module=make()).network))


def test_a_network_in_evaluation_mode_is_trained_all_the_same(images: Path) -> None:
    done = train(images, Net().eval())
    assert digest(done.folder) == digest(train(images, Net(), out="other").folder)


def changed(change: Callable[[Any], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = Net()
        change(net)
        return net

    return make


def answering(give: Callable[[Any, Tensor], Any]) -> Callable[[], nn.Module]:
    return type(
        "Answers", (Net,), {"forward": lambda self, x: give(self, self.out(self.features(x)))}
    )


REFUSED = {
    "lazy": (
        changed(lambda net: setattr(net, "out", nn.LazyLinear(2))),
        "no-weights",
        "out.weight",
    ),
    "meta": (changed(lambda net: net.to("meta")), "no-weights", "device meta"),
    "frozen": (changed(lambda net: net.requires_grad_(False)), "nothing-to-train", "requires_grad"),
    "lock": (changed(lambda net: setattr(net, "lock", threading.Lock())), "not-copied", "lock"),
    "plain list": (
        changed(lambda net: setattr(net, "blocks", [nn.Linear(2, 2)])),
        "hidden-layers",
        "blocks",
    ),
    "closure": (
        changed(lambda net: setattr(net, "forward", lambda x: net.out(x.mean(3)))),
        "not-copied",
        "forward",
    ),
    "hook": (
        changed(lambda net: net.register_forward_hook(lambda *a: a[2] * net.out.weight.sum())),
        "not-copied",
        "_forward_hooks",
    ),
    "weak": (
        changed(lambda net: setattr(net.out, "above", weakref.ref(net))),
        "not-copied",
        "out.above",
    ),
    "view": (
        changed(lambda net: net.register_buffer("row", net.out.weight.data[:1])),
        "not-saved",
        "share memory",
    ),
    "expanded": (
        changed(lambda net: net.register_buffer("one", torch.zeros(1).expand(3))),
        "not-saved",
        "one",
    ),
    "sparse": (
        changed(lambda net: net.register_buffer("eye", torch.eye(3).to_sparse())),
        "not-saved",
        "eye",
    ),
    "double": (changed(lambda net: net.double()), "model-fails", "module.float()"),
    "list": (answering(lambda net, out: [out]), "head-width", "list"),
    "dict": (answering(lambda net, out: {"logits": out}), "head-width", "dict"),
    "dict in training": (
        answering(lambda net, out: {"a": out} if net.training else out),
        "head-width",
        "dict",
    ),
    "features": (
        answering(lambda net, out: (out, out[:, :1]) if net.training else out),
        "head-width",
        "(32, 1)",
    ),
    "detached": (
        answering(lambda net, out: out.detach()),
        "model-fails",
        "does not depend on any trainable",
    ),
    "one image": (
        changed(lambda net: setattr(net, "out", nn.Sequential(net.out, nn.BatchNorm1d(2)))),
        "model-fails",
        "batch.cell=16",
    ),
    "not tensors": (
        type("Extra", (Net,), {"get_extra_state": lambda self: {}}),
        "not-saved",
        "_extra_state",
    ),
    "graph": (
        answering(lambda net, out: vars(net).setdefault("old", out).sum() + out),
        "model-fails",
        "second step",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_in_a_sentence_before_the_first_step(
    case: str, images: Path
) -> None:
    make, finding, said = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        train(images, make(), **({"batch__cell": 1} if case == "one image" else {}))
    assert caught.value.finding == finding and caught.value.fix
    assert said in str(caught.value), str(caught.value)
    assert not list(Path.cwd().rglob("step_*"))


class Sharing(Net):
    """A network whose copies have its weights instead of their own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = type(self)()
        other.conv.weight = self.conv.weight
        return other


def test_copies_that_share_weights_are_noticed_by_what_the_trial_changes(images: Path) -> None:
    with pytest.raises(ConfigError, match="training a copy of the network changed") as refused:
        train(images, Sharing())
    assert refused.value.finding == "not-copied"


def test_buffers_that_people_may_wonder_about_are_named_once(images: Path) -> None:
    class Queue(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queue", torch.zeros(3))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
            self.register_buffer("mask", torch.ones(3, dtype=torch.bool))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.queue = x.detach().mean() + torch.zeros(3)
                self.calls += 1
            return super().forward(x)

    done = train(images, Queue(), batch__cell=16)
    found = {f["id"]: f["message"] for f in facts(done.folder)["findings"]}
    assert found["buffer-of-last-cell"].endswith(": queue") and "calls" in found["buffer-not-saved"]
    alone = train(images, Queue(), out="one-cell")
    assert "buffer-of-last-cell" not in (alone.folder / "run.json").read_text()


def test_a_second_training_of_the_process_is_refused_and_the_first_leaves_no_trace_in_it(
    images: Path,
) -> None:
    refused: list[ConfigError] = []

    def second() -> None:
        try:
            train(images, Net(), out="second")
        except ConfigError as error:
            refused.append(error)

    with determinism.owned():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another training" in refused[0].what and "one process per training" in refused[0].fix
    net, threads, state = Net(), torch.get_num_threads(), torch.get_rng_state()
    train(images, net, out="first")
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
