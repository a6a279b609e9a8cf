"""A collapsed representation is seen, and one that learns is left alone: figures of real runs."""

from __future__ import annotations

import pytest

from saccade.evaluation import collapse
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.pretraining import Pretraining

NAMES = ("loss", "knn", "rank", "projector_rank", "projector_spread", "projector_variance")
START = (4.05, 0.767, 30.5, 16.3, 0.226, 0.385)

# resnet8_x2 on the digits, AdamW 1e-3, batch 64, looked at every ten steps; the first look comes
# before the running statistics of BatchNorm have settled
LEARNING = [
    (4.03, 0.731, 11.9, 9.41, 0.181, 0.0229),
    (3.79, 0.728, 18.2, 16.6, 0.364, 0.132),
    (3.44, 0.769, 25.4, 23.3, 0.593, 0.426),
    (2.98, 0.767, 29.3, 26.0, 0.744, 0.844),
    (2.62, 0.783, 30.6, 27.0, 0.849, 1.25),
]
# the same with the distance of two views of an image as its only loss
COLLAPSING = [
    (0.00729, 0.731, 11.2, 7.36, 0.116, 0.0103),
    (0.0178, 0.722, 15.6, 9.61, 0.141, 0.0242),
    (0.0150, 0.739, 19.8, 9.62, 0.134, 0.0207),
    (0.0103, 0.750, 21.4, 8.80, 0.123, 0.0174),
    (0.00812, 0.719, 20.9, 8.63, 0.119, 0.0144),
]

# the distance alone again, behind a BatchNorm, resnet8_x2 on the digits: looked at every 25 steps
NARROWING_START = (1.445, 0.637, 28.9, 48.4, 0.938, 67.1)
NARROWING = [
    (0.049, 0.588, 17.7, 19.5, 0.395, 2.76),
    (0.489, 0.637, 26.1, 26.1, 0.861, 55.4),
    (0.329, 0.562, 25.6, 16.3, 0.932, 87.5),
    (0.155, 0.562, 25.5, 14.0, 0.959, 62.9),
    (0.100, 0.562, 25.3, 11.8, 0.961, 56.9),
    (0.085, 0.575, 24.8, 10.2, 0.961, 55.3),
]
# the recipe simclr on photographs, every 111 steps: it ended at 66 % with ten labels a class
PHOTOGRAPHS_START = (6.497, 0.383, 317.9, 103.5, 0.924, 73.8)
PHOTOGRAPHS = [
    (4.691, 0.443, 107.4, 22.2, 0.724, 352.8),
    (3.882, 0.540, 93.7, 29.0, 0.884, 167.6),
    (4.185, 0.507, 75.9, 25.1, 0.751, 171.5),
    (3.749, 0.530, 89.8, 30.1, 0.829, 151.0),
]

# DINO of airbench_photo_s at 40 px, every 74 steps: few directions, and kNN rises all the same
DINO_START = (8.228, 0.360, 320.6, 195.3, 0.864, 24.55)
DINO = [
    (8.231, 0.350, 290.6, 135.1, 0.790, 57.7),
    (8.101, 0.417, 243.3, 61.1, 0.801, 223.5),
    (7.535, 0.433, 203.4, 35.1, 0.739, 324.6),
    (7.621, 0.413, 177.3, 25.6, 0.687, 354.0),
    (7.653, 0.413, 162.2, 22.5, 0.686, 390.8),
    (7.664, 0.437, 155.8, 21.6, 0.683, 401.9),
]

Row = tuple[float, ...]


def looks(rows: list[Row], every: int = 10, start: Row = START) -> list[Evaluation]:
    return [
        Evaluation(
            every * number,
            0.0,
            "val",
            1,
            figures=dict(zip(NAMES, row, strict=True)),
            primary=Pretraining.primary,
        )
        for number, row in enumerate([start, *rows])
    ]


def has_collapsed(seen: list[Evaluation]) -> str:
    """As of SimCLR, whose projector ends in a BatchNorm."""
    return collapse.has_collapsed(seen, normed=True)


def doubts(seen: list[Evaluation], *, joins: bool, progress: float, queries: int = 0) -> set[str]:
    return set(collapse.doubts(seen, joins=joins, normed=True, progress=progress, queries=queries))


def test_a_run_whose_views_are_only_drawn_together_has_collapsed() -> None:
    said = has_collapsed(looks(COLLAPSING))
    assert "spread 0.12" in said
    assert "0.23" in said


def test_neighbours_below_those_of_no_training_by_chance_are_no_doubt() -> None:
    for queries, doubted in ((20, False), (400, True)):
        found = doubts(looks(COLLAPSING[:2]), joins=True, progress=0.5, queries=queries)
        assert ("knn-below-untrained" in found) == doubted


@pytest.mark.parametrize("seen", range(1, len(LEARNING) + 1))
def test_a_run_that_learns_is_never_taken_for_a_collapsed_one(seen: int) -> None:
    assert not has_collapsed(looks(LEARNING[:seen]))
    assert not has_collapsed(looks(LEARNING[:seen], every=100))


