"""What all verbs share: the application, JSON on stdout, and errors as messages and exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from saccade.errors import SaccadeError

app = typer.Typer(
    help="Train image classifiers from scratch: your images in; a trained, evaluated, exactly resumable model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@contextlib.contextmanager
def explained(json_out: bool) -> Iterator[None]:
    """Turn an explained error into a message on stderr (and JSON on stdout) and its exit status."""
    try:
        yield
    except SaccadeError as error:
        if error.told:
            raise typer.Exit(error.status) from error
        if json_out:
            print_json({"error": {"status": error.status, "finding": error.finding, "what": error.what,
                                   "where": error.where, "do": error.fix}})  # fmt: skip
        typer.secho(str(error), err=True, fg="red" if error.status not in (75, 130) else "yellow")
        raise typer.Exit(error.status) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))
