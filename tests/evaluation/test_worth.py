"""What weights are worth: beside an untrained network, and with which normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saccade
from saccade.data.readers import Readers
from saccade.data.sources import Split, train_split, validation_split
from saccade.evaluation import kept_features, probe, untrained, worth
from saccade.evaluation.classifier import Recipe
from saccade.evaluation.features import Features
from saccade.evaluation.worth import HALVES, IMAGENET
from saccade.models import create_model

CPU = torch.device("cpu")


@pytest.fixture
def readers() -> Iterator[Readers]:
    found = Readers(2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def sides() -> tuple[Split, Split]:
    source = saccade.open_source("digits")
    val = validation_split(source)
    assert val is not None
    return train_split(source).at(np.arange(0, 1400, 8)), val.at(np.arange(0, 350, 4))


def recipe_of(model: str, mean: tuple[float, ...] = HALVES[0]) -> Recipe:
    return Recipe(model, ("a", "b"), 16, 1.0, mean, HALVES[1], "ignore")


def test_an_untrained_network_gets_fitted_what_is_not_trained(
    sides: tuple[Split, Split], readers: Readers
) -> None:
    recipe = replace(recipe_of("airbench94"), image_size=32)
    first, drawn = untrained.networks(recipe, sides[0], readers, device=CPU)
    plain = create_model("airbench94", num_classes=10, image_size=32)
    assert not torch.equal(drawn.whiten.weight, plain.whiten.weight)
    assert torch.equal(drawn.fc.weight, plain.fc.weight)
    # the first one keeps its statistics as they start
    assert torch.equal(first.whiten.weight, drawn.whiten.weight)
    means = [part.running_mean for part in first.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not any(mean.any() for mean in means)

    # its norms normalise: what leaves one has about the deviation of its scale
    widths: list[float] = []
    norms = [part for part in drawn.modules() if isinstance(part, nn.BatchNorm2d)]
    norms[-1].register_forward_hook(lambda _m, _i, out: widths.append(float(out.std())))
    few = worth.sample(sides[0], 50)
    kept_features.features_once(drawn, recipe, few, readers, precision="fp32", device=CPU)
    assert 0.7 < widths[0] < 1.4 and not any(part.training for part in drawn.modules())
    assert all(norm.momentum is not None for norm in norms)


class Signs(nn.Module):
    """Sees only whether a normalised pixel is above or below nought."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return self.fc(torch.stack([level.relu(), (-level).relu()], 1) + 1e-6)