def test_one_odd_look_or_one_that_comes_too_early_decides_nothing() -> None:
    assert not has_collapsed(looks([*LEARNING[:4], COLLAPSING[4]]))
    assert not has_collapsed(looks(COLLAPSING[:2]))
    assert has_collapsed(looks(COLLAPSING[:2], every=30))


def test_directions_that_become_alike_are_a_collapse_at_any_length() -> None:
    grown = [(0.0, 0.7, 20.0, 2.0, 0.02, 50.0)] * 2
    assert has_collapsed(looks([*LEARNING, *grown]))


def test_neighbours_that_are_worse_than_before_training_are_doubtful() -> None:
    assert "knn-below-untrained" in doubts(looks(COLLAPSING), joins=True, progress=0.5)
    assert "knn-below-untrained" not in doubts(looks(LEARNING), joins=True, progress=0.5)
    assert "knn-below-untrained" not in doubts(looks(LEARNING[:2]), joins=True, progress=0.1)


def test_ever_fewer_directions_are_a_collapse_though_a_norm_keeps_their_spread() -> None:
    assert not has_collapsed(looks(NARROWING[:5], 25, NARROWING_START))
    assert "span 10.2 directions" in has_collapsed(looks(NARROWING, 25, NARROWING_START))


def test_a_collapse_is_near_after_the_first_of_the_looks_that_decide() -> None:
    seen = looks(NARROWING[:5], 25, NARROWING_START)
    assert "collapse-near" in doubts(seen, joins=True, progress=0.5)
    assert "collapse-near" not in doubts(seen, joins=False, progress=0.5)
    assert "collapse-near" not in doubts(seen[:-1], joins=True, progress=0.5)


@pytest.mark.parametrize("seen", range(1, len(DINO) + 1))
def test_few_directions_are_no_collapse_where_no_norm_hides_the_spread(seen: int) -> None:
    so_far = looks(DINO[:seen], 74, DINO_START)
    assert not collapse.has_collapsed(so_far, normed=False)
    assert not collapse.doubts(so_far, joins=True, normed=False, progress=0.5)


def test_a_lost_spread_is_a_collapse_without_a_norm_too() -> None:
    assert collapse.has_collapsed(looks(COLLAPSING), normed=False)


@pytest.mark.parametrize("seen", range(1, len(PHOTOGRAPHS) + 1))
def test_a_run_on_photographs_that_began_with_few_directions_is_left_alone(seen: int) -> None:
    so_far = looks(PHOTOGRAPHS[:seen], 111, PHOTOGRAPHS_START)
    assert not has_collapsed(so_far)
    assert "collapse-near" not in doubts(so_far, joins=True, progress=0.5)


def test_a_run_whose_neighbours_end_as_untrained_says_so_at_its_end() -> None:
    ends = {False: [*LEARNING, (2.4, 0.86, 31.0, 27.0, 0.86, 1.3)], True: LEARNING}
    for is_alike, rows in ends.items():
        for progress in (0.9, 1.0):
            found = doubts(looks(rows), joins=True, progress=progress, queries=300)
            assert ("knn-like-untrained" in found) == (is_alike and progress == 1)
    # features of masked images are poor before fine-tuning, and without labels there are none
    assert not doubts(looks(LEARNING), joins=False, progress=1.0, queries=300)
    assert not doubts(looks(LEARNING), joins=True, progress=1.0)


@pytest.mark.parametrize(("progress", "is_doubtful"), [(0.4, False), (0.5, True)])
def test_a_loss_of_views_like_that_of_a_constant_answer_has_learned_nothing(
    progress: float, is_doubtful: bool
) -> None:
    # DINO of resnet8_x2 on the digits with a teacher as hot as 0.5: ln(512) is 6.238
    seen = looks([(6.24, 0.637, 20.0, 20.0, 0.52, 1.0)])
    seen[-1] = Evaluation(
        10, 0.0, "val", 1, figures={**seen[-1].figures, "constant": 6.238}, primary=seen[-1].primary
    )
    found = collapse.doubts(seen, joins=True, normed=False, progress=progress)
    assert ("learns-nothing" in found) is is_doubtful


@pytest.mark.parametrize(
    ("loss", "progress", "is_doubtful"),
    [(0.985, 0.5, True), (0.97, 0.5, False), (0.999, 0.05, False)],
)
def test_a_loss_like_that_of_a_constant_answer_has_learned_nothing(
    loss: float, progress: float, is_doubtful: bool
) -> None:
    seen = looks([(loss, 0.8, 20.0, 20.0, 0.5, 1.0)])
    seen[-1] = Evaluation(
        10,
        0.0,
        "val",
        1,
        figures={**seen[-1].figures, "constant": 1.0},
        primary=Pretraining.primary,
    )
    assert ("learns-nothing" in doubts(seen, joins=False, progress=progress)) is is_doubtful
