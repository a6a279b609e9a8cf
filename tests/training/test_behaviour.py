"""Behaviour that is handed over from Python: loss, optimiser, augmentation, callbacks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import saccade
from saccade.config.schema import Config
from saccade.data.augment.own_augment import OwnAugment
from saccade.data.loader import Readers, batches
from saccade.errors import CheckpointError, ConfigError, SaccadeError, UsageError
from saccade.files import read_json
from saccade.objectives.classification import Mixed, of_settings
from saccade.objectives.own_loss import OwnLoss
from saccade.optim import own_optimizer
from saccade.training.behaviour import Behaviour
from saccade.training.datasets import training_order, training_view
from saccade.training.identity import identify_function

Image = NDArray[np.uint8]
SHORT: dict[str, Any] = {
    "model": "lenet5",
    "epochs": "4step",
    "batch_size": 32,
    "precision": "fp32",
    "quiet": True,
}


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


def speckle(image: Image, generator: np.random.Generator) -> Image:
    return (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3)


# ---------------------------------------------------------------- identity


def made(code: str) -> Any:
    names: dict[str, Any] = {"__name__": "of_a_user"}
    exec(code, names)
    return names["f"]


BASE = """
RATE = 0.1
class Part:
    def go(self):
        return 1
def f(x, y=2):
    return Part().go() * RATE + y
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("0.1", "0.2"), ("return 1", "return 2"), ("y=2", "y=3"), ("* RATE", "+ RATE")],
)
def test_a_function_is_known_by_its_content_and_by_what_that_leads_to(
    before: str, after: str
) -> None:
    first = identify_function(made(BASE))
    assert identify_function(made("\n\n" + BASE)) == first  # elsewhere in a file
    assert identify_function(made(BASE.replace(before, after))) != first


def test_objects_that_can_be_called_are_known_by_what_they_hold() -> None:
    def weighted(weight: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, targets: weight * F.cross_entropy(logits, targets)

    smooth = [nn.CrossEntropyLoss(label_smoothing=s) for s in (0.1, 0.1, 0.2)]
    parts = [functools.partial(focal, targets=n) for n in (1, 1, 2)]
    for same, again, other in (smooth, parts, [weighted(w) for w in (1.0, 1.0, 2.0)]):
        assert identify_function(same) == identify_function(again) != identify_function(other)


# ---------------------------------------------------------------- loss


def cell() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 5, requires_grad=True), torch.randint(0, 5, (8,))


def own(loss: Any) -> OwnLoss:
    return OwnLoss(tuple("abcde"), Config(), None, own=loss, called="mine")


@pytest.mark.parametrize("lam", [1.0, 0.3])
def test_an_own_cross_entropy_is_ours_mixed_cells_included(lam: float) -> None:
    logits, labels = cell()
    settings = Config().model_copy(
        update={"loss": Config().loss.model_copy(update={"label_smoothing": 0.0})}
    )
    ours = of_settings(settings, 5).total(logits, Mixed(labels, lam))
    theirs = own(F.cross_entropy).total(logits, Mixed(labels, lam))
    torch.testing.assert_close(theirs, ours)
    (gradient,) = torch.autograd.grad(theirs, logits)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda a, b: F.cross_entropy(a, b, reduction="none"), "(8,) numbers instead of one"),
        (lambda a, b: F.cross_entropy(a, b).item(), "returned a float instead of a tensor"),
        (lambda a, b: F.cross_entropy(a, b).detach(), "a number without gradients"),
        (lambda a, b: (a.argmax(1) == b).sum(), "torch.int64, but a loss must be a floating-point"),
        (lambda a, b: F.cross_entropy(a, b).to("meta"), "returned a tensor on meta"),
        (lambda a: a, "failed: TypeError"),
    ],
)
def test_a_loss_from_which_nothing_can_be_learned_is_named(loss: Any, words: str) -> None:
    logits, labels = cell()
    with pytest.raises(ConfigError) as caught:
        own(loss).total(logits, Mixed(labels, 1.0))
    assert f"the loss mine {words}" in caught.value.what.replace("returned (8", "(8") or (
        words in caught.value.what
    )


def test_a_loss_that_is_not_finite_is_refused_before_training(tmp_path: Path) -> None:
    def broken(logits: Tensor, targets: Tensor) -> Tensor:
        return focal(logits, targets) * float("nan")

    with pytest.raises(ConfigError, match=r"the loss broken returned nan for the first images"):
        saccade.train("digits", loss=broken, out=tmp_path / "run", **SHORT)