class Pixels(nn.Module):
    """Sees the pixels themselves, which tell the digits apart."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(x + 1, 8).flatten(1))


def test_good_features_help_and_poor_ones_do_not(
    sides: tuple[Split, Split], readers: Readers
) -> None:
    recipe = replace(recipe_of("custom:Pixels"), classes=sides[0].classes)
    how = {"precision": "fp32", "device": CPU}
    good, poor = Pixels().eval(), Signs().eval()
    done: list[int] = []
    found = worth.worth(good, [poor], recipe, sides, readers, poll=done.append, **how)
    assert found.frozen.best > 0.7 and found.untrained is not None
    assert found.untrained.best < 0.5 and found.helps is True
    assert done == sorted(done) and done[-1] == worth.total(recipe, sides, beside=1)
    assert len(found.features) == len(sides[0])

    # the control: poor features beside poor ones
    assert worth.worth(poor, [poor], recipe, sides, readers, **how).helps is False
    # the best of several is the floor
    assert worth.worth(good, [poor, good], recipe, sides, readers, **how).helps is False
    alone = worth.worth(poor, [], recipe, sides, readers, **how)
    assert alone.helps is None and alone.to_json()["untrained"] is None


@pytest.fixture
def grays(tmp_path: Path) -> tuple[Split, Split]:
    """Two classes of gray, a little below and a little above one half."""
    for split, count in (("train", 30), ("val", 30)):
        for name, level in (("dark", 125), ("light", 130)):
            folder = tmp_path / "grays" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16 + i, 16), (level,) * 3).save(folder / f"{i:02}.png")
    source = saccade.open_source(tmp_path / "grays")
    val = validation_split(source)
    assert val is not None
    return train_split(source), val


def test_another_normalisation_that_is_better_is_named_with_both_figures(
    grays: tuple[Split, Split], readers: Readers
) -> None:
    wrong = replace(recipe_of("custom:Signs"), mean=IMAGENET[0], std=IMAGENET[1])
    network = Signs().eval()
    found = worth.worth(network, [], wrong, grays, readers, precision="fp32", device=CPU)
    assert found.better == "0.5"
    assert found.pixels["0.5"] == 1 and found.pixels["as set"] < 0.6

    right = worth.worth(
        network, [], recipe_of("custom:Signs"), grays, readers, precision="fp32", device=CPU
    )
    assert right.better == "" and right.frozen.probe == 1


def test_a_better_figure_within_chance_is_no_reason() -> None:
    ours, theirs = torch.zeros(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    ours[:100], theirs[:105] = True, True
    assert worth._better({"as set": ours, "BGR": theirs}) == ""
    theirs[:120] = True
    assert worth._better({"as set": ours, "BGR": theirs}) == "BGR"


def test_a_frequent_class_does_not_hide_what_features_know_of_a_rare_one() -> None:
    """Judged by scikit-learn; 200 images of one class and 10 of the other, 60 of each judged."""
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.Generator(np.random.Philox(3))

    def drawn(*counts: int) -> Features:
        labels = torch.from_numpy(np.repeat(np.arange(2), counts))
        noise = torch.from_numpy(draw.normal(size=(len(labels), 40))).float()
        noise[:, 0] += 2.0 * labels
        return Features(noise, labels)

    learned, judged = drawn(200, 10), drawn(60, 60)
    head = probe.fit(learned, 2)
    found = worth.mean_recall(head, learned, judged)
    prior = np.log(np.array([200, 10]))
    answers = (head.logits(judged.vectors).double().numpy() - prior).argmax(1)
    assert found == pytest.approx(metrics.balanced_accuracy_score(judged.labels, answers))
    assert found > head.top1(judged) + 0.1

    score = worth.Score(0.5, 0.5)
    known = worth.Worth(
        score, score, learned=210, judged=120, probe=head, features=learned, pixels={}
    )
    assert known.helps is False
    assert replace(known, balanced=(0.888, 0.538)).helps is True
    assert worth.is_uneven(learned.labels, 2) and not worth.is_uneven(judged.labels, 2)


def test_features_are_computed_once_until_weights_images_or_pixels_change(
    grays: tuple[Split, Split], readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    compute = kept_features.features_of

    def counted(*arguments: object, **named: object) -> object:
        computed.append(1)
        return compute(*arguments, **named)

    monkeypatch.setattr(kept_features, "features_of", counted)
    network = create_model("resnet8", num_classes=2, image_size=16).eval()

    def look(recipe: Recipe, split: Split) -> tuple[Tensor, int]:
        found = kept_features.features_once(
            network, recipe, split, readers, precision="fp32", device=CPU
        )
        assert found.labels.tolist() == split.labels.tolist()
        return found.vectors, len(computed)

    # files of this very moment have no stamp: they may change again within a tick of the clock
    recipe, split = recipe_of("resnet8"), replace(grays[0], stamp="settled")
    assert look(recipe, replace(split, stamp=""))[1] == 1
    assert look(recipe, replace(split, stamp=""))[1] == 2
    computed.clear()

    first, count = look(recipe, split)
    again, same = look(recipe, split)
    assert torch.equal(first, again) and count == same == 1
    with torch.no_grad():
        network.fc.weight.add_(1)
    assert look(recipe, split)[1] == 1  # a head changes nothing about what it receives
    assert look(replace(recipe, mean=(0.4, 0.4, 0.4)), split)[1] == 2
    assert look(recipe, split.at(np.arange(9)))[1] == 3
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    assert look(recipe, split)[1] == 4
    # the code of an own network may have changed
    own = replace(recipe, model="custom:Mine")
    assert [look(own, split)[1], look(own, split)[1]] == [5, 6]


def test_only_so_many_features_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kept_features, "MOST_KEPT", 3)
    for i in range(6):
        kept_features._keep(tmp_path / f"{i}.safetensors", torch.zeros(2, 2))
    assert len(list(tmp_path.iterdir())) == 3
    assert kept_features._kept(tmp_path / "5.safetensors", 2) is not None
    (tmp_path / "5.safetensors").write_bytes(b"broken")
    assert kept_features._kept(tmp_path / "5.safetensors", 2) is None
