"""Ending a run that has stopped getting better, known as early stopping.

*Source:* Goodfellow et al. 2016, "Deep Learning", algorithm 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from saccade.objectives.evaluation import Evaluation, best_of


def is_exhausted(evaluations: Sequence[Evaluation], patience: int) -> bool:
    """Tell whether the last ``patience`` evaluations, oldest first, were no better than one before.

    Nothing is remembered but the evaluations, which every checkpoint holds, so a resumed run counts
    on.
    Without a patience, 0, it never is.
    """
    # counted from the list and not in a counter: a counter could disagree with it after a resume
    best = best_of(evaluations)
    if not patience or best is None:
        return False
    return sum(e.step > best.step for e in evaluations) >= patience