@pytest.mark.parametrize("of_the_network", [False, True])
def test_a_loss_that_leads_to_parameters_of_a_closure_is_refused(of_the_network: bool) -> None:
    logits, labels = cell()
    elsewhere = nn.Linear(5, 5)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        if of_the_network:
            return F.cross_entropy(a, b) + elsewhere.weight.norm()
        return F.cross_entropy(elsewhere(a), b)

    with torch.no_grad(), pytest.raises(ConfigError, match="parameters that are not trained"):
        own(loss).plain_loss(logits, labels)
    elsewhere.requires_grad_(False)
    assert own(loss).plain_loss(logits, labels).isfinite()


def test_a_loss_may_change_what_it_gets() -> None:
    def careless(logits: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(logits.mul_(2), targets.clone())
        targets.zero_()
        return loss

    logits, labels = cell()
    targets = Mixed(labels.clone(), 0.3)
    theirs = own(careless).total(logits * 1, targets)
    careful = own(lambda a, b: F.cross_entropy(2 * a, b)).total(logits * 1, Mixed(labels, 0.3))
    assert torch.equal(theirs, careful) and torch.equal(targets.labels, labels)


# ---------------------------------------------------------------- augmentation


def test_own_images_depend_on_seed_epoch_and_sample_alone() -> None:
    digits = saccade.open_source("digits").splits["train"]
    config = Config()
    view = training_view(
        config,
        digits,
        training_order(config, len(digits)),
        steps=4,
        own=OwnAugment(speckle, "speckle", seed=0),
    )

    def seen(threads: int) -> list[Tensor]:
        readers = Readers(threads)
        try:
            return [batch.images.clone() for batch in batches(view, readers, 64, 0, 3)]
        finally:
            readers.close()

    for one, several in zip(seen(1), seen(4), strict=True):
        assert torch.equal(one, several)

    draws = {
        OwnAugment(speckle, "speckle", seed).generator(epoch, sample).random()
        for seed in (0, 1)
        for epoch in (0, 1)
        for sample in (0, 1)
    }
    assert len(draws) == 8


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda image, _: None, "returned None for an image that is uint8 (4, 4, 3)"),
        (lambda image, _: image / 2, "returned float64 (4, 4, 3)"),
        (lambda image, _: image[:2], "returned uint8 (2, 4, 3)"),
        (lambda image, _: image[9], "failed: IndexError"),
    ],
)
def test_an_augmentation_that_returns_something_else_is_named(function: Any, words: str) -> None:
    square = torch.zeros(1, 3, 4, 4, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    with pytest.raises(ConfigError) as caught:
        OwnAugment(function, "mine", 0).change(square, 0, 7, lambda sample: f"image-{sample}")
    assert words in caught.value.what and "image-7" in caught.value.where


# ---------------------------------------------------------------- what may be handed over


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": nn.CrossEntropyLoss}, "pass an instance: loss=CrossEntropyLoss(...)"),
        ({"loss": 3}, "loss=3 is not a function"),
        ({"loss": nn.Linear(3, 3)}, "its own parameters"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1)},
            "a function that makes it",
        ),
        ({"augment": "flip"}, "augment(image, generator)"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Behaviour(**given).check()
    assert words in str(caught.value)


def test_a_rate_beside_an_optimizer_and_callbacks_that_are_no_list_are_refused() -> None:
    with pytest.raises(UsageError, match="write callbacks="):
        saccade.train(callbacks=print, dry_run=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sets its own rate"):
        Behaviour(optimizer=adamw).check(lr=0.1)


def test_an_optimizer_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mine cannot be made: TypeError: .*no_such"):
        own_optimizer.build(
            nn.Linear(2, 2), functools.partial(torch.optim.SGD, no_such=1), called="mine"
        )


def test_a_keyword_that_is_almost_one_of_python_is_guessed() -> None:
    for wrong, right in [("losses", "loss"), ("optimiser", "optimizer"), ("callback", "callbacks")]:
        with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
            saccade.train(**{wrong: print}, dry_run=True)


# ---------------------------------------------------------------- whole runs


def test_settings_that_a_function_sets_aside_are_named(tmp_path: Path) -> None:
    saccade.train(
        "digits",
        loss=functools.partial(F.cross_entropy, label_smoothing=0.1),
        optimizer=adamw,
        out=tmp_path / "run",
        loss__class_weights="balanced",
        set=["optimizer.weight_decay=0.1", "optimizer.clip=1.0", "finetune.head_lr=9"],
        **SHORT | {"epochs": "1step"},
    )
    facts = read_json(tmp_path / "run" / "run.json")
    (told,) = [f["message"] for f in facts["findings"] if f["id"] == "not-applied"]
    assert told.startswith(
        "optimizer.weight_decay, loss.class_weights, finetune.head_lr: no effect"
    )
    assert told.endswith("no effect together with your own optimizer= and loss=")
    assert facts["handed_over"] == {"loss": "cross_entropy", "optimizer": "adamw"}


def test_whoever_listens_hears_of_the_end_whatever_ends_the_run(tmp_path: Path) -> None:
    ends: list[saccade.RunEnded] = []

    def listen(event: object) -> None:
        if isinstance(event, saccade.RunEnded):
            ends.append(event)
        if isinstance(event, saccade.StepDone) and event.step == 2:
            raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt):
        saccade.train("digits", callbacks=[listen], out=tmp_path / "run", **SHORT)
    (end,) = ends
    assert (end.status, end.step, end.message) == ("failed", 2, "KeyboardInterrupt: now")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]


