"""What is printed, and what the process exits with, when a command does not end well."""

from __future__ import annotations

import os
import sys

import click

from forerun.errors import ForerunError

INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Prints the error for a human on stderr and returns the process's exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        # click ends the line that ^C began before it turns an interrupt into an Abort
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, ForerunError):
        for problem in error.problems:
            click.echo(str(problem), err=True)
        if len(error.problems) > 1:
            click.echo(f"{len(error.problems)} problems", err=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # the reader (head, less) has seen enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    click.echo(
        f"internal error: {type(error).__name__}: {error}\n"
        "  This is a mistake in Forerun, not in your input.  Please report it with the command,\n"
        "  its input and the trace that FORERUN_DEBUG=1 shows.",
        err=True,
    )
    return 1
