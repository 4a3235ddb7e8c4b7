"""From what the command line says to a case."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Given, Output


def reading_of(given: Given, out: Output, **how: Any) -> Any:
    """The reading of the case; with --explain, where each value is from goes to stderr.

    Raises SpecError with all problems.
    """
    from forerun import api
    from forerun.cli._output import Table

    overrides = list(given.overrides)
    if given.skip_bad:
        overrides.append("traffic.skip_bad=true")
    found = api.read(given.source, overrides, flags=given.flags, project=not given.fresh, **how)
    if given.explain:
        click.echo(Table(("key", "value", "from"), found.explain()).text() + "\n", err=True)
    return found


def case_of(given: Given, out: Output) -> Any:
    """The case with a deployment: the one given, or the default one, which is said on stderr."""
    from forerun import api

    found = reading_of(given, out)
    if found.case.deployment is not None:
        return found.case
    chosen = api.default_deployment(found.case, found.wishes)
    out.note(f"no deployment was given: {api.words(chosen)}")
    return found.case.model_copy(update={"deployment": chosen})
