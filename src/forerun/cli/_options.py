"""Options that commands share, in the field's words.

Options of the output are the same everywhere.  Options of the case are made from
`spec.settings`: a command decorated with `case_options` receives them as one `Given`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from forerun.spec.settings import SETTING_BY_NAME, SETTINGS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Output:
    """How an answer is to be written."""

    form: str  # "table", "json", "jsonl", "csv"
    quiet: bool
    progress: bool
    to: str | None  # a file; standard output when None

    def note(self, text: str) -> None:
        """A remark for a human, on stderr."""
        if not self.quiet:
            click.echo(text, err=True)


@dataclass(frozen=True)
class Given:
    """What the command line says about the case."""

    source: str | None  # a case file, "-", or None
    flags: dict[str, str]
    overrides: tuple[str, ...]
    explain: bool
    skip_bad: bool
    fresh: bool  # a model was named: the project file is not looked at


def output_options(*, csv: bool = True) -> Decorator:
    """--json, --jsonl, --csv, -o, --quiet, --no-progress; the command gets `out: Output`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kw: Any) -> Any:
            forms = [f for f in ("json", "jsonl", "csv") if kw.pop(f"as_{f}", False)]
            if len(forms) > 1:
                raise click.UsageError(f"--{forms[0]} and --{forms[1]} exclude each other")
            progress = not kw.pop("no_progress")
            form = forms[0] if forms else "table"
            kw["out"] = Output(form, kw.pop("quiet"), progress, kw.pop("to"))
            return function(*args, **kw)

        options = [
            click.option("--json", "as_json", is_flag=True, help="One JSON object, versioned."),
            click.option("--jsonl", "as_jsonl", is_flag=True, help="One JSON object a row."),
        ]
        if csv:
            options.append(click.option("--csv", "as_csv", is_flag=True, help="The table as CSV."))
        options += [
            click.option("-o", "--output", "to", metavar="FILE", help="Write there, not stdout."),
            click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks."),
            click.option(
                "--no-progress", is_flag=True, envvar="FORERUN_NO_PROGRESS", help="No progress bar."
            ),
        ]
        return _apply(options, wrapped)

    return decorate


def case_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """[CASE | MODEL] and every setting of a case; the command gets `given: Given`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kw: Any) -> Any:
        flags = {}
        for setting in SETTINGS:
            value = kw.pop(f"set_{setting.name.replace('-', '_')}")
            if value is not None:
                flags[setting.name] = value
        what = kw.pop("what")
        source = what if what and is_case_file(what) else None
        fresh = bool(what) and source is None
        if fresh:
            if "model" in flags:
                raise click.UsageError(f"the model is given twice: {what} and --model")
            flags["model"] = what
        kw["given"] = Given(
            source, flags, kw.pop("overrides"), kw.pop("explain"), kw.pop("skip_bad"), fresh
        )
        return function(*args, **kw)

    options = [click.argument("what", metavar="[CASE|MODEL]", required=False)]
    for s in SETTINGS:
        names = [f"--{s.name}", *(f"--{alias}" for alias in s.aliases)]
        text = f"{s.help}"
        options.append(
            click.option(
                *names,
                f"set_{s.name.replace('-', '_')}",
                metavar=s.example,
                default=None,
                help=text,
            )
        )
    options += [
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE",
            help="Any value of the case: --set fleet.h100-sxm.count=4",
        ),
        click.option("--explain", is_flag=True, help="Say on stderr where each value is from."),
        click.option("--skip-bad", is_flag=True, help="Count bad rows of a trace, do not stop."),
    ]  # fmt: skip
    return _apply(options, wrapped)


def is_case_file(text: str) -> bool:
    """Whether a positional argument names a case rather than a model."""
    return text == "-" or Path(text).suffix.lower() in (".yaml", ".yml")


def _apply(options: list, function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


__all__ = ["SETTING_BY_NAME", "Given", "Output", "case_options", "is_case_file", "output_options"]
