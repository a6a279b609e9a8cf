"""Features of a split: every image once, in order, and nothing of the network moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import saccade
from saccade.data.readers import Readers
from saccade.data.sources import train_split
from saccade.errors import DivergedError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.evaluator import evaluate
from saccade.evaluation.features import features_of, sample
from saccade.models import create_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> saccade.Split:
    return train_split(saccade.open_source("digits"))


@pytest.fixture(scope="module")
def classifier(digits: saccade.Split) -> Classifier:
    side = 16
    network = create_model("resnet8", num_classes=10, image_size=side)
    recipe = Recipe("resnet8", digits.classes, side, 1.0, (0.5,) * 3, (0.5,) * 3, "ignore")
    return Classifier(network.eval(), recipe)


@pytest.fixture
def readers() -> Readers:
    found = Readers(2)
    yield found
    found.close()


def test_the_head_turns_features_into_the_logits_of_an_evaluation(
    classifier: Classifier, digits: saccade.Split, readers: Readers
) -> None:
    few = digits.at(np.arange(0, 1000, 4))
    found = features_of(
        classifier.network, classifier.recipe, few, readers, precision="fp32", device=CPU
    )
    judged = evaluate(classifier, few, readers, "fp32", CPU)
    with torch.no_grad():
        logits = classifier.network.get_submodule("fc")(found.vectors)
    torch.testing.assert_close(logits, judged.logits)
    assert found.labels.tolist() == few.labels.tolist()


def test_a_sample_of_classes_with_a_single_image_each_is_not_empty() -> None:
    pixels = np.zeros((300, 4, 4, 3), np.uint8)
    names = [f"class {i}" for i in range(300)]
    data = {"train": (pixels, names), "val": (pixels, names)}
    split = train_split(saccade.open_source(data))
    drawn = sample(split, 100)
    assert len(drawn) == len(set(drawn.labels.tolist())) == 100
    assert drawn.classes == split.classes
    assert sample(split, 100).fingerprint == drawn.fingerprint


def test_modes_and_statistics_stay_as_they_were(
    classifier: Classifier, digits: saccade.Split, readers: Readers
) -> None:
    network = classifier.network
    network.train()
    resting = next(part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d))
    resting.eval()
    modes = [part.training for part in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    features_of(
        network, classifier.recipe, digits, readers, precision="fp32", device=CPU, limit=100
    )
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    network.eval()


def test_a_pass_that_is_stopped_leaves_the_network_in_its_mode(
    classifier: Classifier, digits: saccade.Split, readers: Readers
) -> None:
    network = classifier.network.train()

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    try:
        features_of(
            network, classifier.recipe, digits, readers, precision="fp32", device=CPU, poll=stop
        )
    except KeyboardInterrupt:
        # while the traceback still holds what was interrupted
        assert network.training
    network.eval()


def test_a_limit_draws_the_same_images_of_every_class(digits: saccade.Split) -> None:
    few = sample(digits, 100)
    assert abs(len(few) - 100) < 10
    assert set(few.labels.tolist()) == set(range(10))
    assert few.names == sample(digits, 100).names
    assert sample(digits, None) is digits and sample(digits, len(digits)) is digits


def test_features_that_are_no_numbers_are_refused(
    classifier: Classifier, digits: saccade.Split, readers: Readers
) -> None:
    broken = create_model("resnet8", num_classes=10, image_size=16)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="features contain NaN"):
        features_of(
            broken, classifier.recipe, digits, readers, precision="fp32", device=CPU, limit=20
        )
