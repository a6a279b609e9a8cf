"""``saccade pretrain``: an encoder that learns from images without labels."""

from __future__ import annotations

from functools import partial

from saccade.cli.app import app
from saccade.cli.options import Asked, Json, asking
from saccade.cli.train import DryRun, Out, Resume, ResumeChanged, start


@app.command(epilog="Example: saccade pretrain simclr --data photos/")
@partial(asking, unseen=("freeze",))
def pretrain(
    asked: Asked,
    out: Out = "",
    resume: Resume = "auto",
    resume_changed: ResumeChanged = False,
    dry_run: DryRun = False,
    json_out: Json = False,
) -> None:
    """Pretrain an encoder on images without labels, as the start of a training (--init RUN).

    The first word is the method: simclr, dino, mae or simmim. Without it, the network decides.
    """
    start(
        lambda: asked.request(out, pretrains=True),
        resume,
        resume_changed,
        dry_run=dry_run,
        json_out=json_out,
    )
