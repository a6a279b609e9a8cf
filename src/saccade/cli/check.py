"""``saccade check``: only the preflight of a training."""

from __future__ import annotations

import typer

from saccade.cli.app import app, explained, print_json
from saccade.cli.options import Asked, Json, asking
from saccade.system import startup


@app.command(epilog="Example: saccade check --data photos.zip --holdout 10%")
@asking
def check(asked: Asked, json_out: Json = False) -> None:
    """Find problems before training, and estimate how long training takes. Leaves no files."""
    begun = startup.begun()
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight import checks
        from saccade.setup.compose import compose

        request = asked.request()
        log = Log()
        findings = checks.check(compose(request), log, begun)
        if json_out:
            print_json({"findings": [finding.to_json() for finding in findings]})

        errors = [finding for finding in findings if finding.severity == "error"]
        if not errors:
            log.say("nothing found that stops the run")
            return
        one = len(errors) == 1
        log.say(f"{len(errors)} finding{' stops' if one else 's stop'} the run")
        raise typer.Exit(errors[0].status)
