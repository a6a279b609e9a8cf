"""The batch and its cells: a default batch for a tiny set, and a check for cells that are too small
for batch norm.
"""

from __future__ import annotations

import functools

from torch import nn

from saccade.config.cells import LEAST_CELL, nearest_batches
from saccade.config.schema import Config
from saccade.findings import Finding
from saccade.models import meta_model
from saccade.models.parts.duplicate import duplicate
from saccade.models.parts.running_statistics import has_batch_statistics
from saccade.units import human_count


def needs_batches(config: Config, module: nn.Module | None) -> bool:
    """Tell whether the network, registered or the user's own, has norms over the images of a
    cell."""
    if module is None:
        return _named_needs_batches(
            config.model.name, config.data.image_size, tuple(config.shape.items())
        )
    try:
        # some keep their norms in evaluation
        return has_batch_statistics(duplicate(module).train())
    except Exception:  # any code may run here; the preflight says what is wrong with it
        return has_batch_statistics(module)


@functools.lru_cache(maxsize=8)
def _named_needs_batches(name: str, side: int, shape: tuple[tuple[str, object], ...]) -> bool:
    given: dict[str, object] = dict(shape)
    network = meta_model(name, num_classes=2, image_size=side, **given)  # type: ignore[arg-type]
    return has_batch_statistics(network.train())


def shrink_batch(
    config: Config, num_train: int, explicit: bool, module: nn.Module | None = None
) -> tuple[Config, str]:
    """Fit a default batch to a tiny set, and return a sentence about it.

    It is at most a quarter of the set, but 16 images (or all) if the network has norms over them,
    and two if they are mixed. A batch that the user has set is never changed; preflight refuses it
    if it is too large.
    """
    quarter = max(num_train // 4, 1)
    if explicit or config.batch.global_ <= quarter:
        return config, ""

    # mixing needs a partner in the batch
    repeats = config.augment.repeats
    least = 2 * repeats if config.augment.mixes else 1
    why = f"at most a quarter of {num_train} training images"
    if _rounded(quarter, repeats) < LEAST_CELL and needs_batches(config, module):
        least = LEAST_CELL
        why = (
            f"the set has only {num_train} training images; batch norm needs batches of at least "
            f"{LEAST_CELL}, or of the whole set"
        )

    # between what a norm or mixing needs and what the set has
    size = max(
        _rounded(quarter, repeats), min(_rounded_up(least, repeats), _rounded(num_train, repeats))
    )
    if size >= config.batch.global_:
        return config, ""
    # the cell belonged to the batch of before: it is chosen anew
    batch = config.batch.model_copy(update={"global_": size, "cell": 0})
    said = f"global batch {config.batch.global_} -> {size}: {why}"
    return config.model_copy(update={"batch": batch}), said


def _rounded(count: int, repeats: int) -> int:
    """Return the largest power of two, times the repeats, that is no more than ``count``.

    At least one group.
    """
    return int(repeats * 2 ** (max(count // repeats, 1).bit_length() - 1))


def _rounded_up(count: int, repeats: int) -> int:
    below = _rounded(count, repeats)
    return below if below >= count else 2 * below


def inspect(config: Config, num_train: int, shrunk: str, module: nn.Module | None) -> list[Finding]:
    """Check the batch against the data set, and its cells against the network."""
    wanted = config.batch.global_
    if wanted > num_train:
        fitting = 2 ** max((num_train // 4).bit_length() - 1, 0)
        return [
            Finding(
                "batch-larger-than-data",
                "error",
                f"the batch of {wanted:,} is larger than the {num_train:,} training images",
                where="batch.global",
                fix=(
                    f"use --batch-size {fitting}, or remove it: the batch is then chosen "
                    "automatically"
                ),
                status=78,
            )
        ]
    said = [Finding("batch-shrunk", "note", shrunk, "batch.global")] if shrunk else []
    return said + _too_small(config, module)


def _too_small(config: Config, module: nn.Module | None) -> list[Finding]:
    """Refuse small cells that nobody requested if norms compute their statistics over them."""
    cell, batch = config.cell, config.batch.global_
    if cell >= LEAST_CELL or not needs_batches(config, module):
        return []

    images = human_count(cell, "image")
    # the user asked for it, so a warning is enough
    if config.batch.cell or 1 < cell == batch:
        text = (
            f"BatchNorm and similar layers compute their statistics over {images}, which makes "
            "them noisy"
        )
        return [
            Finding(
                "small-cells",
                "warning",
                text,
                where="batch.cell",
                fix=f"use {LEAST_CELL} images or more",
            )
        ]

    # nobody asked for such a cell: it is what divides the batch
    good = nearest_batches(batch, config.augment.repeats)
    text = (
        f"a batch of {batch:,} can only be split into {batch // cell:,} cells (micro-batches) of "
        f"{images}: "
    )
    text += "too few for the statistics of BatchNorm and similar layers"
    fix = f"use --batch-size {' or '.join(map(str, good))}, or set batch.cell yourself"
    return [Finding("small-cells", "error", text, where="batch.global", fix=fix, status=78)]
