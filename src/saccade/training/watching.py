"""Monitoring an encoder without labels: one line per check, and the reasons to end the run."""

from __future__ import annotations

import time

from saccade.errors import DivergedError
from saccade.evaluation import collapse
from saccade.evaluation.representation import fit_norms
from saccade.findings import Finding
from saccade.log import Log
from saccade.models.parts.duplicate import duplicate
from saccade.objectives.evaluation import Evaluation
from saccade.objectives.pretraining import Pretraining, phrases
from saccade.training import judging, saving
from saccade.training.meter import Meter
from saccade.training.picturing import picture
from saccade.training.run import Run
from saccade.training.stop import Stop


def look_before(run: Run, stop: Stop, log: Log) -> float:
    """Record the figures of the untrained network, and report the cost of a check.

    Only for runs without labels; all ranks take part. Returns the seconds of a check, 0 for other
    runs.
    """
    plan = run.plan
    if plan.objective.answers:
        return 0.0
    sample = plan.looked_at
    with log.progress("checking the untrained network", len(sample.bank)) as bar:

        def poll(done: int) -> None:
            bar.update(done, "features, loss")
            stop.check()

        # a copy: the statistics of its norms are fitted, as training will do in its first steps
        model = duplicate(run.state.final_model)
        fit_norms(model, plan.data.train, run.means(), poll)
        begun = time.perf_counter()
        figures = judging.look(run, model, poll).to_json()
        taken_s = time.perf_counter() - begun
    run.history.untrained.update(figures)

    asked = "no kNN (no labels)"
    if sample.has_labels:
        asked = f"kNN of {len(sample.queries):,} images among {len(sample.bank):,}"
    count = plan.config.pretrain.evaluations
    log.fact("looks", f"{count} checks in the run, about {taken_s:.1f} s each: loss, rank, {asked}")
    log.fact("untrained", ", ".join(phrases(figures)))
    return taken_s


def after_look(run: Run, meter: Meter, log: Log) -> None:
    """Print the result of the check at this step, if there was one.

    Raises DivergedError where the representation has collapsed; the run is saved before.
    """
    plan, state, objective = run.plan, run.state, run.plan.objective
    if not isinstance(objective, Pretraining):
        return
    if not state.evaluations or state.evaluations[-1].step != state.step:
        return
    before = run.history.untrained
    first = Evaluation(0, 0.0, "", 1, figures=before, primary=objective.primary)
    looks = [*([first] if before else []), *state.evaluations]
    shown = "  ".join(objective.shown(looks[-1].figures))
    log.say(f"  epoch {plan.epochs_done(state.step):.2f}  {shown}")
    picture(run, log)

    normed = objective.normed
    reason = collapse.has_collapsed(looks, normed=normed) if objective.joins else ""
    doubts = collapse.doubts(
        looks,
        joins=objective.joins,
        normed=normed,
        progress=state.step / plan.total_steps,
        queries=len(plan.looked_at.queries),
    )
    if reason and plan.config.pretrain.collapse == "stop":
        saving.save(run, meter, log)
        raise DivergedError(
            f"the representation has collapsed: {reason}; a falling loss means nothing then",
            where=f"step {state.step}",
            fix="start a new run with a lower rate (--lr), a longer warm-up (--set "
            f"schedule.warmup=20%) or larger cells ({_larger_cells(plan.config.cell)}); "
            "--set pretrain.collapse=warn continues this run",
            finding="collapse",
        )
    if reason:
        doubts["collapse"] = f"the representation has collapsed: {reason}"

    # once each: a warning at every look is read by nobody
    told = {str(finding["id"]) for finding in run.history.findings}
    for name, text in doubts.items():
        if name not in told:
            finding = Finding(name, "warning", text, where=f"step {state.step}")
            run.history.findings.append(finding.to_json())
            log.warn(f"[{name}] {text}")


def _larger_cells(cell: int) -> str:
    return f"--batch-size {2 * cell} --set batch.cell={2 * cell}"