def test_a_callback_cannot_bend_the_run_by_the_switches_of_torch(tmp_path: Path) -> None:
    def switching(event: object) -> None:
        torch.set_num_threads(1 + torch.get_num_threads())
        torch.set_grad_enabled(False)

    threads = torch.get_num_threads()
    seen: list[int] = []
    saccade.train(
        "digits",
        callbacks=[switching, lambda event: seen.append(torch.get_num_threads())],
        out=tmp_path / "run",
        **SHORT | {"epochs": "2step"},
    )
    assert len(set(seen)) == 1 and torch.is_grad_enabled()
    assert torch.get_num_threads() == threads


def test_all_of_it_resumes_bit_for_bit_and_a_broken_callback_ends_nothing(tmp_path: Path) -> None:
    def broken(event: object) -> None:
        raise KeyError("of mine")

    proof = saccade.verify_resume(
        "digits",
        kills=1,
        steps=6,
        quiet=True,
        loss=focal,
        optimizer=adamw,
        augment=speckle,
        callbacks=[broken],
        model="lenet5",
        batch_size=32,
        ema__half_life="3step",
        augment__mixup=0.4,
    )
    assert proof["identical"] and len(proof["resumed_at"]) == 1


@pytest.mark.full
def test_control_an_augmentation_that_draws_from_elsewhere_is_seen() -> None:
    def careless(image: Image, _: np.random.Generator) -> Image:
        return image if np.random.random() < 0.5 else image[::-1]  # noqa: NPY002

    with pytest.raises(CheckpointError, match="differs from the uninterrupted one"):
        saccade.verify_resume(
            "digits", kills=1, steps=4, quiet=True, augment=careless, model="lenet5", batch_size=32
        )


def test_a_callback_stops_a_run_and_the_same_call_goes_on(tmp_path: Path) -> None:
    heard: list[object] = []

    def stop(event: object) -> None:
        heard.append(event)
        if isinstance(event, saccade.StepDone) and event.step == 2:
            raise saccade.StopTraining("seen enough")

    def train(**changed: Any) -> Any:
        given = {"loss": focal, "augment": speckle} | changed
        return saccade.train("digits", callbacks=[stop], out=tmp_path / "run", **SHORT, **given)

    with pytest.raises(saccade.StopTraining, match="stop asked to stop: seen enough; the run is"):
        train()
    assert [type(event).__name__ for event in heard] == [
        "RunStarted",
        "StepDone",
        "StepDone",
        "CheckpointSaved",
        "RunEnded",
    ]
    facts = read_json(tmp_path / "run" / "run.json")
    assert facts["status"] == "preempted"
    assert facts["handed_over"] == {"loss": "focal", "augment": "speckle"}

    for changed, words in [
        ({"loss": F.cross_entropy}, "another loss function"),
        ({"augment": None}, "another augmentation"),
        ({"optimizer": adamw}, "another optimizer"),
    ]:
        with pytest.raises(ConfigError) as caught:
            train(**changed)
        assert words in caught.value.what and "network" not in caught.value.what

    heard.clear()
    assert train().result["step"] == 4
    started = heard[0]
    assert isinstance(started, saccade.RunStarted) and (started.step, started.attempt) == (2, 2)
    assert [e.status for e in heard if isinstance(e, saccade.RunEnded)] == ["done"]


def test_an_optimizer_that_remembers_in_an_attribute_is_refused(tmp_path: Path) -> None:
    class Forgetful(torch.optim.SGD):
        count = 0

        def step(self, closure: Any = None) -> None:
            self.count += 1
            for group in self.param_groups:
                group["lr"] = group["lr"] / self.count
            super().step()

    with pytest.raises(SaccadeError, match="a different step after saving and restoring"):
        saccade.train(
            "digits",
            optimizer=lambda parameters: Forgetful(parameters, lr=0.1),
            out=tmp_path / "run",
            **SHORT,
        )


def test_an_optimizer_that_needs_more_than_gradients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the optimizer LBFGS fails: TypeError"):
        saccade.train("digits", optimizer=torch.optim.LBFGS, out=tmp_path / "run", **SHORT)
