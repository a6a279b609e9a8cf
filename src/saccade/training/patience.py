"""Early stopping: ending a run that no longer improves.

*Source:* Goodfellow et al. 2016, "Deep Learning", algorithm 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from saccade.objectives.evaluation import Evaluation, best_of


def is_exhausted(evaluations: Sequence[Evaluation], patience: int) -> bool:
    """Tell whether the last ``patience`` evaluations, oldest first, brought no improvement.

    Only the evaluations are used, which every checkpoint has, so a resumed run continues to count.
    A patience of 0 means never.
    """
    # counted from the list and not in a counter: a counter could disagree with it after a resume
    best = best_of(evaluations)
    if not patience or best is None:
        return False
    return sum(e.step > best.step for e in evaluations) >= patience
