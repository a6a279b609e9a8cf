"""The application that all verbs register with: results on stdout, errors as messages and exit
statuses.

A verb is a function in a file of its own, registered by ``@app.command(...)`` and imported by
``main``. What is slow to import is imported inside the function, so that help is instant.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
import typer.core

from saccade._version import __version__
from saccade.cli import foreign_options
from saccade.errors import (
    ConfigError,
    DiskError,
    Explained,
    InterruptedRunError,
    StoppedEarlyError,
    UsageError,
)
from saccade.printable import plain, printable, to_json
from saccade.system import signals
from saccade.system.streams import UnheardError


class Verb(typer.core.TyperCommand):
    """A verb that explains options of other trainers: it says what to write instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the arguments; raises UsageError for options of other trainers."""
        if not ctx.resilient_parsing and not ctx.ignore_unknown_options:
            own = {
                spelling: not getattr(parameter, "is_flag", False)
                for parameter in self.get_params(ctx)
                if parameter.param_type_name == "option"
                for spelling in (*parameter.opts, *parameter.secondary_opts)
            }
            told = foreign_options.answer(str(self.name), args, own)
            if told:
                raise told
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = plain(error.message)
            raise


class _Application(typer.Typer):
    """The application whose commands are verbs."""

    def command(self, *names: Any, **settings: Any) -> Callable[..., Any]:
        """Register a verb, as Typer does."""
        return super().command(*names, **({"cls": Verb} | settings))


app = _Application(
    help=(
        "Train image classifiers: your images in; a trained, evaluated, exactly resumable model "
        "out."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        show(f"saccade {__version__}")
        raise typer.Exit


@app.callback()
def _all_verbs(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


_REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
)

CONTINUES = "finished work is kept; the same command continues from there"
"""What a verb answers to a signal that it may be killed by and run again after."""


@contextlib.contextmanager
def explained(json_out: bool, again: str = "") -> Iterator[None]:
    """Turn an explained error into a message on stderr (and JSON on stdout) and its exit status.

    ``again`` says what the same command does next time if a signal ends it early.
    """
    try:
        with _signal_heeded():
            yield
    except Explained as error:
        if again and isinstance(error, (StoppedEarlyError, InterruptedRunError)):
            error.fix = again
        raise typer.Exit(tell(error, json_out)) from error
    except KeyboardInterrupt as error:  # not by our own hand
        raise typer.Exit(tell(signals.early(signal.SIGINT), json_out)) from error
    except UnheardError as error:
        raise typer.Exit(unheard(error)) from error
    except OSError as error:
        told = _of_system(error) or _of_memory(error)
        if told is None:
            raise
        raise typer.Exit(tell(told, json_out)) from error
    except (ImportError, MemoryError) as error:
        told = _of_memory(error)
        if told is None:
            raise
        raise typer.Exit(tell(told, json_out)) from error


@contextlib.contextmanager
def _signal_heeded() -> Iterator[None]:
    """Report an earlier signal as the cause of a later failure.

    C code can swallow the exception of a signal handler. torch does so while it imports NumPy,
    which is then only half imported.
    """
    try:
        yield
    except Exception as error:
        if wish := signals.SIGNALS.swallowed():
            raise wish from error
        raise


def _of_system(error: OSError) -> Explained | None:
    """Return the message if the system refused a file (permissions, space, limits).

    None for any other error, which is a bug.
    """
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(
            "this file name is too long for the file system", where=where, fix="use a shorter name"
        )
    if error.errno in _REFUSALS:
        fix = "check the disk, the permissions of the file and the limits of the system (ulimit -a)"
        return DiskError(
            f"the operating system reported: {os.strerror(error.errno)}", where=where, fix=fix
        )
    return None


def _of_memory(error: Exception) -> Explained | None:
    """Return the message if there is too little memory to load a library.

    None for any other error.
    """
    short = any(words in str(error) for words in ("failed to map segment", "annot allocate memory"))
    if not short and not isinstance(error, MemoryError):
        return None
    fix = (
        "raise the memory limit (ulimit -v, or the limit of the container or job), or use "
        "smaller settings"
    )
    return ConfigError("there is not enough memory", where=str(error).partition(":")[0], fix=fix)


def tell(error: Explained, json_out: bool = False) -> int:
    """Print the error, unless another process has printed it, and return the exit status."""
    if error.told:
        return error.status
    if json_out:
        # the status still tells what happened where nobody reads the answer
        with contextlib.suppress(OSError, UnheardError):
            print_json(
                {
                    "error": {
                        "status": error.status,
                        "finding": error.finding,
                        "what": error.what,
                        "where": error.where,
                        "do": error.fix,
                    }
                }
            )
    complain(str(error), "red" if error.status not in (75, 130) else "yellow")
    # an error may pass several places that would tell it
    error.told = True
    return error.status


def require_arguments_of(verb: str, arguments: list[str]) -> None:
    """Raise the error that ``saccade VERB`` would raise for arguments that are passed on to it."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    # a copy: it takes the arguments out of the list
    command.make_context(verb, list(arguments))


def complain(text: str, colour: str | None = None) -> None:
    """Print a line for people on stderr, if it can be written."""
    with contextlib.suppress(OSError, ValueError):
        typer.secho(printable(text), err=True, fg=colour)


def unheard(error: UnheardError) -> int:
    """Return the exit status of a command whose output cannot be written.

    0 where its reader closed the pipe, as ``head`` does.
    """
    if error.errno == errno.EPIPE:
        return 0
    complain(f"the result cannot be written to standard output: {error.reason}", "red")
    return DiskError.status


def show(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print a result for people on stdout, without control characters.

    Raises OSError where the stream cannot be written.
    """
    typer.echo(printable(text), nl=nl, err=err)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    typer.echo(to_json(value))
