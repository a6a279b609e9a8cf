"""The words of a command: methods, recipes and models, in any order."""

from __future__ import annotations

import itertools

import pytest

from saccade.errors import ConfigError
from saccade.setup.compose import Request, dry_run, preview


@pytest.mark.parametrize("words", list(itertools.permutations(("simclr", "resnet18"))))
def test_a_model_beside_a_method_is_the_model(words: tuple[str, ...]) -> None:
    config = dry_run(Request(words, pretrains=True))
    assert (config.model.name, config.pretrain.method) == ("resnet18", "simclr")


@pytest.mark.parametrize("words", list(itertools.permutations(("photos-few", "resnet18"))))
def test_a_model_beside_a_recipe_is_the_model(words: tuple[str, ...]) -> None:
    config = dry_run(Request(words))
    assert (config.model.name, config.recipe) == ("resnet18", "photos-few")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("simclr", "mae"),
            "'simclr' is a method of pretraining, but the recipe 'mae' uses the method",
        ),
        (("simclr", "photos-few"), "the recipe 'photos-few' learns from labels"),
        (("mae", "dino-vit-s-100ep"), "the recipe 'dino-vit-s-100ep' uses the method dino"),
    ],
)
def test_a_method_beside_a_recipe_that_learns_otherwise_is_refused(
    words: tuple[str, ...], said: str
) -> None:
    for order in itertools.permutations(words):
        with pytest.raises(ConfigError, match=said if order == words else "learns|uses"):
            dry_run(Request(order, pretrains=True))


def test_the_patch_of_a_method_is_asked_only_of_networks_that_have_patches() -> None:
    for model, patch in (("timm:resnet10t", 0), ("resnet18", 0), ("vit_s_16", 8), ("swin_t", 8)):
        wanted = preview(Request(("dino",), {"model.name": model}, pretrains=True))
        assert wanted.model.patch_size == patch


@pytest.mark.parametrize(
    ("words", "side", "smallest_px"),
    [
        (("photos-few",), 64, 64),
        (("photos-few",), 96, 64),
        (("photos-few",), 192, 96),
        (("resnet50-16ep",), 128, 93),
    ],
)
def test_progressive_sizes_of_a_recipe_never_become_too_small_for_its_network(
    words: tuple[str, ...], side: int, smallest_px: int
) -> None:
    sizes = preview(Request(words, {"data.image_size": side})).augment.sizes
    assert round(min(sizes) * side) == smallest_px and max(sizes) <= 1
    own = (0.25, 1.0)
    asked = Request(words, {"data.image_size": side}, sets=("augment.sizes=[0.25, 1]",))
    assert preview(asked).augment.sizes == own, "sizes that were asked for stay"
